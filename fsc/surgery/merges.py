"""Exact edits: merge a 1x1 into a conv, fold a BatchNorm or put a neutral one there, replay a recipe; or refuse."""

import torch
from torch import Tensor, nn

from fsc.surgery.convs import conv_like, is_plain
from fsc.surgery.exactness import NotExact


def merge_after(conv: nn.Conv2d, q: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """The conv that does `conv`, then the 1x1 conv `q`: W' = Q W, b' = Q b + bias (FSKD, theorem 1).

    Exact for any stride, padding, dilation and padding mode. A grouped conv takes only a square `q` that is
    block-diagonal, a block a group; a depthwise conv therefore only a diagonal one.

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
    _check_conv("merge_after", conv)
    q = _matrix("merge_after", conv, q, axis=1)                             # (C_out, C_mid)
    added = _vector("merge_after", conv, bias, len(q))
    weight = conv.weight.detach().double()                                  # (C_mid, C_in / groups, k, k)
    if conv.groups == 1:
        merged = torch.einsum("om,mikl->oikl", q, weight)                   # (C_out, C_in, k, k)
    else:
        blocks = _blocks("merge_after", conv, q, conv.out_channels // conv.groups)
        merged = torch.einsum("gom,gmikl->goikl", blocks, weight.unflatten(0, (conv.groups, -1))).flatten(0, 1)
    if conv.bias is not None:
        added = q @ conv.bias.detach().double() + (0 if added is None else added)
    return conv_like(conv, merged, added, groups=conv.groups)


def merge_before(conv: nn.Conv2d, q: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """The conv that does the 1x1 conv `q`, then `conv`: W'[:, i] = sum over m of W[:, m] Q[m, i].

    Exact for any stride, padding and dilation without a bias. A bias never reaches the zeros that the conv pads with,
    so it is only taken where the conv pads nothing or pads with pixels (padding mode "reflect", "replicate",
    "circular"). A grouped conv takes only a square `q` that is block-diagonal, a block a group.

    Args:
        conv: C_mid -> C_out, k x k; left as it is.
        q: (C_mid, C_in) or (C_mid, C_in, 1, 1), the 1x1 weights.
        bias: (C_mid,) of the 1x1, or None.

    Raises:
        NotExact: a bias ahead of padding with zeros; a `q` that mixes channels of different groups.
        ValueError: shapes that do not fit, NaN or infinity in `q` or `bias`.

    >>> merged = merge_before(conv, q)
    >>> torch.allclose(merged(x), conv(F.conv2d(x, q[:, :, None, None])), rtol=1e-5, atol=1e-6)
    True
    """
    _check_conv("merge_before", conv)
    q = _matrix("merge_before", conv, q, axis=0)                            # (C_mid, C_in)
    shift = _vector("merge_before", conv, bias, conv.in_channels)
    if shift is not None and shift.any() and conv.padding_mode == "zeros" and _pads(conv):
        raise NotExact(
            f"merge_before: the 1x1 has a bias and {conv} pads with zeros, which the bias never reaches: at the border "
            f"the merged conv would be wrong.\n"
            f"  Use a 1x1 without bias here, or put it behind the conv before this one: merge_after."
        )
    weight = conv.weight.detach().double().unflatten(0, (conv.groups, -1))  # (groups, its C_out, its C_mid, k, k)
    blocks = _blocks("merge_before", conv, q, conv.in_channels // conv.groups)
    merged = torch.einsum("gomkl,gmi->goikl", weight, blocks).flatten(0, 1)  # (C_out, C_in / groups, k, k)
    added = None if conv.bias is None else conv.bias.detach().double()
    if shift is not None:
        constant = torch.einsum("gomkl,gm->go", weight, shift.unflatten(0, (conv.groups, -1))).flatten()
        added = constant if added is None else added + constant
    return conv_like(conv, merged, added, groups=conv.groups)


def fold_bn(conv: nn.Conv2d, bn: nn.Module) -> nn.Conv2d:
    """The conv that does `conv`, then the BatchNorm `bn` in eval mode: W' = s W, b' = s (b - mean) + beta.

    Here s = gamma / sqrt(var + eps), by the running statistics. Any gamma will do, 0 too.

    Raises:
        NotExact: `bn` is in train mode or keeps no running statistics, so it norms by the batch.
        TypeError: not a conv and a BatchNorm.
        ValueError: numbers of channels that differ; a variance that is negative, NaN or infinite.

    >>> torch.allclose(fold_bn(conv, bn)(x), bn(conv(x)), rtol=1e-5, atol=1e-6)
    True
    """
    _check_conv("fold_bn", conv)
    if not isinstance(bn, nn.modules.batchnorm._BatchNorm):
        raise TypeError(f"fold_bn: asked to fold a {type(bn).__name__} into {conv}.\n  Only a BatchNorm folds.")
    if bn.num_features != conv.out_channels:
        raise ValueError(
            f"fold_bn: the BatchNorm has {bn.num_features} channels, {conv} makes {conv.out_channels}.\n"
            f"  Fold the BatchNorm that follows this conv."
        )
    if bn.training or bn.running_mean is None or bn.running_var is None:
        found = "is in train mode" if bn.running_mean is not None and bn.training else "keeps no running statistics"
        raise NotExact(
            f"fold_bn: this BatchNorm {found}, so it norms each batch by itself; no fixed conv does that.\n"
            f"  Put the net in eval mode; a norm made with track_running_stats=False cannot be folded."
        )
    mean, var = bn.running_mean.double(), bn.running_var.double()
    _check_var("fold_bn", var, bn.eps)
    scale = (var + bn.eps).rsqrt()                                          # (C_out,)
    if bn.weight is not None:
        scale = scale * bn.weight.detach().double()
    weight = conv.weight.detach().double()
    added = -mean if conv.bias is None else conv.bias.detach().double() - mean
    added = scale * added + (0 if bn.bias is None else bn.bias.detach().double())
    return conv_like(conv, weight * scale[:, None, None, None], added, groups=conv.groups)


def neutral_bn(mean: Tensor, var: Tensor, *, eps: float = 1e-5) -> nn.BatchNorm2d:
    """A BatchNorm that returns its input in eval mode: gamma = sqrt(var + eps), beta = mean. In eval mode.

    It gives a net whose BatchNorms were folded one to train with, and leaves what it computes as it is (extension).

    Args:
        mean, var: (C,), statistics of the feature that will pass; dtype and device are the norm's.

    Raises:
        ValueError: shapes that differ; a mean that is not finite; a variance that is negative or not finite.

    >>> bn = neutral_bn(features.mean((0, 2, 3)), features.var((0, 2, 3)))
    >>> torch.allclose(bn(features), features, atol=1e-5)
    True
    """
    if mean.ndim != 1 or mean.shape != var.shape:
        raise ValueError(
            f"neutral_bn: mean has shape {tuple(mean.shape)}, var {tuple(var.shape)}; asked for (C,) twice.\n"
            f"  For features (N, C, H, W) they are features.mean((0, 2, 3)) and features.var((0, 2, 3))."
        )
    if not torch.isfinite(mean).all():
        raise ValueError("neutral_bn: the mean holds NaN or infinity.\n  Look for it in the features it was taken of.")
    _check_var("neutral_bn", var.double(), eps)
    bn = nn.BatchNorm2d(len(mean), eps=eps, device=mean.device, dtype=mean.dtype)
    with torch.no_grad():
        bn.running_mean.copy_(mean)
        bn.running_var.copy_(var)
        bn.weight.copy_((bn.running_var.double() + eps).sqrt())
        bn.bias.copy_(mean)
    return bn.eval()


def _check_conv(who: str, conv: nn.Module) -> None:
    if not is_plain(conv):
        raise TypeError(f"{who}: asked for a Conv2d with the forward of torch.nn, got {type(conv).__name__}.")


def _matrix(who: str, conv: nn.Conv2d, q: Tensor, *, axis: int) -> Tensor:
    """The 1x1 as a float64 matrix whose `axis` fits the conv."""
    fits = conv.out_channels if axis else conv.in_channels
    flat = q[:, :, 0, 0] if q.ndim == 4 and q.shape[2:] == (1, 1) else q  # never squeeze: it takes a lone channel too
    if flat.ndim != 2 or flat.shape[axis] != fits or not flat.numel():
        wanted = f"(C_out, {fits})" if axis else f"({fits}, C_in)"
        raise ValueError(
            f"{who}: q has shape {tuple(q.shape)}; asked for {wanted}, the 1x1 {'after' if axis else 'before'} {conv}."
        )
    if not torch.isfinite(flat).all():
        raise ValueError(f"{who}: q holds NaN or infinity.\n  Look for it where q was fitted.")
    return flat.detach().to(conv.weight.device, torch.float64)


def _vector(who: str, conv: nn.Conv2d, bias: Tensor | None, size: int) -> Tensor | None:
    if bias is None:
        return None
    if bias.shape != (size,) or not torch.isfinite(bias).all():
        raise ValueError(f"{who}: the bias has shape {tuple(bias.shape)}; asked for ({size},), all of it finite.")
    return bias.detach().to(conv.weight.device, torch.float64)


def _blocks(who: str, conv: nn.Conv2d, q: Tensor, width: int) -> Tensor:
    """The blocks (groups, width, width) on the diagonal of `q`, outside of which there must be nothing."""
    if conv.groups == 1:
        return q[None]
    if q.shape[0] != q.shape[1]:
        raise NotExact(
            f"{who}: q is {tuple(q.shape)}; {conv} has {conv.groups} groups and takes only a square q.\n"
            f"  Use a q that leaves the number of channels alone."
        )
    group = torch.arange(len(q), device=q.device) // width
    mixed = ((group[:, None] != group) & (q != 0)).nonzero()
    if len(mixed):
        (row, column), kind = mixed[0].tolist(), "diagonal" if width == 1 else f"block-diagonal ({width} x {width})"
        raise NotExact(
            f"{who}: q mixes channels {row} and {column}, which belong to different groups of {conv}; merged they "
            f"would not be a conv of {conv.groups} groups.\n"
            f"  Use a {kind} q here, or merge it into a dense conv."
        )
    blocks = q.unflatten(0, (-1, width)).unflatten(2, (-1, width))          # (groups, width, groups, width)
    return blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def _pads(conv: nn.Conv2d) -> bool:
    if conv.padding == "same":
        return any(d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    return conv.padding != "valid" and any(conv.padding)


def _check_var(who: str, var: Tensor, eps: float) -> None:
    bad = ~(torch.isfinite(var) & (var >= 0) & (var + eps > 0))
    if bad.any():
        at = int(bad.nonzero()[0, 0])
        raise ValueError(
            f"{who}: the variance of channel {at} is {float(var[at]):g} (eps {eps:g}), of {int(bad.sum())} channels it "
            f"is no variance.\n  It must be finite, not negative, and above 0 together with eps."
        )
