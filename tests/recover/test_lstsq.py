"""The streamed normal equations give what LAPACK's gelsd gives on the whole feature matrix, in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fsc.recover.lstsq import Fit, Sums, rank_and_condition, relative, solve, squared_error


def gelsd(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.linalg.lstsq(a, b, driver="gelsd").solution


def features(n, channels, seed=0, *, rank=None, side=3):
    """x and y (N, C, H, W), float64, with a mean far from zero; of lower rank where asked."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, channels, side, side, generator=rng, dtype=torch.float64)
    if rank is not None:
        mix = torch.randn(channels, rank, generator=rng, dtype=torch.float64)
        x = torch.einsum("cr,nrhw->nchw", mix, x[:, :rank])
    y = torch.einsum("ck,nkhw->nchw", torch.randn(channels, channels, generator=rng, dtype=torch.float64), x)
    return x + 3, y + torch.randn(y.shape, generator=rng, dtype=torch.float64)


def rows(t):
    return t.permute(0, 2, 3, 1).flatten(0, 2)                          # (N H W, C)


def sums_of(x, y):
    return Sums.of(x, y - x, y)


@given(st.integers(1, 9), st.integers(3, 6), st.booleans(), st.sampled_from((0.0, 0.01, 1)))
def test_the_fit_is_that_of_gelsd(channels, n, intercept, ridge):
    x, y = features(n, channels, seed=channels)
    fit = solve(sums_of(x, y), ridge=ridge, intercept=intercept)
    a, b = rows(x), rows(y - x)
    if intercept:
        a, b = a - a.mean(0), b - b.mean(0)
    eye = torch.eye(channels).double()
    lift = (ridge * a.square().sum() / channels).sqrt()                 # as rows of their own: lift * D = 0
    d = gelsd(torch.cat([a, lift * eye]), torch.cat([b, 0 * eye]))
    q = eye + d.T
    assert torch.allclose(fit.q, q, rtol=1e-8, atol=1e-10)
    if intercept:
        assert torch.allclose(fit.bias, rows(y).mean(0) - q @ rows(x).mean(0), rtol=1e-8, atol=1e-9)
    else:
        assert fit.bias is None


def test_with_too_few_rows_and_no_ridge_it_is_gelsds_solution_of_least_norm():
    x, y = features(1, 20, side=3)                                      # 9 rows for 20 unknowns
    d = gelsd(rows(x), rows(y - x))
    assert torch.allclose(solve(sums_of(x, y)).q, torch.eye(20) + d.T, atol=1e-7)


def test_a_fit_by_groups_is_a_fit_of_each_group_alone():
    x, y = features(4, 6)
    fit = solve(sums_of(x, y), ridge=0.1, intercept=True, groups=3)
    for start in (0, 2, 4):
        part = slice(start, start + 2)
        alone = solve(sums_of(x[:, part], y[:, part]), ridge=0.1, intercept=True)
        assert torch.allclose(fit.q[part, part], alone.q) and torch.allclose(fit.bias[part], alone.bias)
    assert fit.q[0, 2:].abs().max() == 0


def test_batches_summed_up_are_all_images_at_once():
    x, y = features(7, 5)
    parts = [sums_of(x[i : i + 3], y[i : i + 3]) for i in range(0, 7, 3)]
    whole, summed = sums_of(x, y), parts[0] + parts[1] + parts[2]
    assert summed.rows == whole.rows == 63
    assert torch.allclose(solve(summed, ridge=0.01).q, solve(whole, ridge=0.01).q, rtol=1e-12)
    assert torch.allclose((whole - parts[0] - parts[1]).xx, parts[2].xx)


@given(intercept=st.booleans())
def test_the_error_on_other_rows_is_what_applying_the_fit_gives(intercept):
    fit = solve(sums_of(*features(4, 5, seed=1)), intercept=intercept)
    x, y = features(3, 5, seed=2)
    left = rows(x) @ fit.q.T - rows(y) + (fit.bias if intercept else 0)
    assert squared_error(sums_of(x, y), fit) == pytest.approx(float(left.square().sum()), rel=1e-10)
    variation = float((rows(y) - rows(y).mean(0)).square().sum())
    assert relative(1.0, sums_of(x, y)) == pytest.approx(1 / variation, rel=1e-10)


def test_mean_and_variance_are_those_of_the_adapted_feature():
    x, y = features(3, 4)
    fit = solve(sums_of(x, y), intercept=True)
    out = rows(x) @ fit.q.T + fit.bias
    mean, variance = sums_of(x, y).mean_and_variance(fit)
    assert torch.allclose(mean, out.mean(0)) and torch.allclose(variance, out.var(0, correction=0))


def test_rank_and_condition_are_those_of_the_singular_values():
    x, y = features(5, 6)
    singular = torch.linalg.svdvals(rows(x))
    condition = pytest.approx(float(singular[0] / singular[-1]), rel=1e-6)
    assert rank_and_condition(sums_of(x, y)) == (6, condition)
    x, y = features(5, 6, rank=2)
    assert rank_and_condition(sums_of(x, y), intercept=True) == (2, float("inf"))
    assert rank_and_condition(sums_of(x, y), intercept=True, groups=6)[0] == 6  # each channel varies


def test_a_student_that_equals_its_teacher_is_left_as_it_is():
    x, _ = features(3, 4)
    fit = solve(sums_of(x, x), ridge=1e-3, intercept=True)
    assert torch.equal(fit.q, torch.eye(4).double()) and fit.bias.abs().max() < 1e-14


def test_float64_holds_where_float32_loses_everything():
    rng = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 64, generator=rng, dtype=torch.float64)).Q
    x = torch.randn(4096, 64, generator=rng, dtype=torch.float64)
    x = x * torch.logspace(0, -5, 64).double() @ basis.T
    q = torch.randn(64, 64, generator=rng, dtype=torch.float64)
    x, y = (t.T.reshape(1, 64, 64, 64) for t in (x, x @ q.T))
    fit = solve(sums_of(x, y))
    single = torch.linalg.solve(rows(x).float().T @ rows(x).float(), rows(x).float().T @ rows(y).float()).T
    assert (fit.q - q).norm() / q.norm() < 1e-4 < 0.1 < (single - q).norm() / q.norm()


def test_a_channel_that_never_varies_stays_as_it_is():
    x, y = features(4, 3)
    x[:, 1] = y[:, 1] = 0.0
    for ridge in (0.0, 1e-3):
        fit = solve(sums_of(x, y), ridge=ridge, intercept=True)
        assert isinstance(fit, Fit) and fit.q.isfinite().all()
        assert torch.allclose(fit.q[:, 1], torch.tensor([0.0, 1.0, 0.0]).double(), atol=1e-9)
