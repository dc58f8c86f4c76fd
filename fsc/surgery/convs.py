"""Single convs: which can be rewritten, and new ones made like old ones."""

from typing import Any

from torch import Tensor, nn


def is_plain(conv: nn.Module) -> bool:
    """Whether it does what a Conv2d of torch.nn does: subclasses that compute otherwise cannot be rewritten."""
    return isinstance(conv, nn.Conv2d) and all(
        getattr(type(conv), name) is getattr(nn.Conv2d, name) for name in ("forward", "_conv_forward")
    )


def conv_like(like: nn.Conv2d, weight: Tensor, bias: Tensor | None, *, groups: int = 1, **geometry: Any) -> nn.Conv2d:
    """A conv of these weights; stride, padding, dilation, padding mode, device, dtype and mode are those of `like`.

    Args:
        weight: (C_out, C_in / groups, k, k).
        geometry: stride, padding or dilation, where they are others.
    """
    kept = {name: getattr(like, name) for name in ("stride", "padding", "dilation", "padding_mode")}
    c_out, c_in, *kernel = weight.shape
    # On "meta" nothing is initialised: the global random numbers stay as they are.
    conv = nn.Conv2d(
        c_in * groups, c_out, tuple(kernel), groups=groups, bias=bias is not None, device="meta", **(kept | geometry)
    )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            tensor = tensor.detach().to(like.weight.device, like.weight.dtype, copy=True).contiguous()
            setattr(conv, name, nn.Parameter(tensor, requires_grad=like.weight.requires_grad))
    return conv.train(like.training)
