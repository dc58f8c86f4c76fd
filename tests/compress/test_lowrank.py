"""Factorized students: they lose the parameters asked for, are rebuilt from the recipe, or are refused."""

import warnings

import pytest
import torch
import torchvision
from helpers.small_nets import plain
from torch import nn

import fsc
from fsc.inputs.nets import NETS
from fsc.runtime import fingerprint
from fsc.surgery.factorized_convs import SCHEMES, split_params
from fsc.surgery.recipe import teacher_name

pytestmark = pytest.mark.filterwarnings("ignore:factorize", "ignore:prune_filters")


def splits_of(student):
    return fsc.recipe_of(student)[-1]["splits"]


# Not the convs with 512 channels: their SVD takes long.
NARROW = {"layer1.0.conv1": 0.5, "layer2.0.downsample.0": 0.5, "layer2.1.conv2": 0.5}
WIDER_THAN_1X1 = {name: ratio for name, ratio in NARROW.items() if "downsample" not in name}


@pytest.mark.parametrize("name, scheme, ratio", [
    *[(name, scheme, 0.5) for name in ("resnet20", "vgg9") for scheme in SCHEMES], ("mobilenet", "svd", 0.5),
    ("resnet18", "decouple", 0.5), ("resnet18", "svd", NARROW), ("resnet18", "spatial", WIDER_THAN_1X1),
    ("mobilenet_v2", "svd", 0.5), ("vgg11", "decouple", 0.5),
])
def test_each_conv_loses_the_share_to_within_one_rank_and_is_rebuilt_exactly(name, scheme, ratio, tmp_path):
    torch.manual_seed(0)
    teacher = (NETS[name](10) if name in NETS else torchvision.models.get_model(name, weights=None)).eval()
    x = torch.randn(1, 3, 32, 32)
    student = fsc.factorize(teacher, ratio, scheme=scheme, example=x)
    for name, split in splits_of(student).items():
        conv, pair = teacher.get_submodule(name), student.get_submodule(name)
        whole, left = (sum(p.numel() for p in module.parameters()) for module in (conv, pair))
        one_rank = split_params(conv, scheme, 2) - split_params(conv, scheme, 1)
        assert left <= 0.5 * whole < left + one_rank or (split["rank"] == 1 and left < whole), name
    assert ratio == 0.5 or set(splits_of(student)) == set(ratio)
    before, after = fsc.cost(teacher, x), fsc.cost(student, x)
    assert after.params < before.params and after.macs < before.macs
    fsc.save(student, tmp_path / "s")
    with torch.no_grad():
        assert torch.equal(fsc.load(tmp_path / "s", teacher)(x), student(x))


@pytest.mark.parametrize("scheme", ["spatial", "decouple"])
def test_a_net_of_1x1_and_depthwise_convs_has_nothing_for_the_other_schemes(scheme):
    with pytest.raises(ValueError, match="changes nothing in this MobileNetV2") as caught:
        fsc.factorize(torchvision.models.mobilenet_v2(weights=None), 0.5, scheme=scheme)
    assert f'features.1.conv.1: it is 1x1, where scheme "{scheme}" saves nothing' in str(caught.value)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_teacher_is_left_as_it_was_and_the_student_trains(scheme):
    teacher = NETS["resnet20"](10).requires_grad_(False)
    before, state = fingerprint(teacher), torch.get_rng_state()
    student = fsc.factorize(teacher, 0.5, scheme=scheme)
    assert torch.equal(torch.get_rng_state(), state)
    assert fingerprint(teacher) == before and teacher.training and not student.training
    assert all(p.requires_grad for p in student.parameters())
    assert not any(m._forward_hooks for m in student.modules())
    assert isinstance(student.conv1, nn.Conv2d) and len(splits_of(student)) == 18  # conv1 reads the images


def test_the_smaller_the_share_removed_the_nearer_to_the_teacher():
    torch.manual_seed(0)
    teacher, x = NETS["vgg9"](10).eval(), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        errors = [float((fsc.factorize(teacher, ratio)(x) - teacher(x)).norm()) for ratio in (0.1, 0.5, 0.9)]
    assert errors == sorted(errors)


def test_ratios_by_name_factorize_the_named_convs_only_and_the_first_one_if_named():
    def ranks(ratio):
        splits = splits_of(fsc.factorize(NETS["resnet20"](10), ratio))
        return {name: split["rank"] for name, split in splits.items()}

    # conv1: 432 weights, 27 + 16 per rank; layer3.0.conv2: 36864 weights, 576 + 64 per rank
    assert ranks({"conv1": 0.5, "layer3.0.conv2": 0.75}) == {"conv1": 5, "layer3.0.conv2": 14}
    # layer3.0.conv1: 18432 weights, 288 + 64 per rank
    found = ranks({"layer3.0.conv2": 0.75, "*": 0.5})
    assert found["layer3.0.conv2"] == 14 and found["layer3.0.conv1"] == 26 and "conv1" not in found


def test_batchnorm_and_bias_go_on_where_they_were():
    net = plain(nn.BatchNorm2d(8), nn.ReLU())
    student = fsc.factorize(net, 0.5)
    assert list(splits_of(student)) == ["3"]
    assert torch.equal(student[3][1].bias, net[3].bias) and student[3][0].bias is None


def test_a_factorized_student_is_pruned_as_any_net(tmp_path):
    teacher, x = NETS["resnet20"](10).eval(), torch.randn(1, 3, 32, 32)
    factorized = fsc.factorize(teacher, 0.5)
    student = fsc.prune_filters(factorized, {"layer1.0.conv1.1": 0.5, "layer1.0.conv1.0": 0.5})
    pair = student.layer1[0].conv1  # of rank 7 before
    assert [m.out_channels for m in pair] == [3, 8] and student.layer1[0].conv2[0].in_channels == 8
    kept = fsc.kept_channels(student, "layer1.0.conv1.1")
    assert len(kept) == 8 and torch.equal(kept, fsc.kept_channels(student, "layer1.0.conv1"))
    assert torch.equal(kept, fsc.kept_channels(student, "layer1.0.conv2", "in"))
    assert torch.equal(kept, fsc.kept_channels(student, "layer1.0.conv2.0", "in"))
    assert fsc.kept_channels(student, "layer1.0.conv1", "in") is None
    fsc.save(student, tmp_path / "s")
    assert torch.equal(fsc.load(tmp_path / "s", teacher)(x), student(x))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_kept_channels_are_those_of_the_teacher_in_either_order_of_the_two_edits(scheme, tmp_path):
    teacher, x = NETS["resnet20"](10).eval(), torch.randn(1, 3, 32, 32)
    pruned = fsc.prune_filters(teacher, {"layer3.0.conv1": 0.5})
    first = fsc.kept_channels(pruned, "layer3.0.conv1")
    student = fsc.factorize(pruned, 0.5, scheme=scheme)
    assert torch.equal(fsc.kept_channels(student, "layer3.0.conv1.1"), first)
    assert torch.equal(fsc.kept_channels(student, "layer3.0.conv2.0", "in"), first)
    twice = fsc.prune_filters(student, {"layer3.0.conv1.1": 0.5})
    second = torch.tensor(fsc.recipe_of(twice)[-1]["slices"]["layer3.0.conv1.1"]["out"])
    assert len(second) == 16 and torch.equal(fsc.kept_channels(twice, "layer3.0.conv1"), first[second])
    assert torch.equal(fsc.kept_channels(twice, "layer3.0.bn1"), first[second])
    assert torch.equal(twice.layer3[0].conv1[1].weight, student.layer3[0].conv1[1].weight[second])
    fsc.save(twice, tmp_path / "s")
    assert torch.equal(fsc.load(tmp_path / "s", teacher)(x), twice(x))


def test_the_last_of_two_convs_stands_for_the_teachers_and_the_first_for_none():
    student = fsc.factorize(NETS["resnet20"](10), {"layer1.0.conv1": 0.3})
    again = fsc.factorize(student, {"layer1.0.conv1.0": 0.3}, scheme="spatial")
    for name in ("layer1.0.conv1.1", "layer1.0.conv1"):
        assert teacher_name(student, name) == "layer1.0.conv1"
    assert teacher_name(student, "layer1.0.conv1.0") is None
    assert teacher_name(student, "layer1.0.bn1") == "layer1.0.bn1"
    assert teacher_name(again, "layer1.0.conv1.1") == "layer1.0.conv1"
    assert teacher_name(again, "layer1.0.conv1.0.0") is teacher_name(again, "layer1.0.conv1.0.1") is None
    with pytest.raises(ValueError, match="no module of that name"):
        teacher_name(student, "layer9")


class Odd(nn.Module):
    """One conv called twice, one under two names, one whose weight is read, one hooked, one never called."""

    def __init__(self):
        super().__init__()
        self.first, self.twice, self.named, self.read, self.hooked, self.never, self.good = (
            nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1) for i in range(7)
        )
        self.alias, self.linear = self.named, nn.Linear(16, 4)
        self.hooked.register_forward_hook(lambda module, args, out: out * 2)

    def forward(self, x):
        x = self.twice(self.twice(self.first(x)).relu()).relu()
        x = self.read(self.alias(x)).relu() * self.read.weight.mean()
        return self.linear(self.good(self.hooked(x)).mean((2, 3)))


@pytest.mark.filterwarnings("default:factorize")
def test_convs_that_cannot_be_two_stay_whole_and_are_named_with_the_reason():
    net = Odd().eval()
    with pytest.warns(UserWarning, match="these stay as they are") as caught:
        student = fsc.factorize(net, 0.5)
    text = str(caught[0].message)
    assert list(splits_of(student)) == ["good"]
    for words in ("twice: the forward calls it 2 times", "named, read: it shares its weights",
                  "hooked: it computes", "never: the forward does not use it"):
        assert words in text
    assert "first" not in text


@pytest.mark.filterwarnings("default:factorize")
def test_depthwise_convs_and_1x1_convs_are_named():
    with pytest.warns(UserWarning, match="it is depthwise"):
        assert all("deep" not in name for name in splits_of(fsc.factorize(NETS["mobilenet"](10), 0.5)))
    net = plain(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, groups=2))
    words = '1: it is 1x1, where scheme "spatial" saves nothing.\n  2: it has 2 groups'
    with pytest.warns(UserWarning, match=words):
        fsc.factorize(net, 0.5, scheme="spatial")


@pytest.mark.filterwarnings("default:factorize")
def test_a_share_that_no_rank_reaches_is_told():
    # 8 x 6 x 3 x 3 weights and 6 biases; depthwise 8 x 3 x 3, pointwise 8 x 6, 6 biases: 1 - 126 / 438
    with pytest.warns(UserWarning, match=r"rank 1 removes less than asked for: 2 \(0.71\)"):
        student = fsc.factorize(plain(nn.ReLU()), 0.9, scheme="decouple")
    assert splits_of(student)["2"]["rank"] == 1


def test_nothing_is_warned_of_where_all_is_as_asked():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fsc.factorize(NETS["resnet20"](10), 0.5)


class AsksForMore(nn.Module):
    def __init__(self, hide):
        super().__init__()
        self.one, self.two, self.linear = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)
        self.hidden = [self.two] if hide else None

    def forward(self, x):
        two = self.hidden[0] if self.hidden else self.two
        return self.linear(two(self.one(x)).mean((2, 3)) * two.out_channels)


@pytest.mark.parametrize("hide, words", [
    (False, "does not run with two convs"), (True, "does not call what stands"),
])
def test_a_forward_that_does_not_call_the_two_convs_is_refused(hide, words):
    with pytest.raises(fsc.NotExact, match=words):
        fsc.factorize(AsksForMore(hide).eval(), 0.5)


@pytest.mark.parametrize("ratio, words", [
    *[(ratio, "not inside (0, 1)") for ratio in (0, 1, 1.5, True, float("nan"), "half")],
    ({"conv1": 2}, "for conv1"),
    ({}, "names no conv"), ({"layer9.conv1": 0.5}, 'has no module "layer9.conv1"'),
    ({"layer1.0.conv3": 0.5}, "Near it: layer1.0.conv"),
    ({"bn1": 0.5}, "bn1 cannot be factorized: it is a BatchNorm2d"),
])
def test_a_ratio_that_cannot_be_meant_is_refused(ratio, words):
    with pytest.raises(ValueError) as caught:
        fsc.factorize(NETS["resnet20"](10), ratio)
    assert words in str(caught.value) and str(caught.value).startswith("factorize: ")


@pytest.mark.parametrize("call, words", [
    (lambda: fsc.factorize(NETS["resnet20"](10), 0.5, scheme="tucker"), "unknown scheme 'tucker'"),
    (lambda: fsc.factorize(NETS["mobilenet"](10), {"1.deep": 0.5}), "has no module"),
    (lambda: fsc.factorize(nn.Sequential(nn.Conv2d(3, 8, 3)), 0.5),
     "changes nothing .*\n.*0: it reads the images"),
    (lambda: fsc.factorize(plain(nn.Conv2d(8, 8, 3, groups=8)), {"1": 0.5}),
     "1 cannot be factorized: it is depthwise"),
    (lambda: fsc.factorize(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), 0.5, example=torch.ones(1, 3, 1, 1)),
     "calls no Conv2d"),
])
def test_what_cannot_be_factorized_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_weights_that_are_not_finite_name_their_conv():
    net = plain(nn.ReLU())
    net[2].weight.data[0] = float("inf")
    with pytest.raises(ValueError, match="factorize: the weights of 2 hold NaN or infinity"):
        fsc.factorize(net, 0.5)
