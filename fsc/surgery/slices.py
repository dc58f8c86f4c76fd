"""Exact edits of single modules: which channels stay. Every function changes the module it is given, in place."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Slices = Mapping[str, Mapping[str, Sequence[int]]]
"""Module name -> {"out": kept output channels, "in": kept input channels}; a missing side stays whole."""


def slice_modules(net: nn.Module, slices: Slices) -> None:
    """Keep only the named channels of the named modules of `net`.

    Args:
        net: the student; changed.
        slices: {"layer1.0.conv1": {"out": [0, 2, 3]}, "layer1.0.bn1": {"out": [0, 2, 3]}, ...}, ascending.
    """
    for name, sides in slices.items():
        sides = {side: torch.tensor(list(kept), dtype=torch.long) for side, kept in sides.items()}
        try:
            slice_channels(net.get_submodule(name), out=sides.get("out"), into=sides.get("in"))
        except ValueError as err:
            raise ValueError(f"{name}: {err}") from err


def slice_channels(module: nn.Module, *, out: Tensor | None = None, into: Tensor | None = None) -> None:
    """Keep the output channels `out` and the input channels `into` of one module.

    A grouped conv keeps its groups if each loses as many input and output channels as the others; a depthwise conv
    (one input channel a group) loses groups.

    Raises:
        TypeError: a module that has no channels to slice.
        ValueError: groups that would become unequal; names the counts.
    """
    if isinstance(module, nn.Conv2d):
        _slice_conv(module, out, into)
    elif isinstance(module, nn.Linear):
        if out is not None:
            _keep(module, ("weight", "bias"), 0, out)
        if into is not None:
            _keep(module, ("weight",), 1, into)
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        kept = out if out is not None else into
        _keep(module, ("weight", "bias", "running_mean", "running_var"), 0, kept)
        module.num_features = len(kept)
    else:
        kind = type(module).__name__
        raise TypeError(f"slice_channels: {kind} has no channels to slice; a Conv2d, Linear or BatchNorm has.")


def _slice_conv(conv: nn.Conv2d, out: Tensor | None, into: Tensor | None) -> None:
    out = torch.arange(conv.out_channels) if out is None else out
    into = torch.arange(conv.in_channels) if into is None else into
    c_in, c_out = conv.in_channels // conv.groups, conv.out_channels // conv.groups      # a group's
    if c_in == 1 and conv.groups > 1:
        groups = len(into)
        outs = torch.bincount(out // c_out, minlength=conv.groups)
        if not torch.equal(outs.nonzero()[:, 0], into) or len(outs[into].unique()) > 1:
            raise ValueError(
                f"slice_channels: each input of this depthwise conv makes {c_out} outputs of its own; asked to keep "
                f"{groups} inputs and {len(out)} outputs that are not theirs.\n  Keep exactly the kept inputs' outputs."
            )
        _keep(conv, ("weight", "bias"), 0, out)
    else:
        groups = conv.groups
        ins, outs = torch.bincount(into // c_in, minlength=groups), torch.bincount(out // c_out, minlength=groups)
        if len(ins.unique()) > 1 or len(outs.unique()) > 1:
            raise ValueError(
                f"slice_channels: a conv of {groups} groups must keep as many channels in each; asked for "
                f"{ins.tolist()} inputs and {outs.tolist()} outputs a group.\n  Choose the same number in every group."
            )
        _keep(conv, ("weight", "bias"), 0, out)
        if groups == 1:
            _keep(conv, ("weight",), 1, into)
        else:  # each output keeps the inputs of its own group
            of_group = (into % c_in).view(groups, -1)[out // c_out]                        # (C_out', kept a group)
            index = of_group[:, :, None, None].expand(-1, -1, *conv.weight.shape[2:]).to(conv.weight.device)
            conv.weight = _like(conv.weight, conv.weight.gather(1, index))
    conv.groups, conv.in_channels, conv.out_channels = groups, len(into), len(out)


def _keep(module: nn.Module, names: Sequence[str], axis: int, kept: Tensor) -> None:
    for name in names:
        tensor = getattr(module, name)
        if tensor is None:
            continue
        smaller = tensor.detach().index_select(axis, kept.to(tensor.device))
        setattr(module, name, _like(tensor, smaller) if isinstance(tensor, nn.Parameter) else smaller)


def _like(old: nn.Parameter, new: Tensor) -> nn.Parameter:
    return nn.Parameter(new.detach().clone(memory_format=torch.contiguous_format), requires_grad=old.requires_grad)
