"""Single convs: a test whether a conv can be rewritten, and new convs made like old ones."""

from typing import Any

from torch import Tensor, nn


def is_plain(conv: nn.Module) -> bool:
    """True if the module computes what a Conv2d of torch.nn does; other subclasses cannot be rewritten."""
    return isinstance(conv, nn.Conv2d) and all(
        getattr(type(conv), name) is getattr(nn.Conv2d, name) for name in ("forward", "_conv_forward")
    )


def conv_like(
    like: nn.Conv2d, weight: Tensor, bias: Tensor | None, *, groups: int = 1, **geometry: Any
) -> nn.Conv2d:
    """A conv with these weights; everything else (stride, padding, device, dtype, mode, ...) is as in `like`.

    Args:
        weight: (C_out, C_in / groups, k, k).
        geometry: stride, padding, dilation or padding_mode, if they differ from those of `like`.
    """
    kept = {name: getattr(like, name) for name in ("stride", "padding", "dilation", "padding_mode")}
    c_out, c_in, *kernel = weight.shape
    # On "meta" nothing is initialised: the global random numbers stay as they are.
    sizes = {"groups": groups, "bias": bias is not None, "device": "meta"}
    conv = nn.Conv2d(c_in * groups, c_out, tuple(kernel), **sizes, **(kept | geometry))
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            tensor = tensor.detach().to(like.weight.device, like.weight.dtype, copy=True).contiguous()
            setattr(conv, name, nn.Parameter(tensor, requires_grad=like.weight.requires_grad))
    return conv.train(like.training)
