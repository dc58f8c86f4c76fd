"""FSKD on layers that compute in ways of their own: exact merges, and a warning for what is left alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.parametrize as parametrize
from helpers.probes import feature, odd_norms
from torch import nn

import fsc
from fsc.inputs.nets import ResNet
from fsc.runtime import quiet
from fsc.surgery.exactness import NotExact

pytestmark = pytest.mark.filterwarnings("ignore:fskd. fewer rows")


class Positive(nn.Module):
    def forward(self, weight):
        return F.softplus(weight)


class Standardised(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean((1, 2, 3), keepdim=True), bias)


class ReadTwice(nn.Module):
    """The forward calls `b`, and reads its weight in another place too."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(F.conv2d(torch.relu(self.a(x)), self.b.weight, padding=1))
        return self.head(torch.relu(self.b(x)).mean((2, 3)))


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return odd_norms(ResNet(1))


@pytest.fixture
def images():
    return torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def pruned(net, images):
    return fsc.prune_filters(net, {"layer1.0.conv1": 0.5}, example=images)


def real_error(teacher, student, name, images):
    """The relative squared error at a module, from both networks' own forwards."""
    t, s = feature(teacher, name, images), feature(student, name, images)
    variation = (t - t.mean((0, 2, 3), keepdim=True)).square().sum()
    return float((s - t).square().sum() / variation)


def check_report(teacher, student, name, images):
    """What is reported of a module is true; or nothing is reported, and the module is left as it was."""
    recovered = fsc.fskd(teacher, student, images, shortcuts=False, progress=quiet)
    report = fsc.report_of(recovered).set_index("layer").error_after
    if name in report:
        assert real_error(teacher, recovered, name, images) == pytest.approx(report[name], rel=1e-3)
    before, after = (real_error(teacher, net, "layer3.0.bn2", images) for net in (student, recovered))
    assert after < before


def put_hook(net, kind, module):
    module = net.get_submodule(module)
    if kind == "forward":
        module.register_forward_hook(lambda m, args, out: out * 2 + 1)
    elif kind == "pre":
        module.register_forward_pre_hook(lambda m, args: (args[0] * 1.5,))


@pytest.mark.parametrize("module", ["layer2.0.conv1", "layer2.0.bn1", "layer2.0.conv2", "layer2.0.bn2"])
@pytest.mark.parametrize("kind", ["forward", "pre"])
@pytest.mark.filterwarnings("ignore:fskd. no adaptor", "ignore:prune_filters")
def test_hooked_layers_are_recovered_as_reported_or_left_alone(teacher, images, kind, module):
    put_hook(teacher, kind, module)
    check_report(teacher, pruned(teacher, images), "layer2.0.bn2", images)


def test_a_hooked_conv_gets_no_adaptor_and_that_is_said(teacher, images):
    put_hook(teacher, "forward", "layer2.0.conv2")
    with pytest.warns(
        UserWarning, match=r"no adaptor behind these:\n  layer2\.0\.conv2: it has a forward hook"
    ):
        fsc.fskd(teacher, pruned(teacher, images), images, progress=quiet)


@pytest.mark.parametrize("tensor", ["weight", "bias"])
@pytest.mark.filterwarnings("ignore:prune_filters", "ignore:fskd. no adaptor")
def test_parametrized_norms_are_recovered_as_reported_or_left_alone(teacher, images, tensor):
    parametrize.register_parametrization(teacher.layer2[0].bn2, tensor, Positive())
    check_report(teacher, pruned(teacher, images), "layer2.0.bn2", images)


@pytest.mark.filterwarnings("ignore:prune_filters")
def test_a_parametrized_bias_is_left_alone_and_that_is_said(images):
    torch.manual_seed(0)
    net = ReadOnce().eval()
    parametrize.register_parametrization(net.b, "bias", Positive())
    with pytest.warns(UserWarning, match="b: it computes its weight or its output in a way of its own"):
        fsc.fskd(net, copy.deepcopy(net), images, progress=quiet)


class ReadOnce(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))


def test_a_conv_with_a_forward_of_its_own_is_left_alone_and_that_is_said(images):
    torch.manual_seed(0)
    net = ReadOnce().eval()
    net.b = Standardised(8, 8, 3, padding=1)
    with pytest.warns(UserWarning, match="b: it computes its weight or its output in a way of its own"):
        recovered = fsc.fskd(net, copy.deepcopy(net), images, progress=quiet)
    assert torch.equal(recovered.b.weight, net.b.weight)


@pytest.mark.parametrize("method", ["closed", "sgd"])
def test_a_conv_whose_weight_is_read_elsewhere_too_is_left_alone_and_that_is_said(images, method):
    torch.manual_seed(0)
    net = ReadTwice().eval()
    with pytest.warns(UserWarning, match="b: the forward reads its weight in another place too"):
        recovered = fsc.fskd(net, copy.deepcopy(net), images, method=method, steps=2, progress=quiet)
    assert torch.equal(recovered.b.weight, net.b.weight)


def test_a_merged_network_that_computes_something_else_is_refused_with_the_first_site(
    teacher, images, monkeypatch
):
    from fsc.recover import sites

    merged = sites.merge_at

    def wrongly(net, site, fit, sums):
        merged(net, site, fit, sums)
        if site.name == "layer2.0.bn1":
            net.get_submodule(site.norm).bias.data += 1.0

    monkeypatch.setattr("fsc.recover.fskd.merge_at", wrongly)
    with pytest.raises(NotExact, match=r"fskd: the merged network differs .* from layer2\.0\.bn1 on"):
        fsc.fskd(teacher, pruned(teacher, images), images, progress=quiet)
