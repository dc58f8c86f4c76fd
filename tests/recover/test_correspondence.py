"""Dropped blocks and FSKD: the layer before a dropped block makes up for it, and the sweep goes on."""

import copy
from functools import partial

import pytest
import torch
from helpers.probes import feature, odd_norms
from helpers.random_nets import random_nets
from hypothesis import given, settings
from torch import nn

import fsc
from fsc.graph.tracing import trace
from fsc.inputs.nets import NETS, VGG, ResNet
from fsc.recover.correspondence import replacements
from fsc.recover.sites import find_sites
from fsc.runtime import quiet
from fsc.surgery import merges

fskd, errors_of = (partial(function, progress=quiet) for function in (fsc.fskd, fsc.error_map))


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return odd_norms(ResNet(3))


@pytest.fixture
def images():
    return torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def pairs(teacher, student, images):
    """Names of the student's nodes that make up for a dropped block -> of the teacher's nodes."""
    found = replacements(trace(teacher, images), trace(student, images))
    return {mine.name: found[mine].teacher_node.name for mine in found}


# -- which feature corresponds to which ------------------------------------------------------------


def test_the_sum_before_a_dropped_block_reproduces_the_sum_behind_it(teacher, images):
    student = fsc.drop_blocks(teacher, ["layer1.1", "layer2.1", "layer2.2"])
    # The adds of the teacher's nine blocks are add, add_1, ... add_8; of the student's six, add ... add_5.
    assert pairs(teacher, student, images) == {"add": "add_1", "add_2": "add_5"}


def test_without_an_activation_it_is_the_sum_or_norm_itself(images):
    net = NETS["mobilenet"](10).eval()
    student = fsc.drop_blocks(net, ["blocks.3", "blocks.6"])  # blocks.2 has no shortcut, blocks.5 has one
    assert pairs(net, student, images) == {"blocks_2_branch_7": "add_2", "add_2": "add_4"}


def test_no_node_makes_up_for_a_block_whose_input_is_read_elsewhere_too(images):
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(c, 4, 3, padding=1) for c in (3, 4, 4))
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            x = self.a(x)
            x = self.c(self.b(x)) - x
            return self.head(x.mean((2, 3)))

    net = Skips().eval()
    student = fsc.drop_blocks(net, ["b"])
    assert pairs(net, student, images) == {} and isinstance(student.b, nn.Identity)
    assert pairs(net, fsc.drop_blocks(net, ["c"]), images) == {"b": "c"}


def test_a_conv_reproduces_the_batchnorm_that_was_folded_into_it(teacher, images):
    student = copy.deepcopy(teacher)
    block = student.layer1[0]
    block.conv2, block.bn2 = merges.fold_bn(block.conv2, block.bn2), nn.Identity()
    assert pairs(teacher, student, images) == {"layer1_0_conv2": "layer1_0_bn2"}
    again = fskd(teacher, student, images)
    assert torch.allclose(again(images), teacher(images), rtol=1e-4, atol=1e-4)


# -- recovered -------------------------------------------------------------------------------------


def test_the_block_before_a_hole_is_fitted_to_what_the_dropped_block_made(teacher, images):
    student = fsc.drop_blocks(teacher, ["layer1.1"])
    mended = fskd(teacher, student, images, ridge=0.0)
    x = feature(teacher, "layer1.0.bn2", images)                            # (N, C, H, W)
    shortcut = feature(teacher, "layer1.0.shortcut", images)
    wanted = sum(feature(teacher, f"layer1.1.{name}", images) for name in ("bn2", "shortcut")) - shortcut
    wanted = torch.where((wanted + shortcut <= 0) & (x + shortcut <= 0), x, wanted)  # same behind the ReLU
    rows, y = (t.transpose(0, 1).flatten(1).T.double() for t in (x, wanted))  # (rows, C)
    ones = torch.ones(len(rows), 1).double()
    solution = torch.linalg.lstsq(torch.cat([rows, ones], 1), y, driver="gelsd").solution
    found = feature(mended, "layer1.0.bn2", images).transpose(0, 1).flatten(1).T.double()
    assert torch.allclose(found, torch.cat([rows, ones], 1) @ solution, atol=1e-3)
    assert torch.equal(mended.layer1[0].conv1.weight, student.layer1[0].conv1.weight)  # as it was


DROPPED = {
    "two in a row": (["layer2.1", "layer2.2"], "block"), "of two stages": (["layer1.2", "layer3.1"], "conv"),
    "the first": (["layer1.0"], "conv"), "the last": (["layer3.2"], "block"),
}  # fmt: skip


@pytest.mark.parametrize("names, at", DROPPED.values(), ids=DROPPED)
def test_every_error_behind_a_hole_becomes_smaller(teacher, images, names, at):
    student = fsc.drop_blocks(teacher, names)
    mended = fskd(teacher, student, images, at=at)
    before, after = (errors_of(teacher, net, images) for net in (student, mended))
    behind = before > 0
    assert behind.any() and (after[behind] < before[behind]).all()
    assert (after[~behind] == 0).all() and after.iloc[-1] < 0.8 * before.iloc[-1]
    assert fsc.cost(mended, images) == fsc.cost(student, images)


def test_dropped_pruned_and_factorized_in_any_order_are_recovered(teacher, images):
    def drop(net):
        return fsc.drop_blocks(net, ["layer2.1"])

    def prune(net):
        return fsc.prune_filters(net, 0.3)

    def split(net):
        return fsc.factorize(net, 0.3)

    for first, second, third in ((drop, prune, split), (prune, split, drop), (split, drop, prune)):
        student = third(second(first(teacher)))
        mended = fskd(teacher, student, images)
        before, after = (errors_of(teacher, net, images).iloc[-1] for net in (student, mended))
        assert after < 0.8 * before


def test_of_a_conv_dropped_from_a_pruned_stream_it_is_the_dropped_ones_channels_that_count(images):
    torch.manual_seed(0)
    net = odd_norms(VGG((8, 8, 8)))
    pruned = fsc.prune_filters(net, 0.5, coupled=True)
    first, second = (fsc.kept_channels(pruned, name).tolist() for name in ("features.0", "features.3"))
    student = fsc.drop_blocks(pruned, ["features.3", "features.4", "features.5"])
    sites, _ = find_sites(trace(net, images), trace(student, images), student, at="conv")
    assert sites[0].name == "features.1" and sites[0].teacher_node.target == "features.4"
    assert sites[0].kept.tolist() == second != first


def test_a_dropped_block_that_computes_nothing_is_not_missed(teacher, images):
    for block in (teacher.layer1[1], teacher.layer3[2]):
        nn.init.zeros_(block.bn2.weight), nn.init.zeros_(block.bn2.bias)
    student = fsc.drop_blocks(teacher, ["layer1.1", "layer3.2"])
    assert (errors_of(teacher, student, images) < 1e-9).all()
    mended = fskd(teacher, student, images)
    assert torch.allclose(mended(images), teacher(images), rtol=1e-4, atol=1e-5)


@given(net=random_nets())
@settings(max_examples=8)
@pytest.mark.filterwarnings("ignore:fskd")
def test_what_is_reported_of_a_dropped_random_net_is_what_it_does(net):
    x = torch.randn(7, 3, 12, 12, dtype=torch.float64)
    try:
        student = fsc.drop_blocks(net, fsc.droppable_blocks(net, example=x)[:2], example=x)
    except ValueError:
        return
    mended = fskd(net, student, x, at="block", ridge=0.0)
    report = fsc.report_of(mended)
    assert (report.error_after <= report.error_before + 1e-9).all()
    again = errors_of(net, mended, x)
    assert (again.to_numpy() <= report.error_after.to_numpy() * (1 + 1e-5) + 1e-9).all()
