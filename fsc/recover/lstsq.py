"""Least squares for a 1x1 conv: normal equations summed up batch by batch in float64, with a ridge toward the identity.

The unknown is what the 1x1 conv adds to the identity: Q = I + D. Features x (C,) and what they lack, e = y - x (C,),
are the rows; D minimises sum |D x + b - e|^2 + ridge * mean(diag(X^T X)) * |D|^2. Memory is C x C, however many images.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

RIDGE = 0.01
"""Chosen by errors on held-out few images of five networks (data/scripts/choose_fskd.py)."""


class Fit(NamedTuple):
    """A 1x1 conv `q` (C, C) with its `bias` (C,) or None, float64."""

    q: Tensor
    bias: Tensor | None


@dataclass
class Sums:
    """What least squares needs to know of its rows, all float64.

    Attributes:
        rows: how many there are, N H W.
        x, e: sums of features and of what they lack, (C,).
        xx, xe: sums of x x^T and x e^T, (C, C).
        ee: sum of |e|^2.
        t, tt: sums of the teacher's features, (C,), and of |t|^2: what errors are measured by.
    """

    rows: int
    x: Tensor
    e: Tensor
    xx: Tensor
    xe: Tensor
    ee: Tensor
    t: Tensor
    tt: Tensor

    @classmethod
    def of(cls, x: Tensor, e: Tensor, t: Tensor) -> "Sums":
        """Of features, what they lack, and the teacher's; each (N, C, H, W)."""
        # float64: with a condition number of 1e5 the Gram matrix is beyond float32 (error 0.6 against 1e-12).
        x, e, t = (a.transpose(0, 1).flatten(1).double() for a in (x, e, t))             # (C, rows)
        return cls(x.shape[1], x.sum(1), e.sum(1), x @ x.T, x @ e.T, e.square().sum(), t.sum(1), t.square().sum())

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __sub__(self, other: "Sums") -> "Sums":
        return Sums(*(a - b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def mean_and_variance(self, fit: Fit) -> tuple[Tensor, Tensor]:
        """Of every channel of q x + bias, (C,) each."""
        mean = self.x / self.rows
        covariance = self.xx / self.rows - mean.outer(mean)
        shifted = fit.q @ mean if fit.bias is None else fit.q @ mean + fit.bias
        return shifted, (fit.q @ covariance * fit.q).sum(1).clamp_min(0)


def solve(sums: Sums, *, ridge: float = 0.0, intercept: bool = False, groups: int = 1) -> Fit:
    """The 1x1 conv that turns x into y = x + e with the least squared error.

    Args:
        ridge: pulls toward the identity, relative to the mean diagonal of X^T X. With 0 and fewer independent rows than
            unknowns: the solution nearest to the identity.
        intercept: also fit a bias.
        groups: the 1x1 may only mix channels inside each of so many equal groups.
    """
    xx, xe = _normal(sums, intercept, groups)                          # (G, C / G, C / G)
    lift = ridge * xx.diagonal(dim1=1, dim2=2).mean(1)                 # (G,)
    eye = torch.eye(len(xx[0]), dtype=xx.dtype, device=xx.device)
    factor, failed = torch.linalg.cholesky_ex(xx + lift[:, None, None] * eye)
    if ridge > 0 and not failed.any():
        d = torch.cholesky_solve(xe, factor)                           # (G, in, out)
    else:
        values, vectors = torch.linalg.eigh(xx)
        inverse = torch.where(values > _floor(values), 1 / values, 0.0)
        d = vectors @ (inverse[:, :, None] * (vectors.mT @ xe))
    q = torch.block_diag(*(eye + d.mT))                                # (C, C): q[out, in]
    return Fit(q, (sums.x + sums.e - q @ sums.x) / sums.rows if intercept else None)


def rank_and_condition(sums: Sums, *, intercept: bool = False, groups: int = 1) -> tuple[int, float]:
    """How many directions the rows span, and the largest by the smallest singular value of X (inf: some missing)."""
    values = torch.linalg.eigvalsh(_normal(sums, intercept, groups)[0])
    spanned = values > _floor(values)
    rank = int(spanned.sum())
    return rank, float((values[:, -1] / values[:, 0]).sqrt().max()) if bool(spanned.all()) else float("inf")


def _normal(sums: Sums, intercept: bool, groups: int) -> tuple[Tensor, Tensor]:
    """X^T X and X^T E, of centred rows where there is an intercept: the blocks on their diagonals."""
    xx, xe = sums.xx, sums.xe
    if intercept:
        xx = xx - sums.x.outer(sums.x) / sums.rows
        xe = xe - sums.x.outer(sums.e) / sums.rows
    size = len(xx) // groups
    return tuple(
        matrix.view(groups, size, groups, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()
        for matrix in (xx, xe)
    )


def _floor(values: Tensor) -> Tensor:
    """Eigenvalues up to here are rounding: (G, C) ascending -> (G, 1)."""
    return values[:, -1:] * (values.shape[1] * torch.finfo(values.dtype).eps)


def squared_error(sums: Sums, q: Tensor, bias: Tensor | None) -> float:
    """The sum of |q x + bias - y|^2 over the rows of `sums`, be they those of the fit or others."""
    d = q - torch.eye(len(q), dtype=q.dtype, device=q.device)
    error = (d @ sums.xx * d).sum() - 2 * (d * sums.xe.T).sum() + sums.ee
    if bias is not None:
        error = error + 2 * bias @ (d @ sums.x - sums.e) + sums.rows * bias @ bias
    return max(float(error), 0.0)


def spread(sums: Sums) -> float:
    """The sum of |t - mean(t)|^2: the error of a constant answer, by which errors are measured."""
    return float(sums.tt - sums.t @ sums.t / sums.rows)
