"""The merge algebra: on random convs a merge equals what it replaces, or is refused where it cannot."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fsc.surgery.exactness import NotExact
from fsc.surgery.merges import fold_bn, merge_after, merge_before, neutral_bn


@st.composite
def convs(draw):
    """Dense, grouped and depthwise convs of any geometry, from one channel up."""
    torch.manual_seed(draw(st.integers(0, 99)))
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    each_in, each_out = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    sizes = st.tuples(st.integers(0, 2), st.integers(0, 2))
    padding = draw(st.one_of(sizes, st.sampled_from(("valid", "same"))))
    return nn.Conv2d(
        groups * each_in, groups * each_out, draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        draw(st.integers(1, 3)) if padding != "same" else 1, padding, draw(st.integers(1, 2)), groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(("zeros", "reflect", "replicate", "circular"))),
    )  # fmt: skip


def images(conv):
    return torch.randn(2, conv.in_channels, 9, 8, dtype=conv.weight.dtype)


def one_by_one(x, q, bias=None):
    return F.conv2d(x, q[:, :, None, None], bias)


def blocks(groups, width):
    return torch.block_diag(*torch.randn(groups, width, width))


def assert_equal(found, expected, bound=1e-5):
    error = float((found - expected).detach().abs().max() / expected.detach().abs().max().clamp_min(1e-6))
    assert found.shape == expected.shape and error <= bound, f"relative error {error:.1e}"


quiet = pytest.mark.filterwarnings("ignore:Using padding='same'")


@quiet
@given(conv=convs(), c_out=st.integers(1, 6), bias=st.booleans(), fit=st.booleans())
def test_a_1x1_behind_a_conv_merges_unless_it_mixes_groups(conv, c_out, bias, fit):
    grouped = conv.groups > 1
    width = conv.out_channels // conv.groups
    q = blocks(conv.groups, width) if fit and grouped else torch.randn(c_out, conv.out_channels)
    b = torch.randn(len(q)) if bias else None
    if grouped and not fit:
        with pytest.raises(NotExact, match="merge_after: q (mixes channels|is)"):
            merge_after(conv, q, b)
        return
    merged, x = merge_after(conv, q, b), images(conv)
    assert_equal(merged(x), one_by_one(conv(x), q, b))
    assert (merged.bias is None) == (conv.bias is None and b is None) and merged.groups == conv.groups


@quiet
@given(conv=convs(), c_in=st.integers(1, 6), bias=st.booleans(), fit=st.booleans())
def test_a_1x1_before_a_conv_merges_unless_its_bias_meets_padding_or_it_mixes_groups(conv, c_in, bias, fit):
    grouped = conv.groups > 1
    q = torch.randn(conv.in_channels, c_in)
    if fit and grouped:
        q = blocks(conv.groups, conv.in_channels // conv.groups)
    b = torch.randn(len(q)) if bias else None
    x = torch.randn(2, q.shape[1], 9, 8)
    expected = conv(one_by_one(x, q, b))
    words = {"valid": False, "same": conv.kernel_size != (1, 1)}
    pads = words[conv.padding] if isinstance(conv.padding, str) else any(conv.padding)
    border = bias and pads and conv.padding_mode == "zeros"
    if border or (grouped and not fit):
        with pytest.raises(NotExact, match="merge_before: (the 1x1 has a bias|q mixes channels|q is)"):
            merge_before(conv, q, b)
        return
    merged = merge_before(conv, q, b)
    assert_equal(merged(x), expected)
    assert (merged.bias is None) == (conv.bias is None and b is None) and merged.groups == conv.groups


@st.composite
def norms(draw, channels):
    bn = nn.BatchNorm2d(channels, eps=draw(st.sampled_from((1e-5, 1e-3))), affine=draw(st.booleans())).eval()
    bn.running_mean.normal_()
    bn.running_var.uniform_(0.1, 4)
    if bn.affine:
        nn.init.normal_(bn.weight)
        nn.init.normal_(bn.bias)
        bn.weight.data[draw(st.integers(0, channels - 1))] = 0.0  # this channel is beta for any input
    return bn


@quiet
@given(data=st.data(), conv=convs())
def test_a_norm_in_eval_mode_folds_into_any_conv(data, conv):
    bn, x = data.draw(norms(conv.out_channels)), images(conv)
    assert_equal(fold_bn(conv, bn)(x), bn(conv(x)))


@given(data=st.data(), conv=convs().filter(lambda conv: conv.groups == 1), bias=st.booleans())
@quiet
def test_a_1x1_behind_conv_and_norm_merges_into_the_folded_conv(data, conv, bias):
    bn, x = data.draw(norms(conv.out_channels)), images(conv)
    q, b = torch.randn(4, conv.out_channels), torch.randn(4) if bias else None
    assert_equal(merge_after(fold_bn(conv, bn), q, b)(x), one_by_one(bn(conv(x)), q, b))


@given(data=st.data(), conv=convs().filter(lambda c: c.groups == 1 and c.bias is None), train=st.booleans())
@quiet
def test_a_1x1_between_conv_and_norm_leaves_the_norm_alone_in_train_mode_too(data, conv, train):
    bn = data.draw(norms(conv.out_channels)).train(train)
    q = torch.randn(conv.out_channels, conv.out_channels)
    x = images(conv)
    merged = merge_after(conv.double(), q.double())  # float64: the batch's own variance may be tiny
    assert_equal(bn.double()(merged(x.double())), bn(one_by_one(conv(x.double()), q.double())))


def test_through_a_norm_the_merge_would_be_wrong_by_far():
    """Multiplying Q into the conv ahead of a BatchNorm, as if the norm were not there."""
    torch.manual_seed(0)
    conv, bn, q = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8).eval(), torch.randn(8, 8)
    bn.running_mean.normal_()
    bn.running_var.uniform_(0.1, 4)
    nn.init.normal_(bn.weight)
    nn.init.normal_(bn.bias)
    x = torch.randn(4, 8, 9, 9)
    expected = one_by_one(bn(conv(x)), q)
    wrong = (bn(merge_after(conv, q)(x)) - expected).detach().norm() / expected.detach().norm()
    right = (merge_after(fold_bn(conv, bn), q)(x) - expected).detach().norm() / expected.detach().norm()
    assert wrong > 0.5 and right < 1e-6


def test_at_the_border_a_bias_before_padding_would_be_wrong():
    """A 1x1 of bias 1 before a sum over 3 x 3: nine ones inside, four at a corner; a merged bias is nine."""
    conv, q = nn.Conv2d(1, 1, 3, padding=1, bias=False), torch.ones(1, 1)
    nn.init.ones_(conv.weight)
    apart = conv(one_by_one(torch.zeros(1, 1, 5, 5), q, torch.ones(1)))
    assert apart[0, 0, 2, 2] == 9 and apart[0, 0, 0, 0] == 4
    with pytest.raises(NotExact, match="pads with zeros, which the bias never reaches"):
        merge_before(conv, q, torch.ones(1))
    merge_before(conv, q, torch.zeros(1))  # a bias of 0 adds nothing


def test_the_channels_that_a_1x1_mixes_are_named():
    q = torch.eye(4)
    q[0, 3] = 0.1
    with pytest.raises(NotExact, match=r"mixes channels 0 and 3, .*\n  Use a diagonal q"):
        merge_after(nn.Conv2d(4, 4, 3, groups=4), q)
    with pytest.raises(NotExact, match=r"mixes channels 0 and 3, .*\n  Use a block-diagonal \(2 x 2\) q"):
        merge_before(nn.Conv2d(4, 4, 3, groups=2), q)


@pytest.mark.parametrize("c_in, c_out", [(1, 1), (1, 3), (3, 1)])
def test_one_channel_is_a_channel_and_weights_of_a_1x1_conv_will_do(c_in, c_out):
    conv, after, before = nn.Conv2d(c_in, c_out, 1), nn.Conv2d(c_out, 1, 1), nn.Conv2d(1, c_in, 1)
    x = torch.randn(2, c_in, 4, 4)
    assert_equal(merge_after(conv, after.weight, after.bias)(x), after(conv(x)))
    assert_equal(merge_before(conv, before.weight, before.bias)(x[:, :1]), conv(before(x[:, :1])))


@given(channels=st.integers(1, 5), eps=st.sampled_from((1e-5, 1e-3)), seed=st.integers(0, 99))
def test_a_neutral_norm_returns_its_input_and_norms_again_in_train_mode(channels, eps, seed):
    torch.manual_seed(seed)
    x = torch.randn(4, channels, 6, 6) * torch.rand(channels, 1, 1) * 5 + torch.randn(channels, 1, 1)
    bn = neutral_bn(x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False), eps=eps)
    assert not bn.training and bn.eps == eps
    assert_equal(bn(x), x)
    other = x[:2] * 3 + 1
    changed = (bn.train()(other) - other).detach().abs()  # by its batch's statistics, not by the stored ones
    assert float(changed.max()) > 0.1


def test_a_channel_that_never_varies_passes_a_neutral_norm():
    x = torch.full((2, 1, 3, 3), 7.0)
    assert torch.equal(neutral_bn(torch.tensor([7.0]), torch.tensor([0.0]))(x), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_what_comes_out_is_new_and_of_the_convs_kind(dtype):
    conv = nn.Conv2d(2, 3, 3, dtype=dtype).eval().requires_grad_(False)
    bn, q = nn.BatchNorm2d(3, dtype=dtype).eval(), torch.eye(3)
    before, state = copy.deepcopy(conv.state_dict()), torch.get_rng_state()
    for made in (merge_after(conv, q), merge_before(conv, torch.eye(2)), fold_bn(conv, bn)):
        assert {p.dtype for p in made.parameters()} == {dtype} and not made.training
        assert not made.weight.requires_grad and made.weight.is_contiguous()
        made.weight.data.zero_(), made.bias.data.zero_()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in conv.state_dict().items())
    assert neutral_bn(torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype)).weight.dtype == dtype


CONV, NAN = nn.Conv2d(4, 6, 3), float("nan")


@pytest.mark.parametrize("call, error, words", [
    (lambda: fold_bn(CONV, nn.BatchNorm2d(6)), NotExact, "is in train mode"),
    (lambda: fold_bn(CONV, nn.BatchNorm2d(6, track_running_stats=False).eval()), NotExact,
     "no running statistics"),
    (lambda: fold_bn(CONV, nn.BatchNorm2d(4).eval()), ValueError, "has 4 channels"),
    (lambda: fold_bn(CONV, nn.GroupNorm(2, 6)), TypeError, "asked to fold a GroupNorm"),
    (lambda: fold_bn(nn.Linear(4, 6), nn.BatchNorm2d(6)), TypeError, "got Linear"),
    (lambda: merge_after(CONV, torch.eye(4)), ValueError, r"q has shape \(4, 4\); asked for \(C_out, 6\)"),
    (lambda: merge_before(CONV, torch.eye(6)), ValueError, r"q has shape \(6, 6\); asked for \(4, C_in\)"),
    (lambda: merge_after(CONV, torch.ones(6, 6, 3, 3)), ValueError, r"q has shape \(6, 6, 3, 3\)"),
    (lambda: merge_after(CONV, torch.eye(6), torch.ones(5)), ValueError,
     r"bias has shape \(5,\); asked for \(6,\)"),
    (lambda: merge_after(CONV, torch.full((6, 6), NAN)), ValueError, "q holds NaN"),
    (lambda: merge_after(nn.ConvTranspose2d(4, 6, 3), torch.eye(6)), TypeError, "got ConvTranspose2d"),
    (lambda: neutral_bn(torch.zeros(2), torch.ones(3)), ValueError, r"mean has shape \(2,\), var \(3,\)"),
    (lambda: neutral_bn(torch.zeros(2, 1), torch.ones(2, 1)), ValueError, r"asked for \(C,\) twice"),
    (lambda: neutral_bn(torch.zeros(2), torch.tensor([1, -2])), ValueError, "variance of channel 1 is -2"),
    (lambda: neutral_bn(torch.zeros(2), torch.tensor([NAN, 1])), ValueError, "variance of channel 0 is nan"),
    (lambda: neutral_bn(torch.zeros(2), torch.zeros(2), eps=0.0), ValueError, "variance of channel 0 is 0"),
    (lambda: neutral_bn(torch.tensor([NAN]), torch.ones(1)), ValueError, "the mean holds NaN"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_in_words(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_conv_that_computes_in_its_own_way_is_refused():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self.weight - self.weight.mean())

    with pytest.raises(TypeError, match="with the forward of torch.nn, got Standardised"):
        fold_bn(Standardised(4, 6, 3), nn.BatchNorm2d(6).eval())
