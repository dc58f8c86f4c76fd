"""Least squares for a 1x1 conv: normal equations, summed batch by batch in float64, with a ridge.

The unknown is D, the difference of the 1x1 conv to the identity: Q = I + D. Every pixel of every image is one
row: the student's feature x (C,) and its error e = y - x (C,), where y is the teacher's feature. D and the
bias b minimise

    sum of |D x + b - e|^2  +  ridge * mean(diag(X^T X)) * |D|^2.

So the ridge pulls Q toward the identity. Memory is C x C, however many images there are.
"""

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

RIDGE = 0.01
"""Chosen by the errors on held-out few images of five networks (data/scripts/choose_fskd.py)."""


class Fit(NamedTuple):
    """A 1x1 conv: its weights `q` (C, C) and its `bias` (C,) or None, in float64."""

    q: Tensor
    bias: Tensor | None


@dataclass
class Sums:
    """Sums over rows that least squares needs, all in float64; t is the teacher's feature, e is the error."""

    rows: int    # number of rows, N H W
    x: Tensor    # (C,) sum of the student's features
    e: Tensor    # (C,) sum of their errors
    xx: Tensor   # (C, C) sum of x x^T
    xe: Tensor   # (C, C) sum of x e^T
    ee: Tensor   # sum of |e|^2
    t: Tensor    # (C,) sum of the teacher's features
    tt: Tensor   # sum of |t|^2

    @classmethod
    def of(cls, x: Tensor, e: Tensor, t: Tensor) -> "Sums":
        """The sums of the student's features, their errors and the teacher's features, (N, C, H, W) each."""
        # float64: with a condition number of 1e5 the Gram matrix is beyond float32 (error 0.6 against 1e-12).
        x, e, t = (a.transpose(0, 1).flatten(1).double() for a in (x, e, t))    # (C, rows)
        sums = x.sum(1), e.sum(1), x @ x.T, x @ e.T, e.square().sum(), t.sum(1), t.square().sum()
        return cls(x.shape[1], *sums)

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*map(operator.add, vars(self).values(), vars(other).values()))

    def __sub__(self, other: "Sums") -> "Sums":
        return Sums(*map(operator.sub, vars(self).values(), vars(other).values()))

    def mean_and_variance(self, fit: Fit) -> tuple[Tensor, Tensor]:
        """Mean and variance of every channel of q x + bias, (C,) each."""
        mean = self.x / self.rows
        covariance = self.xx / self.rows - mean.outer(mean)
        shifted = fit.q @ mean if fit.bias is None else fit.q @ mean + fit.bias
        return shifted, (fit.q @ covariance * fit.q).sum(1).clamp_min(0)


def total(parts: Iterable[Sums]) -> Sums:
    """The sums over all rows, from those of each part."""
    return reduce(operator.add, parts)


def solve(sums: Sums, *, ridge: float = 0.0, intercept: bool = False, groups: int = 1) -> Fit:
    """The 1x1 conv that turns x into y = x + e with the least squared error.

    Args:
        ridge: strength of the pull toward the identity, relative to the mean diagonal of X^T X. With 0 and
            fewer independent rows than unknowns, the solution is the one nearest to the identity.
        intercept: whether to fit a bias too.
        groups: the 1x1 conv may mix channels only inside each of this many equal groups.
    """
    xx, xe = _normal_equations(sums, intercept, groups)                # (G, C / G, C / G)
    lift = ridge * xx.diagonal(dim1=1, dim2=2).mean(1)                 # (G,)
    eye = torch.eye(len(xx[0]), dtype=xx.dtype, device=xx.device)
    factor, failed = torch.linalg.cholesky_ex(xx + lift[:, None, None] * eye)
    if ridge > 0 and not failed.any():
        d = torch.cholesky_solve(xe, factor)                           # (G, in, out)
    else:
        values, vectors = torch.linalg.eigh(xx)
        inverse = torch.where(values > _rounding(values), 1 / values, 0.0)
        d = vectors @ (inverse[:, :, None] * (vectors.mT @ xe))
    q = torch.block_diag(*(eye + d.mT))                                # (C, C): q[out, in]
    return Fit(q, (sums.x + sums.e - q @ sums.x) / sums.rows if intercept else None)


def rank_and_condition(sums: Sums, *, intercept: bool = False, groups: int = 1) -> tuple[int, float]:
    """Rank of X, and its largest singular value divided by the smallest, infinite without full rank."""
    values = torch.linalg.eigvalsh(_normal_equations(sums, intercept, groups)[0])
    spanned = values > _rounding(values)
    condition = float((values[:, -1] / values[:, 0]).sqrt().max()) if bool(spanned.all()) else math.inf
    return int(spanned.sum()), condition


def squared_error(sums: Sums, fit: Fit) -> float:
    """The sum of |q x + bias - y|^2 over the rows of `sums`, which may be other rows than those fitted."""
    d = fit.q - torch.eye(len(fit.q), dtype=fit.q.dtype, device=fit.q.device)
    error = (d @ sums.xx * d).sum() - 2 * (d * sums.xe.T).sum() + sums.ee
    if fit.bias is not None:
        error = error + 2 * fit.bias @ (d @ sums.x - sums.e) + sums.rows * fit.bias @ fit.bias
    return max(float(error), 0.0)


def relative(error: float, sums: Sums) -> float:
    """A squared error divided by the sum of |t - mean(t)|^2, which is the error of the teacher's mean."""
    variation = float(sums.tt - sums.t @ sums.t / sums.rows)
    rounding = 1e-14 * float(sums.tt)
    if variation > rounding:
        return error / variation
    return 0.0 if error <= rounding else math.inf


def _normal_equations(sums: Sums, intercept: bool, groups: int) -> tuple[Tensor, Tensor]:
    """X^T X and X^T E, of centred rows with an intercept: (G, C / G, C / G), one block per group."""
    xx, xe = sums.xx, sums.xe
    if intercept:
        xx = xx - sums.x.outer(sums.x) / sums.rows
        xe = xe - sums.x.outer(sums.e) / sums.rows
    size = len(xx) // groups
    return tuple(
        matrix.view(groups, size, groups, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()
        for matrix in (xx, xe)
    )


def _rounding(values: Tensor) -> Tensor:
    """The size up to which an eigenvalue is rounding error: (G, C) ascending -> (G, 1)."""
    return values[:, -1:] * (values.shape[1] * torch.finfo(values.dtype).eps)
