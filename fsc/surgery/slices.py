"""Exact edits of single modules: keep some of their channels. The functions change the module in place."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fsc.graph.operations import is_depthwise

Slices = Mapping[str, Mapping[str, Sequence[int]]]
"""Module name -> {"out": kept output channels, "in": kept input channels}; a missing side stays whole."""


def slice_modules(net: nn.Module, slices: Slices) -> None:
    """Keep only the named channels, in ascending order, of the named modules of `net`."""
    for name, sides in slices.items():
        sides = {side: torch.tensor(list(kept), dtype=torch.long) for side, kept in sides.items()}
        try:
            slice_channels(net.get_submodule(name), out=sides.get("out"), into=sides.get("in"))
        except ValueError as err:
            raise ValueError(f"{name}: {err}") from err


def slice_channels(module: nn.Module, *, out: Tensor | None = None, into: Tensor | None = None) -> None:
    """Keep the output channels `out` and the input channels `into` of one module.

    A grouped conv keeps its groups; each group must lose as many channels as the others. A depthwise conv
    loses the groups of the input channels that go.
    """
    if isinstance(module, nn.Conv2d):
        out = torch.arange(module.out_channels) if out is None else out
        into = torch.arange(module.in_channels) if into is None else into
        _slice_conv(module, out, into)
    elif isinstance(module, nn.Linear):
        _keep(module, ("weight", "bias"), 0, out)
        _keep(module, ("weight",), 1, into)
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        kept = out if out is not None else into
        _keep(module, ("weight", "bias", "running_mean", "running_var"), 0, kept)
        module.num_features = len(kept)
    else:
        kind = type(module).__name__
        raise TypeError(f"{kind} has no channels to slice; a Conv2d, Linear or BatchNorm has.")


def _slice_conv(conv: nn.Conv2d, out: Tensor, into: Tensor) -> None:
    groups, c_out, c_in = conv.groups, conv.out_channels // conv.groups, conv.in_channels // conv.groups
    outs, ins = torch.bincount(out // c_out, minlength=groups), torch.bincount(into // c_in, minlength=groups)
    depthwise = is_depthwise(conv)
    if depthwise and (not torch.equal(outs.nonzero()[:, 0], into) or len(outs[into].unique()) > 1):
        found = f"asked to keep {len(into)} inputs and {len(out)} outputs that are not theirs"
        raise ValueError(f"each input of this depthwise conv makes {c_out} outputs of its own; {found}.")
    if not depthwise and (len(ins.unique()) > 1 or len(outs.unique()) > 1):
        found = f"asked for {ins.tolist()} inputs and {outs.tolist()} outputs per group"
        raise ValueError(f"a conv of {groups} groups must keep as many channels in each; {found}.")
    _keep(conv, ("weight", "bias"), 0, out)
    if depthwise:
        conv.groups = len(into)
    elif groups == 1:
        _keep(conv, ("weight",), 1, into)
    else:  # each output keeps the inputs of its own group
        kept = (into % c_in).view(groups, -1)[out // c_out]                # (C_out', kept inputs per group)
        index = kept[:, :, None, None].expand(-1, -1, *conv.weight.shape[2:]).to(conv.weight.device)
        conv.weight = _like(conv.weight, conv.weight.gather(1, index))
    conv.in_channels, conv.out_channels = len(into), len(out)


def _keep(module: nn.Module, names: Sequence[str], axis: int, kept: Tensor | None) -> None:
    for name in names:
        tensor = getattr(module, name)
        if tensor is not None and kept is not None:
            smaller = tensor.detach().index_select(axis, kept.to(tensor.device))
            setattr(module, name, _like(tensor, smaller) if isinstance(tensor, nn.Parameter) else smaller)


def _like(old: nn.Parameter, new: Tensor) -> nn.Parameter:
    new = new.detach().clone(memory_format=torch.contiguous_format)
    return nn.Parameter(new, requires_grad=old.requires_grad)
