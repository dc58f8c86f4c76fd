"""Splitting a conv in two: exact at full rank for any geometry, the nearest at a lower rank, and its cost."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fsc.surgery.factorized_convs import (
    SCHEMES,
    full_rank,
    split_decoupled,
    split_params,
    split_spatial,
    split_svd,
)


@st.composite
def convs(draw):
    torch.manual_seed(draw(st.integers(0, 99)))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    mode = draw(st.sampled_from(("zeros", "reflect", "replicate", "circular")))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    sizes = st.tuples(st.integers(0, 2), st.integers(0, 2))
    padding = draw(st.one_of(sizes, st.sampled_from(("valid", "same"))))
    return nn.Conv2d(
        draw(st.integers(1, 5)), draw(st.integers(1, 6)), kernel, stride if padding != "same" else 1, padding,
        draw(st.tuples(st.integers(1, 2), st.integers(1, 2))), bias=draw(st.booleans()), padding_mode=mode,
    )  # fmt: skip


def relative_error(found, expected):
    return float((found - expected).detach().abs().max() / expected.detach().abs().max().clamp_min(1e-12))


@given(conv=convs(), scheme=st.sampled_from(list(SCHEMES)))
@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_at_full_rank_a_split_is_the_conv(dtype, bound, conv, scheme):
    conv = conv.to(dtype)
    split = SCHEMES[scheme].split(conv, full_rank(conv, scheme))
    x = torch.randn(2, conv.in_channels, 9, 10, dtype=dtype)
    error = relative_error(split(x), conv(x))
    assert error <= bound, f"relative error {error:.1e}"
    assert split[0].bias is None and (split[1].bias is None) == (conv.bias is None)


@given(conv=convs(), scheme=st.sampled_from(list(SCHEMES)), share=st.floats(0, 1))
def test_a_split_costs_what_it_is_said_to(conv, scheme, share):
    rank = max(1, round(share * full_rank(conv, scheme)))
    split = SCHEMES[scheme].split(conv, rank)
    assert sum(p.numel() for p in split.parameters()) == split_params(conv, scheme, rank)
    whole = sum(p.numel() for p in conv.parameters())
    assert split_params(conv, scheme, full_rank(conv, scheme)) > whole  # never worth it at full rank


def test_a_truncated_split_is_the_conv_of_numpys_truncated_svd():
    conv = nn.Conv2d(5, 7, 3, stride=2, padding=1).double()
    u, s, v = np.linalg.svd(conv.weight.detach().numpy().reshape(7, 45), full_matrices=False)
    nearest = torch.from_numpy((u[:, :3] * s[:3]) @ v[:3]).reshape(7, 5, 3, 3)
    x = torch.randn(2, 5, 9, 9, dtype=torch.float64)
    assert relative_error(split_svd(conv, 3)(x), F.conv2d(x, nearest, conv.bias, 2, 1)) <= 1e-12


def test_a_separable_kernel_needs_spatial_rank_one_only():
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False).double()
    sobel = torch.tensor([1.0, 2, 1])[:, None] * torch.tensor([1.0, 0, -1])
    conv.weight.data[0, 0] = sobel
    split = split_spatial(conv, 1)
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    assert [m.kernel_size for m in split] == [(3, 1), (1, 3)] and relative_error(split(x), conv(x)) <= 1e-12


def test_one_blur_for_every_pair_of_channels_needs_decoupled_rank_one_only():
    blur, mix = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]), torch.randn(6, 4)
    conv = nn.Conv2d(4, 6, 3, bias=False)
    conv.weight.data = mix[:, :, None, None] * blur
    split = split_decoupled(conv, 1)
    x = torch.randn(1, 4, 8, 8)
    assert split[0].groups == 4 and split[0].out_channels == 4 and relative_error(split(x), conv(x)) <= 1e-5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_neither_half_dwarfs_the_other(scheme):
    conv = nn.Conv2d(8, 8, 3)
    conv.weight.data *= 1e6
    first, last = (float(m.weight.detach().norm()) for m in SCHEMES[scheme].split(conv, 4))
    assert first == pytest.approx(last, rel=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_splitting_leaves_the_conv_and_the_global_random_numbers_alone(scheme):
    conv = nn.Conv2d(4, 6, 3, dtype=torch.float16).eval().requires_grad_(False)
    before, state = copy.deepcopy(conv.state_dict()), torch.get_rng_state()
    split = SCHEMES[scheme].split(conv, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in conv.state_dict().items())
    assert {p.dtype for p in split.parameters()} == {torch.float16}
    assert not any(p.requires_grad for p in split.parameters())
    assert not any(m.training for m in split.modules())
    assert split[1].bias.data_ptr() != conv.bias.data_ptr()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_conv_of_zeros_splits_into_zeros(scheme):
    conv = nn.Conv2d(3, 4, 3)
    nn.init.zeros_(conv.weight)
    assert torch.equal(SCHEMES[scheme].split(conv, 1)(torch.randn(1, 3, 5, 5)), conv(torch.randn(1, 3, 5, 5)))


@pytest.mark.parametrize("conv, rank, words", [
    (nn.Conv2d(4, 6, 3), 7, r"rank 7 is not in 1 \.\. 6"),
    (nn.Conv2d(4, 6, 3), 0, r"rank 0 is not in 1 \.\. 6"),
    (nn.Conv2d(4, 6, 3, groups=2), 1, "without groups"),
])  # fmt: skip
def test_a_split_that_cannot_be_is_refused(conv, rank, words):
    with pytest.raises(ValueError, match=f"split_svd: .*{words}"):
        split_svd(conv, rank)


def test_weights_that_are_not_finite_are_refused():
    conv = nn.Conv2d(4, 6, 3)
    conv.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="split_spatial: the weights .* hold NaN"):
        split_spatial(conv, 2)
