"""Exact edits of convs: merge a 1x1 into a conv, fold a BatchNorm into it, make a neutral BatchNorm."""

import torch
from torch import Tensor, nn

from fsc.runtime import public
from fsc.surgery.convs import conv_like, is_plain
from fsc.surgery.exactness import NotExact


@public
def merge_after(conv: nn.Conv2d, q: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """The conv that does `conv`, then the 1x1 conv `q`: W' = Q W, b' = Q b + bias (FSKD, theorem 1).

    Exact for any stride, padding, dilation and padding mode. A grouped conv takes only a square `q` that is
    block-diagonal, with one block per group. For a depthwise conv, `q` is therefore diagonal.

    Args:
        conv: C_in -> C_mid, k x k; left as it is.
        q: (C_out, C_mid) or (C_out, C_mid, 1, 1), the 1x1 weights.
        bias: (C_out,) of the 1x1, or None.

    Raises:
        NotExact: `q` mixes channels of different groups; names two of them.
        ValueError: shapes that do not fit, NaN or infinity in `q` or `bias`.

    >>> merged = merge_after(conv, q)
    >>> torch.allclose(merged(x), F.conv2d(conv(x), q[:, :, None, None]), rtol=1e-5, atol=1e-6)
    True
    """
    _check_conv(conv)
    matrix = _as_matrix(conv, q, conv.out_channels, axis=1)             # (C_out, C_mid)
    added = _as_vector(conv, bias, len(matrix))
    weight = conv.weight.detach().double().unflatten(0, (conv.groups, -1))  # (groups, c_mid, c_in, k, k)
    blocks = _diagonal_blocks(conv, matrix)                             # (groups, c_out, c_mid)
    merged = torch.einsum("gom,gmikl->goikl", blocks, weight).flatten(0, 1)
    if conv.bias is not None:
        added = matrix @ conv.bias.detach().double() + (0 if added is None else added)
    return conv_like(conv, merged, added, groups=conv.groups)


@public
def merge_before(conv: nn.Conv2d, q: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """The conv that does the 1x1 conv `q`, then `conv`: W'[:, i] = sum over m of W[:, m] Q[m, i].

    Without a bias it is exact for any stride, padding and dilation. A bias never reaches the zeros that the
    conv pads with. So a bias is only taken if the conv does not pad, or pads with pixels (padding mode
    "reflect", "replicate" or "circular"). Groups and errors are as in `merge_after`.

    Args:
        conv: C_mid -> C_out, k x k; left as it is.
        q: (C_mid, C_in) or (C_mid, C_in, 1, 1), the 1x1 weights.
        bias: (C_mid,) of the 1x1, or None; NotExact is raised for one before padding with zeros.

    >>> merged = merge_before(conv, q)
    >>> torch.allclose(merged(x), conv(F.conv2d(x, q[:, :, None, None])), rtol=1e-5, atol=1e-6)
    True
    """
    _check_conv(conv)
    matrix = _as_matrix(conv, q, conv.in_channels, axis=0)              # (C_mid, C_in)
    shift = _as_vector(conv, bias, conv.in_channels)
    if shift is not None and shift.any() and conv.padding_mode == "zeros" and _pads(conv):
        raise NotExact(
            f"the 1x1 has a bias and {conv} pads with zeros, which the bias never reaches: at the border "
            f"the merged conv would be wrong.\n"
            f"  Use a 1x1 without bias here, or put it behind the conv before this one: merge_after."
        )
    weight = conv.weight.detach().double().unflatten(0, (conv.groups, -1))  # (groups, c_out, c_mid, k, k)
    blocks = _diagonal_blocks(conv, matrix)                             # (groups, c_mid, c_in)
    merged = torch.einsum("gomkl,gmi->goikl", weight, blocks).flatten(0, 1)
    added = None if conv.bias is None else conv.bias.detach().double()
    if shift is not None:
        constant = torch.einsum("gomkl,gm->go", weight, shift.unflatten(0, (conv.groups, -1))).flatten()
        added = constant if added is None else added + constant
    return conv_like(conv, merged, added, groups=conv.groups)


@public
def fold_bn(conv: nn.Conv2d, bn: nn.Module) -> nn.Conv2d:
    """The conv that does `conv`, then the BatchNorm `bn` in eval mode: W' = s W, b' = s (b - mean) + beta.

    Here s = gamma / sqrt(var + eps), with the running statistics. gamma may have any value, 0 too.

    Raises:
        NotExact: `bn` is in train mode or keeps no running statistics, so it normalises by the batch.
        ValueError: numbers of channels that differ; a variance that is negative, NaN or infinite.

    >>> torch.allclose(fold_bn(conv, bn)(x), bn(conv(x)), rtol=1e-5, atol=1e-6)
    True
    """
    _check_conv(conv)
    if not isinstance(bn, nn.modules.batchnorm._BatchNorm):
        raise TypeError(f"asked to fold a {type(bn).__name__} into {conv}.\n  Only a BatchNorm folds.")
    if bn.num_features != conv.out_channels:
        found = f"the BatchNorm has {bn.num_features} channels, {conv} makes {conv.out_channels}"
        raise ValueError(f"{found}.\n  Fold the BatchNorm that follows this conv.")
    if bn.training or bn.running_mean is None or bn.running_var is None:
        found = "keeps no running statistics" if bn.running_mean is None else "is in train mode"
        raise NotExact(
            f"this BatchNorm {found}, so it norms each batch by itself; no fixed conv does that.\n"
            f"  Put the net in eval mode; a norm made with track_running_stats=False cannot be folded."
        )
    mean, var = bn.running_mean.double(), bn.running_var.double()
    _check_var(var, bn.eps)
    scale = (var + bn.eps).rsqrt()                                      # (C_out,)
    if bn.weight is not None:
        scale = scale * bn.weight.detach().double()
    weight = conv.weight.detach().double()
    added = -mean if conv.bias is None else conv.bias.detach().double() - mean
    added = scale * added + (0 if bn.bias is None else bn.bias.detach().double())
    return conv_like(conv, weight * scale[:, None, None, None], added, groups=conv.groups)


@public
def neutral_bn(mean: Tensor, var: Tensor, *, eps: float = 1e-5) -> nn.BatchNorm2d:
    """A BatchNorm in eval mode that returns its input: gamma = sqrt(var + eps), beta = mean (extension).

    Networks whose BatchNorms were folded need it for training. `mean` and `var` (C,) are statistics of the
    features that will pass, finite, in the dtype and on the device wanted.

    >>> bn = neutral_bn(features.mean((0, 2, 3)), features.var((0, 2, 3)))
    >>> torch.allclose(bn(features), features, atol=1e-5)
    True
    """
    if mean.ndim != 1 or mean.shape != var.shape:
        found = f"mean has shape {tuple(mean.shape)}, var {tuple(var.shape)}; asked for (C,) twice"
        raise ValueError(f"{found}.\n  Take both over the axes (0, 2, 3) of features (N, C, H, W).")
    if not torch.isfinite(mean).all():
        raise ValueError("the mean holds NaN or infinity.\n  Look for it in the features it was taken of.")
    _check_var(var.double(), eps)
    bn = nn.BatchNorm2d(len(mean), eps=eps, device=mean.device, dtype=mean.dtype)
    with torch.no_grad():
        bn.running_mean.copy_(mean)
        bn.running_var.copy_(var)
        bn.weight.copy_((bn.running_var.double() + eps).sqrt())
        bn.bias.copy_(mean)
    return bn.eval()


def _check_conv(conv: nn.Module) -> None:
    if not is_plain(conv):
        raise TypeError(f"asked for a Conv2d with the forward of torch.nn, got {type(conv).__name__}.")


def _as_matrix(conv: nn.Conv2d, q: Tensor, channels: int, axis: int) -> Tensor:
    """The 1x1 weights as a matrix with `channels` on `axis`, in float64 on the conv's device."""
    if not torch.isfinite(q).all():
        raise ValueError("q holds NaN or infinity.\n  Look for it where q was fitted.")
    # Not squeeze: it would remove the axis of a single channel, too.
    matrix = q[:, :, 0, 0] if q.ndim == 4 and q.shape[2:] == (1, 1) else q
    if matrix.ndim != 2 or matrix.shape[axis] != channels or not matrix.numel():
        wanted = f"(C_out, {channels})" if axis else f"({channels}, C_in)"
        raise ValueError(f"q has shape {tuple(q.shape)}; asked for {wanted}, a 1x1 that fits {conv}.")
    return matrix.detach().to(conv.weight.device, torch.float64)


def _as_vector(conv: nn.Conv2d, bias: Tensor | None, size: int) -> Tensor | None:
    if bias is None:
        return None
    if bias.shape != (size,) or not torch.isfinite(bias).all():
        raise ValueError(f"the bias has shape {tuple(bias.shape)}; asked for ({size},), all of it finite.")
    return bias.detach().to(conv.weight.device, torch.float64)


def _diagonal_blocks(conv: nn.Conv2d, q: Tensor) -> Tensor:
    """(groups, rows, columns) the block of `q` for each group. A `q` that is not 0 elsewhere is refused."""
    if conv.groups == 1:
        return q[None]
    if q.shape[0] != q.shape[1]:
        found = f"q is {tuple(q.shape)}; {conv} has {conv.groups} groups and takes only a square q"
        raise NotExact(f"{found}.\n  Use a q that leaves the number of channels alone.")
    width = len(q) // conv.groups
    group = torch.arange(len(q), device=q.device) // width
    mixed = ((group[:, None] != group) & (q != 0)).nonzero()
    if len(mixed):
        row, column = mixed[0].tolist()
        kind = "diagonal" if width == 1 else f"block-diagonal ({width} x {width})"
        raise NotExact(
            f"q mixes channels {row} and {column}, which belong to different groups of {conv}; merged they "
            f"would not be a conv of {conv.groups} groups.\n"
            f"  Use a {kind} q here, or merge it into a dense conv."
        )
    return torch.stack([q[start : start + width, start : start + width] for start in range(0, len(q), width)])


def _pads(conv: nn.Conv2d) -> bool:
    if conv.padding == "same":
        return any(d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    return conv.padding != "valid" and any(conv.padding)


def _check_var(var: Tensor, eps: float) -> None:
    bad = (~(torch.isfinite(var) & (var >= 0) & (var + eps > 0))).nonzero().flatten().tolist()
    if bad:
        at = bad[0]
        found = f"the variance of channel {at} is {float(var[at]):g} (eps {eps:g}), one of {len(bad)} such"
        raise ValueError(f"{found}.\n  It must be finite, not negative, and above 0 together with eps.")
