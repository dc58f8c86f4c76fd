"""The MACs budget: no other ratio, or number of blocks, comes closer to the share that was asked for."""

import pytest
import torch
from helpers.small_nets import head
from torch import nn

import fsc
from fsc.compress.macs_budget import blocks_to_drop, filters_to_prune, prune_macs
from fsc.inputs.nets import NETS


@pytest.mark.filterwarnings("ignore:prune_filters")
def test_no_ratio_of_filters_comes_closer_to_a_share_of_the_macs():
    """The layers have 7, 5 and 4 filters. Ratios in steps of 1/70 reach every possible number of filters."""
    torch.manual_seed(0)
    teacher = nn.Sequential(
        nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(),
        nn.Conv2d(4, 2, 3), *head(2, 2),
    ).eval()
    example = torch.randn(1, 3, 12, 12)
    whole = fsc.cost(teacher, example).macs

    def gone(ratio):
        return 1 - fsc.cost(fsc.prune_filters(teacher, ratio, example=example), example).macs / whole

    reached = [gone(i / 140) for i in range(11, 122, 2)]  # below, none goes; above, all of a layer
    for share in (0.001, 0.2, 0.33, 0.5, 0.71, 0.9, 0.999):
        distance = abs(gone(filters_to_prune(teacher, share, example)) - share)
        assert distance == pytest.approx(min(abs(r - share) for r in reached), abs=1e-12)


@pytest.mark.parametrize("ratio, blocks", [(0.01, 1), (0.15, 1), (0.25, 2), (0.3, 3), (0.5, 4), (0.9, 7)])
def test_the_number_of_blocks_comes_closest_to_a_share_of_the_macs(ratio, blocks):
    """Each of seven blocks that can go has 2 x 9 x 16^2 x 32^2 of ResNet-20's 40,551,040 MACs: 11.64 %."""
    assert blocks_to_drop(NETS["resnet20"](10).eval(), ratio, torch.randn(1, 3, 32, 32)) == blocks


def test_a_layer_of_one_filter_is_refused_in_the_words_of_pruning():
    net = nn.Sequential(nn.Conv2d(3, 1, 3), nn.ReLU(), nn.Conv2d(1, 2, 3), *head(2)).eval()
    with pytest.raises(ValueError, match="prune_filters: .* removes nothing"):
        prune_macs(net, 0.5, torch.randn(1, 3, 8, 8))
