"""One conv as two thinner ones: the three ways to factorize a kernel, and what each rank of them costs."""

import torch
from torch import Tensor, nn

from fsc.surgery.convs import conv_like, is_plain

# All three: in float64 on the CPU, so that a student is the same whichever device the teacher lives on; and
# the square root of the singular values on either side, so that neither conv's weights dwarf the other's.


def split_svd(conv: nn.Conv2d, rank: int) -> nn.Sequential:
    """`conv` as a k x k conv to `rank` channels, then a 1x1: the truncated SVD of its (C_out, C_in k k) matrix.

    Of all such pairs it is the nearest in the weights; at full rank, min(C_out, C_in k k), it is `conv` itself.

    Args:
        conv: C_in -> C_out, not grouped; left as it is.
        rank: channels between the two.

    Returns:
        nn.Sequential(first, last); the last carries the bias.

    Raises:
        ValueError: a grouped conv, a rank outside 1 .. full rank, weights that are not finite.

    >>> split_svd(nn.Conv2d(16, 32, 3, padding=1), 8)
    Sequential(
      (0): Conv2d(16, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
      (1): Conv2d(8, 32, kernel_size=(1, 1), stride=(1, 1))
    )
    """
    weight = _weight(conv, "svd", rank)                                     # (C_out, C_in, k, k)
    left, right = _halves(weight.flatten(1), rank)                          # (C_out, r), (r, C_in k k)
    first = conv_like(conv, right.unflatten(1, weight.shape[1:]), None)
    return nn.Sequential(first, _pointwise(conv, left)).train(conv.training)


def split_spatial(conv: nn.Conv2d, rank: int) -> nn.Sequential:
    """`conv` as a k x 1 conv to `rank` channels, then a 1 x k; each has its direction's stride, padding and dilation.

    The truncated SVD of the (C_in k, C_out k) matrix of vertical against horizontal weights; full rank is its smaller
    side. Arguments, result and errors are those of `split_svd`.
    """
    weight = _weight(conv, "spatial", rank)                                 # (C_out, C_in, kh, kw)
    c_out, c_in, kh, kw = weight.shape
    left, right = _halves(weight.permute(1, 2, 0, 3).reshape(c_in * kh, c_out * kw), rank)
    down = left.T.reshape(rank, c_in, kh, 1)
    across = right.reshape(rank, c_out, 1, kw).transpose(0, 1)              # (C_out, r, 1, kw)
    (sh, sw), (dh, dw) = conv.stride, conv.dilation
    pad = conv.padding  # a word, "same" or "valid", holds for both
    pads = (pad, pad) if isinstance(pad, str) else ((pad[0], 0), (0, pad[1]))
    first = conv_like(conv, down, None, stride=(sh, 1), padding=pads[0], dilation=(dh, 1))
    last = conv_like(conv, across, conv.bias, stride=(1, sw), padding=pads[1], dilation=(1, dw))
    return nn.Sequential(first, last).train(conv.training)


def split_decoupled(conv: nn.Conv2d, rank: int) -> nn.Sequential:
    """`conv` as a depthwise k x k conv that makes `rank` outputs of every input, then a 1x1 ("network decoupling").

    The truncated SVD of the (C_out, k k) matrix of each input channel; full rank is min(C_out, k k). Arguments, result
    and errors are those of `split_svd`.
    """
    weight = _weight(conv, "decouple", rank)                                # (C_out, C_in, k, k)
    left, right = _halves(weight.transpose(0, 1).flatten(2), rank)          # (C_in, C_out, r), (C_in, r, k k)
    deep = right.reshape(-1, 1, *weight.shape[2:])                          # (C_in r, 1, k, k)
    first = conv_like(conv, deep, None, groups=conv.in_channels)
    return nn.Sequential(first, _pointwise(conv, left.transpose(0, 1).flatten(1))).train(conv.training)


SCHEMES = {"svd": split_svd, "spatial": split_spatial, "decouple": split_decoupled}


def full_rank(conv: nn.Conv2d, scheme: str) -> int:
    """The rank at which a split is the conv itself; it then has more parameters than the conv."""
    c_out, c_in, kh, kw = conv.weight.shape
    return {"svd": min(c_out, c_in * kh * kw), "spatial": min(c_in * kh, c_out * kw), "decouple": min(c_out, kh * kw)}[
        scheme
    ]


def split_params(conv: nn.Conv2d, scheme: str, rank: int) -> int:
    """How many parameters the split conv has, the bias included."""
    c_out, c_in, kh, kw = conv.weight.shape
    each = {"svd": c_in * kh * kw + c_out, "spatial": c_in * kh + c_out * kw, "decouple": c_in * (kh * kw + c_out)}
    return rank * each[scheme] + (0 if conv.bias is None else c_out)


def _pointwise(conv: nn.Conv2d, weight: Tensor) -> nn.Conv2d:
    """The 1x1 of `weight` (C_out, r) that ends a split of `conv`, with its bias."""
    return conv_like(conv, weight[:, :, None, None], conv.bias, stride=1, padding=0, dilation=1, padding_mode="zeros")


def _weight(conv: nn.Conv2d, scheme: str, rank: int) -> Tensor:
    who = SCHEMES[scheme].__name__
    if not is_plain(conv) or conv.groups != 1:
        raise ValueError(f"{who}: asked for a Conv2d of torch.nn without groups, got {conv}.\n  Leave it whole.")
    full = full_rank(conv, scheme)
    if not 1 <= rank <= full:
        raise ValueError(f"{who}: rank {rank} is not in 1 .. {full}, the ranks of {conv}.\n  At {full} it is the conv.")
    if not torch.isfinite(conv.weight).all():
        raise ValueError(f"{who}: the weights of {conv} hold NaN or infinity.\n  Did its training diverge?")
    return conv.weight.detach().cpu().double()


def _halves(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest matrix of that rank as a product (..., rows, rank) (..., rank, columns): the truncated SVD."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = s[..., :rank].sqrt()
    return u[..., :rank] * root[..., None, :], root[..., :, None] * v[..., :rank, :]
