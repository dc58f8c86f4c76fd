"""One conv as two thinner ones: the three ways to factorize a kernel, and what each of them costs.

All three use float64 on the CPU, so that a student is the same on whichever device its teacher lives. The
square root of the singular values goes to either conv, so that their weights are of the same size.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fsc.runtime import public
from fsc.surgery.convs import conv_like, is_plain


@public
def split_svd(conv: nn.Conv2d, rank: int) -> nn.Sequential:
    """`conv` as a k x k conv to `rank` channels, then a 1x1, which carries the bias.

    It takes the truncated SVD of the (C_out, C_in k k) matrix of weights: the nearest pair of this rank. At
    full rank, min(C_out, C_in k k), it is `conv` itself.

    Args:
        conv: C_in -> C_out, not grouped; left as it is.

    Raises:
        ValueError: a grouped conv, a rank outside 1 .. full rank, weights that are not finite.

    >>> split_svd(nn.Conv2d(16, 32, 3, padding=1), 8)
    Sequential(
      (0): Conv2d(16, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
      (1): Conv2d(8, 32, kernel_size=(1, 1), stride=(1, 1))
    )
    """
    weight = _checked_weight(conv, rank, "svd")                    # (C_out, C_in, k, k)
    left, right = _truncated_svd(weight.flatten(1), rank)              # (C_out, r), (r, C_in k k)
    first = conv_like(conv, right.unflatten(1, weight.shape[1:]), None)
    return nn.Sequential(first, _pointwise(conv, left)).train(conv.training)


@public
def split_spatial(conv: nn.Conv2d, rank: int) -> nn.Sequential:
    """`conv` as a k x 1 conv to `rank` channels, then a 1 x k.

    It takes the truncated SVD of the (C_in k, C_out k) matrix of vertical against horizontal weights, whose
    smaller side is the full rank. Each of the two convs has the stride, padding and dilation of its
    direction. Arguments and errors are those of `split_svd`.
    """
    weight = _checked_weight(conv, rank, "spatial")                # (C_out, C_in, kh, kw)
    c_out, c_in, kh, kw = weight.shape
    left, right = _truncated_svd(weight.permute(1, 2, 0, 3).reshape(c_in * kh, c_out * kw), rank)
    down = left.T.reshape(rank, c_in, kh, 1)
    across = right.reshape(rank, c_out, 1, kw).transpose(0, 1)         # (C_out, r, 1, kw)
    (sh, sw), (dh, dw) = conv.stride, conv.dilation
    pad = conv.padding  # a word, "same" or "valid", holds for both directions
    pads = (pad, pad) if isinstance(pad, str) else ((pad[0], 0), (0, pad[1]))
    first = conv_like(conv, down, None, stride=(sh, 1), padding=pads[0], dilation=(dh, 1))
    last = conv_like(conv, across, conv.bias, stride=(1, sw), padding=pads[1], dilation=(1, dw))
    return nn.Sequential(first, last).train(conv.training)


@public
def split_decoupled(conv: nn.Conv2d, rank: int) -> nn.Sequential:
    """`conv` as a depthwise k x k conv with `rank` outputs per input, then a 1x1 ("network decoupling").

    It takes the truncated SVD of the (C_out, k k) matrix of each input channel. The full rank is
    min(C_out, k k). Arguments and errors are those of `split_svd`.
    """
    weight = _checked_weight(conv, rank, "decouple")               # (C_out, C_in, k, k)
    left, right = _truncated_svd(weight.transpose(0, 1).flatten(2), rank)  # (C_in, C_out, r), (C_in, r, k k)
    depthwise = right.reshape(-1, 1, *weight.shape[2:])                # (C_in r, 1, k, k)
    first = conv_like(conv, depthwise, None, groups=conv.in_channels)
    return nn.Sequential(first, _pointwise(conv, left.transpose(0, 1).flatten(1))).train(conv.training)


class Scheme(NamedTuple):
    """One way to factorize: the function, and what it costs for a weight of shape (o, i, h, w)."""

    split: Callable[[nn.Conv2d, int], nn.Sequential]
    full_rank: Callable[[int, int, int, int], int]  # there the two convs equal the one, and are larger
    params_per_rank: Callable[[int, int, int, int], int]


SCHEMES = {
    "svd": Scheme(split_svd, lambda o, i, h, w: min(o, i * h * w), lambda o, i, h, w: i * h * w + o),
    "spatial": Scheme(split_spatial, lambda o, i, h, w: min(i * h, o * w), lambda o, i, h, w: i * h + o * w),
    "decouple": Scheme(split_decoupled, lambda o, i, h, w: min(o, h * w), lambda o, i, h, w: i * (h * w + o)),
}


def full_rank(conv: nn.Conv2d, scheme: str) -> int:
    """The rank at which the split is the conv itself."""
    return SCHEMES[scheme].full_rank(*conv.weight.shape)


def split_params(conv: nn.Conv2d, scheme: str, rank: int) -> int:
    """The number of parameters of the split conv, its bias included."""
    bias = 0 if conv.bias is None else len(conv.bias)
    return rank * SCHEMES[scheme].params_per_rank(*conv.weight.shape) + bias


def _pointwise(conv: nn.Conv2d, weight: Tensor) -> nn.Conv2d:
    """The 1x1 conv of `weight` (C_out, r) that ends a split of `conv`, with its bias."""
    weight = weight[:, :, None, None]                                  # (C_out, r, 1, 1)
    return conv_like(conv, weight, conv.bias, stride=1, padding=0, dilation=1, padding_mode="zeros")


def _checked_weight(conv: nn.Conv2d, rank: int, scheme: str) -> Tensor:
    if not is_plain(conv) or conv.groups != 1:
        raise ValueError(f"asked for a Conv2d of torch.nn without groups, got {conv}.\n  Leave it whole.")
    full = full_rank(conv, scheme)
    if not 1 <= rank <= full:
        raise ValueError(f"rank {rank} is not in 1 .. {full}, the ranks of {conv}.\n  Choose one of these.")
    if not torch.isfinite(conv.weight).all():
        raise ValueError(f"the weights of {conv} hold NaN or infinity.\n  Did its training diverge?")
    return conv.weight.detach().cpu().double()


def _truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest matrix of this rank, as factors (..., rows, rank) and (..., rank, columns)."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = s[..., :rank].sqrt()
    return u[..., :rank] * root[..., None, :], root[..., :, None] * v[..., :rank, :]
