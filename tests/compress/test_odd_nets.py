"""Unusual networks: each is pruned correctly, or refused with a reason, or left whole with a warning."""

import copy
import os
import threading

import numpy as np
import pytest
import torch
import torchvision
from helpers.small_nets import head, plain
from torch import nn

import fsc
from fsc.inputs.nets import NETS
from fsc.runtime import fingerprint


def test_the_bn_criterion_asks_the_norm_right_behind_each_conv():
    """The expansion and the depthwise conv of an inverted residual each have a BatchNorm of their own."""
    net = plain(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU())
    net[1].weight.data = torch.tensor([0.0] * 4 + [9.0] * 4)
    net[4].weight.data = torch.tensor([1.0] * 4 + [0.9] * 4)
    assert fsc.kept_channels(fsc.prune_filters(net, {"0": 0.5}, criterion="bn"), "0").tolist() == [4, 5, 6, 7]
    with pytest.raises(ValueError, match=r"Conv2d\(3, 8, .* has none"):
        fsc.prune_filters(plain(), 0.5, criterion="bn")


def test_other_threads_go_on_undisturbed_while_a_net_is_pruned():
    teacher, other = NETS["resnet20"](10).eval(), NETS["resnet20"](10).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = teacher(x), other(x)
    wrong, stop = [], threading.Event()

    def use():
        while not stop.is_set():
            with torch.no_grad():
                for net, wanted in zip((teacher, other), expected, strict=True):
                    try:
                        if not torch.equal(net(x), wanted):
                            wrong.append("another output")
                    except Exception as err:  # whatever fx's patches might raise
                        wrong.append(repr(err))

    thread = threading.Thread(target=use)
    thread.start()
    for _ in range(3):
        fsc.prune_filters(teacher, 0.5)
    stop.set()
    thread.join()
    assert not wrong, f"{len(wrong)} passes went wrong, the first: {wrong[0]}"


class KeepsThings(nn.Module):
    """A forward that makes a constant, keeps its last feature, and has an option."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.linear = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 4)

    def forward(self, x, scale=1.0, features=False):
        y = torch.relu(self.conv1(x)) * torch.tensor(2.0)
        self.last = y
        y = self.conv2(y) * scale
        return y if features else self.linear(y.mean((2, 3)))


def test_tracing_leaves_nothing_on_the_teacher_and_options_at_their_default():
    net = KeepsThings().eval()
    net(torch.randn(1, 3, 16, 16))  # keeps a feature that belongs to an autograd graph
    before, last = set(vars(net)), net.last
    student = fsc.prune_filters(net, 0.5)
    assert set(vars(net)) == before and net.last is last
    assert student.conv1.out_channels == 4


def test_every_mnasnet_survives_saving(tmp_path):
    teacher = torchvision.models.mnasnet0_5(weights=None).eval()
    student = fsc.prune_filters(teacher, 0.5)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(fsc.load(fsc.save(student, tmp_path / "s"), teacher)(x), student(x))


def test_tied_weights_stay_tied():
    net = plain(nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    net[4].weight = net[2].weight
    with pytest.raises(ValueError, match="0: 2 shares a weight with 4"):
        fsc.prune_filters(net, 0.5)


@pytest.mark.parametrize("wrap", [nn.utils.parametrizations.weight_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_conv_that_computes_its_weight_stays_whole_and_is_named(wrap):
    net = plain(nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    wrap(net[2])
    with pytest.warns(UserWarning, match="2 computes its weight anew in each pass"):
        student = fsc.prune_filters(net, 0.5)
    assert student[2].out_channels == 8 and student[4].out_channels == 4


def test_a_subclass_of_conv_is_a_conv():
    class Mine(nn.Conv2d):
        pass

    net = nn.Sequential(Mine(3, 8, 3), nn.ReLU(), Mine(8, 6, 3), *head(6)).eval()
    assert fsc.prune_filters(net, 0.5)[0].out_channels == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_pruned_as_they_are(dtype):
    student = fsc.prune_filters(NETS["resnet32"](10).eval().to(dtype), 0.5)
    assert {p.dtype for p in student.parameters()} == {dtype}


def test_a_net_whose_outputs_are_all_zero_cannot_be_checked_and_says_so():
    net = plain(nn.ReLU())
    nn.init.zeros_(net[-1].weight), nn.init.zeros_(net[-1].bias)
    with pytest.warns(UserWarning, match="the edit could not be checked"):
        fsc.prune_filters(net, 0.5)


def test_a_net_that_has_diverged_is_refused_in_words():
    net = plain(nn.ReLU())
    net[-1].bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="outputs of Sequential are not finite"):
        fsc.prune_filters(net, 0.5)


def test_keyword_calls_are_followed():
    class Spelled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.linear = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 4)

        def forward(self, x):
            y = torch.add(input=torch.relu(self.a(input=x)), other=1.0)
            y = torch.cat(tensors=[self.b(input=y)], dim=1)
            return self.linear(input=torch.flatten(input=torch.mean(input=y, dim=(2, 3)), start_dim=1))

    assert fsc.prune_filters(Spelled().eval(), 0.5).a.out_channels == 4


HALVES = [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), {"0": np.float32(0.5)}]


@pytest.mark.parametrize("ratio", HALVES)
def test_numbers_of_every_kind_are_ratios_and_can_be_saved(ratio, tmp_path):
    student = fsc.prune_filters(plain(nn.ReLU()), ratio, seed=np.int64(3), coupled=np.bool_(False))
    assert fsc.save(student, tmp_path / "s").is_file() and student[0].out_channels == 4


@pytest.mark.parametrize("call, error, words", [
    (lambda net: fsc.prune_filters(None, 0.5), TypeError, "asked for a network, got NoneType"),
    (lambda net: fsc.prune_filters(nn.Conv2d, 0.5), TypeError, "got the class Conv2d"),
    (lambda net: fsc.prune_filters(net, 0.5, example=[1]), TypeError, "images must be a tensor"),
    (lambda net: fsc.prune_filters(net, 0.5, example=torch.zeros(0, 3, 32, 32)), ValueError, "N at least 1"),
    (lambda net: fsc.prune_filters(net, 0.5, example=torch.full((1, 3, 9, 9), torch.nan)), ValueError, "NaN"),
    (lambda net: fsc.prune_filters(net, {1: 0.5}), ValueError, 'has no module "1"'),
    (lambda net: fsc.prune_filters(net, 0.5, criterion=["l1"]), ValueError, "unknown criterion"),
    (lambda net: fsc.kept_channels(net, "nothing"), ValueError, "no module of that name"),
    (lambda net: fsc.kept_channels(net, "0", "output"), ValueError, "the sides are 'out' and 'in'"),
])
def test_what_is_no_network_image_or_name_is_refused_in_words(call, error, words):
    with pytest.raises(error) as caught:
        call(NETS["vgg9"](10).eval() if words.startswith('has') else plain(nn.ReLU()))
    assert words in str(caught.value)


def test_a_saved_student_can_be_read_by_others_and_a_folder_is_no_file(tmp_path):
    teacher = plain(nn.ReLU())
    student = fsc.prune_filters(teacher, 0.5)
    mask = os.umask(0o022)
    try:
        assert fsc.save(student, tmp_path / "s").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(mask)
    with pytest.raises(FileNotFoundError, match="is a folder"):
        fsc.save(student, tmp_path)


def test_a_student_with_a_new_head_is_not_loaded_as_the_old_one(tmp_path):
    teacher = plain(nn.ReLU())
    student = fsc.prune_filters(teacher, 0.5)
    student[-1] = nn.Linear(6, 7)
    with pytest.raises(ValueError, match="are not those of its recipe"):
        fsc.load(fsc.save(student, tmp_path / "s"), teacher)


def test_heads_of_training_only_are_named():
    teacher = torchvision.models.googlenet(weights=None, init_weights=False).eval()
    before = fingerprint(copy.deepcopy(teacher))
    with pytest.warns(UserWarning, match="aux1.conv.conv.*the forward does not use it in eval mode"):
        fsc.prune_filters(teacher, 0.5)
    assert fingerprint(teacher) == before
