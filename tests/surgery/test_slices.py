"""Slices of dense, grouped and depthwise convs have the right weights; what cannot be sliced is refused."""

import pytest
import torch
from torch import nn

from fsc.surgery.recipe import apply_edit
from fsc.surgery.slices import slice_channels, slice_modules


def test_a_dense_conv_keeps_the_named_rows_and_columns():
    conv = nn.Conv2d(5, 4, 3, stride=2, padding=1)
    weight, bias = conv.weight.detach().clone(), conv.bias.detach().clone()
    slice_channels(conv, out=torch.tensor([0, 3]), into=torch.tensor([1, 2, 4]))
    assert torch.equal(conv.weight, weight[[0, 3]][:, [1, 2, 4]]) and torch.equal(conv.bias, bias[[0, 3]])
    assert (conv.out_channels, conv.in_channels, conv.stride) == (2, 3, (2, 2))


def test_a_grouped_conv_equals_its_two_halves_sliced_apart():
    conv = nn.Conv2d(8, 6, 3, padding=1, groups=2).double()
    halves = [nn.Conv2d(4, 3, 3, padding=1).double() for _ in range(2)]
    for i, half in enumerate(halves):
        rows = slice(3 * i, 3 * i + 3)
        half.weight.data, half.bias.data = conv.weight.data[rows], conv.bias.data[rows]
    slice_channels(conv, out=torch.tensor([0, 2, 3, 4]), into=torch.tensor([1, 3, 4, 5]))
    slice_channels(halves[0], out=torch.tensor([0, 2]), into=torch.tensor([1, 3]))
    slice_channels(halves[1], out=torch.tensor([0, 1]), into=torch.tensor([0, 1]))
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    assert torch.allclose(conv(x), torch.cat([halves[0](x[:, :2]), halves[1](x[:, 2:])], 1))


def test_a_depthwise_conv_loses_whole_groups_with_all_their_outputs():
    conv = nn.Conv2d(3, 6, 3, groups=3)
    x = torch.randn(1, 3, 5, 5)
    full = conv(x)
    slice_channels(conv, out=torch.tensor([0, 1, 4, 5]), into=torch.tensor([0, 2]))
    assert torch.allclose(conv(x[:, [0, 2]]), full[:, [0, 1, 4, 5]]) and conv.groups == 2


def test_batchnorm_and_linear_follow():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Linear(4, 2))
    nn.init.normal_(net[0].running_mean)
    mean, weight = net[0].running_mean.clone(), net[1].weight.detach().clone()
    slice_modules(net, {"0": {"out": [0, 2]}, "1": {"in": [1, 3]}})
    assert torch.equal(net[0].running_mean, mean[[0, 2]]) and net[0].num_features == 2
    assert torch.equal(net[1].weight, weight[:, [1, 3]]) and net[1].in_features == 2


def test_a_frozen_parameter_stays_frozen():
    conv = nn.Conv2d(2, 4, 1).requires_grad_(False)
    slice_channels(conv, out=torch.tensor([0]))
    assert not conv.weight.requires_grad


@pytest.mark.parametrize("module, sides, words", [
    (nn.Conv2d(8, 4, 3, groups=2), {"out": [0, 1, 2]}, r"\[4, 4\] inputs and \[2, 1\] outputs per group"),
    (nn.Conv2d(4, 8, 3, groups=4), {"out": [0, 1], "into": [1]}, "outputs that are not theirs"),
    (nn.Conv2d(4, 8, 3, groups=4), {"out": [0, 2, 3], "into": [0, 1]}, "outputs that are not theirs"),
])  # fmt: skip
def test_groups_that_would_become_unequal_are_refused(module, sides, words):
    with pytest.raises(ValueError, match=words):
        slice_channels(module, **{side: torch.tensor(kept) for side, kept in sides.items()})


def test_a_module_without_channels_is_refused():
    with pytest.raises(TypeError, match="ReLU has no channels to slice"):
        slice_channels(nn.ReLU(), out=torch.tensor([0]))


def test_an_edit_of_a_recipe_slices_splits_and_drops():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 6, 1)).eval()
    kept = [0, 2]
    slices = {"0": {"out": kept}, "1": {"out": kept}, "2": {"in": kept}}
    apply_edit(net, {"edit": "prune_filters", "slices": slices})
    apply_edit(net, {"edit": "factorize", "splits": {"2": {"scheme": "spatial", "rank": 3}}})
    apply_edit(net, {"edit": "drop_blocks", "dropped": ["3"]})
    apply_edit(net, {"edit": "fskd", "asked": {}})  # weights only
    assert [m.weight.shape for m in (net[0], *net[2])] == [(2, 3, 3, 3), (3, 2, 3, 1), (6, 3, 1, 3)]
    assert isinstance(net[3], nn.Identity) and not any(module.training for module in net.modules())
