"""Filter pruning: slices equal zeroed channels, and Torch-Pruning's slices; refusals say why."""

import copy

import pytest
import torch
import torch_pruning
import torchvision
from helpers.random_nets import random_nets
from helpers.small_nets import head
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import fsc
from fsc.compress.channel_groups import Group, find_groups
from fsc.graph.channels import follow_channels
from fsc.graph.tracing import trace
from fsc.inputs.nets import NETS
from fsc.runtime import fingerprint


def kept_of(student: nn.Module, conv: str) -> torch.Tensor | None:
    return fsc.kept_channels(student, conv)


def with_zeroed_channels(net, student):
    """The net itself, each removed channel set to zero right behind its activation."""
    zeroed = copy.deepcopy(net)
    for shown, source in net.shows().items():
        kept, module = kept_of(student, source), net.get_submodule(source)
        if kept is not None:
            channels = module.out_channels if isinstance(module, nn.Conv2d) else module.num_features
            mask = torch.zeros(channels, 1, 1).double()
            mask[kept] = 1
            zeroed.get_submodule(shown).register_forward_hook(lambda m, i, out, mask=mask: out * mask)
    return zeroed


@given(net=random_nets(), ratio=st.sampled_from((0.2, 0.34, 0.5, 0.6)), coupled=st.booleans())
@pytest.mark.filterwarnings("ignore:prune_filters")
def test_a_sliced_net_equals_the_net_with_channels_zeroed_behind_their_activation(net, ratio, coupled):
    try:
        student = fsc.prune_filters(net, ratio, coupled=coupled)
    except ValueError as err:
        assume("leaves" not in str(err) and "removes nothing" not in str(err) and "no filter" not in str(err))
        raise
    x = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    expected = with_zeroed_channels(net, student)(x)
    error = (student(x) - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    assert error <= 1e-5, f"relative error {error:.1e}"
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in net.parameters())


def removed_channels(teacher, student):
    for name, conv in teacher.named_modules():
        if isinstance(conv, nn.Conv2d) and (kept := kept_of(student, name)) is not None:
            yield name, sorted(set(range(conv.out_channels)) - set(kept.tolist()))


@pytest.mark.parametrize("arch, coupled", [
    ("resnet18", False), ("resnet18", True), ("vgg11_bn", False), ("mobilenet_v2", False),
    ("mobilenet_v2", True), ("squeezenet1_1", False), ("densenet121", False), ("googlenet", False),
])
@pytest.mark.filterwarnings("ignore:prune_filters")
def test_slices_equal_those_of_torch_pruning(arch, coupled):
    torch.manual_seed(0)
    options = {"aux_logits": False, "init_weights": True} if arch == "googlenet" else {}
    teacher = torchvision.models.get_model(arch, weights=None, **options).eval()
    student = fsc.prune_filters(teacher, 0.5, coupled=coupled)
    theirs = copy.deepcopy(teacher)
    graph = torch_pruning.DependencyGraph().build_dependency(theirs, torch.randn(1, 3, 64, 64))
    done = set()
    for name, gone in removed_channels(teacher, student):
        conv = theirs.get_submodule(name)
        if name in done:
            continue
        group = graph.get_pruning_group(conv, torch_pruning.prune_conv_out_channels, idxs=gone)
        for dependency, _ in group:
            done.update(n for n, m in theirs.named_modules() if m is dependency.target.module
                        and "out" in dependency.handler.__name__)
        group.prune()
    ours, expected = student.state_dict(), theirs.state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in expected.items()}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.items())


def test_the_filters_of_lowest_l1_norm_go():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), *head(2)).eval()
    net[0].weight.data = torch.tensor([3.0, -1.0, 0.5, -2.0])[:, None, None, None].expand(4, 3, 3, 3).clone()
    assert kept_of(fsc.prune_filters(net, 0.5), "0").tolist() == [0, 3]
    student = fsc.prune_filters(net, 0.5, criterion=lambda conv, bn: torch.arange(4.0))
    assert kept_of(student, "0").tolist() == [2, 3]


@pytest.mark.parametrize("conv_groups, labels", [(1, [[3, 4, 5, 6]]), (2, [[3, 4], [5, 6]])])
def test_channels_of_the_same_places_are_one_group(conv_groups, labels):
    reader = nn.Conv2d(4, 2, 3, groups=conv_groups)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), reader).eval()
    assert find_groups(follow_channels(trace(net)), coupled=False) == [Group(["0"], of) for of in labels]


def test_a_masked_channel_still_speaks_through_batchnorm():
    """A channel with zero weights still emits relu(beta) = 2; the next conv multiplies it by 3."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 1), *head(1)).eval()
    net[1].bias.data[:] = 2.0
    net[3].weight.data[:] = 3.0
    net[0].weight.data[:, 0, 0, 0] = torch.tensor([1.0, 0.1])
    net[0].bias.data[:] = 0.0
    student = fsc.prune_filters(net, {"0": 0.5}, example=torch.randn(1, 1, 8, 8))
    masked = copy.deepcopy(net)
    masked[0].weight.data[1] = 0.0
    x = torch.randn(4, 1, 8, 8)
    assert torch.allclose(masked[:4](x) - student[:4](x), torch.tensor(6.0), atol=1e-5)


def test_inner_channels_go_and_the_residual_stream_stays_by_default():
    teacher = NETS["resnet20"](10).eval()
    student = fsc.prune_filters(teacher, 0.5)
    for block in [*student.layer1, *student.layer2, *student.layer3]:
        wide = block.conv2.out_channels
        assert block.conv1.out_channels == block.bn1.num_features == block.conv2.in_channels == wide // 2
    assert student.conv1.out_channels == 16 and student.linear.in_features == 64


def test_the_teacher_is_left_as_it_was_and_the_student_trains():
    teacher = NETS["mobilenet"](10).eval().requires_grad_(False)
    before = fingerprint(teacher)
    student = fsc.prune_filters(teacher, 0.5)
    assert fingerprint(teacher) == before and not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in student.parameters()) and not student.training
    assert not any(module._forward_pre_hooks for module in [*teacher.modules(), *student.modules()])


def test_ratios_by_name_prune_the_named_convs_only():
    student = fsc.prune_filters(NETS["resnet20"](10), {"layer2.0.conv1": 0.75, "layer3.1.conv1": 0.25})
    widths = {name: m.out_channels for name, m in student.named_modules() if name.endswith("conv1")}
    assert widths["layer2.0.conv1"] == 8 and widths["layer3.1.conv1"] == 48 and widths["layer1.0.conv1"] == 16


def test_random_filters_follow_the_seed():
    teacher = NETS["resnet20"](10)
    students = [fsc.prune_filters(teacher, 0.5, criterion="random", seed=seed) for seed in (0, 0, 1)]
    kept = [kept_of(student, "layer3.0.conv1") for student in students]
    assert torch.equal(kept[0], kept[1]) and not torch.equal(kept[0], kept[2])


def test_the_bn_criterion_ranks_by_the_scale():
    teacher = NETS["resnet20"](10)
    teacher.layer1[0].bn1.weight.data = torch.linspace(-1, 1, 16)
    kept = kept_of(fsc.prune_filters(teacher, {"layer1.0.conv1": 0.5}, criterion="bn"), "layer1.0.conv1")
    assert kept.tolist() == [0, 1, 2, 3, 12, 13, 14, 15]


@pytest.mark.parametrize("ratio, words", [
    *[(ratio, "not inside (0, 1)") for ratio in (0, 1, -0.1, 1.5, float("nan"), "half")],
    (0.99, "leaves layer1.0.conv1 with 0 of 16 filters"), (0.001, "removes nothing"),
    ({"layer9.conv1": 0.5}, 'has no module "layer9.conv1"'),
    ({"layer1.0.conv3": 0.5}, "Near it: layer1.0.conv1"),
    ({"layer1.0.conv2": 0.5}, "layer1.0.conv2 cannot be pruned"), ({"bn1": 0.5}, "bn1 cannot be pruned"),
    ({}, "names no conv"),
])
def test_a_ratio_that_cannot_be_meant_is_refused(ratio, words):
    with pytest.raises(ValueError) as caught:
        fsc.prune_filters(NETS["resnet20"](10), ratio)
    assert words in str(caught.value) and str(caught.value).startswith("prune_filters: ")


def test_a_ratio_that_empties_a_layer_names_one_that_does_not():
    with pytest.raises(ValueError) as caught:
        fsc.prune_filters(NETS["resnet20"](10), 0.98)
    assert 'ratio={"layer1.0.conv1": 0.9375, "*": 0.98}' in str(caught.value)


def test_layers_too_narrow_for_the_ratio_are_named():
    with pytest.warns(UserWarning, match=r"left whole: layer1.0.conv1 \(16\), layer1.1.conv1 \(16\)"):
        fsc.prune_filters(NETS["resnet20"](10), 0.02)


def test_coupled_pruning_says_what_stays_and_why():
    with pytest.warns(UserWarning, match="pad in layer2.0.shortcut does not treat channels one by one"):
        fsc.prune_filters(NETS["resnet20"](10), 0.5, coupled=True)


@pytest.mark.parametrize("criterion, words", [
    ("l3", 'There are "l1", "l2", "bn", "random"'),
    (lambda conv, bn: torch.ones(3), "asked for 16 finite scores"),
    (lambda conv, bn: 1.0, "gave float"),
    (lambda conv, bn: conv.weight.flatten(1).sum(1) / 0, "finite scores"),
])
def test_a_criterion_that_does_not_score_filters_is_refused(criterion, words):
    with pytest.raises(ValueError) as caught:
        fsc.prune_filters(NETS["resnet20"](10), 0.5, criterion=criterion)
    assert words in str(caught.value)


def test_a_net_with_nothing_to_prune_says_why():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(ValueError, match="the classifier ties its channels"):
        fsc.prune_filters(net, 0.5)


class CountsOnFixedChannels(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.conv2(self.conv1(x).reshape(-1, 8, 32, 32)).mean((2, 3))


def test_a_forward_that_counts_on_fixed_channels_is_refused():
    with pytest.raises(fsc.NotExact, match="does not run without these channels"):
        fsc.prune_filters(CountsOnFixedChannels(), 0.5)
