"""The feature before pooling is found by rule in any traced net; the net cut there computes this feature."""

import re

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from fsc.graph.backbone import cut_backbone
from fsc.inputs.nets import NETS

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))

# From torchvision's sources: what avgpool (or .mean([2, 3])) reads, how wide it is, and what comes after it.
TORCHVISION = {
    "alexnet": ("avgpool", 256, "classifier"),                     # 6 x 6 pixels: no global pooling
    "convnext_tiny": ("add_17 in features.7.2", 768, "classifier"),
    "densenet121": ("relu", 1024, "classifier"),
    "efficientnet_b0": ("features.8.2", 1280, "classifier"),
    "googlenet": ("cat_8 in inception5b", 1024, "fc"),
    "inception_v3": ("cat_14 in Mixed_7c", 2048, "fc"),
    "mnasnet0_5": ("layers.16", 1280, "classifier"),
    "mobilenet_v2": ("features.18.2", 1280, "classifier"),
    "mobilenet_v3_small": ("features.12.2", 576, "classifier"),
    "regnet_y_400mf": ("trunk_output.block4.block4-5.activation", 440, "fc"),
    "resnet18": ("layer4.1.relu", 512, "fc"),
    "resnet50": ("layer4.2.relu", 2048, "fc"),
    "shufflenet_v2_x0_5": ("conv5.2", 1024, "fc"),
    "squeezenet1_1": ("classifier.2", 1000, None),                 # its classifier is a conv
    "vgg11_bn": ("avgpool", 512, "classifier"),
}


@pytest.mark.parametrize("arch", TORCHVISION)
def test_the_feature_of_every_family_of_torchvision_is_found(arch):
    options = {"init_weights": False} if arch in ("googlenet", "inception_v3") else {}
    net = torchvision.models.get_model(arch, weights=None, **options).eval()
    name, channels, head = TORCHVISION[arch]
    found = cut_backbone(net, torch.randn(1, 3, 96, 96))
    assert (found.name, found.shape[1]) == (name, channels) and len(found.shape) == 4
    assert {place.split(".")[0] for place in found.head_names} == ({head} if head else set())


@pytest.mark.parametrize("size", [32, 64])
def test_a_map_of_one_pixel_is_pooled_like_any_other(size):
    found = cut_backbone(torchvision.models.resnet18(weights=None).eval(), torch.randn(1, 3, size, size))
    assert found.name == "layer4.1.relu" and found.shape == (1, 512, size // 32, size // 32)


def test_the_cut_net_makes_what_the_module_made_and_shares_its_parameters():
    torch.manual_seed(0)
    net, seen, x = NETS["resnet20"](10).eval(), [], torch.randn(2, 3, 32, 32)
    net.layer3.register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        net(x)
        for feature in (None, "layer3", "layer3.2.relu2", "layer3.2"):
            assert torch.equal(cut_backbone(net, x[:1], feature).body(x), seen[0]), feature
    found = cut_backbone(net, x[:1])
    assert found.head_names == ("linear.weight", "linear.bias")
    assert found.body.get_submodule("layer1.0.conv1") is net.layer1[0].conv1


class Net(nn.Module):
    """Two convs and a linear layer; `pool` says how the map becomes (N, C)."""

    def __init__(self, pool, gate=None):
        super().__init__()
        self.conv1, self.conv2, self.linear = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Linear(6, 2)
        self.pool, self.gate = pool, gate

    def forward(self, x):
        x = F.relu(self.conv2(self.conv1(x)))                       # (N, 6, 4, 4)
        if self.gate is not None:
            x = x * self.gate(F.adaptive_avg_pool2d(x, 1))
        return self.linear(self.pool(x))


@pytest.mark.parametrize("pool", [
    lambda x: F.adaptive_avg_pool2d(x, (1, 1)).flatten(1),
    lambda x: F.avg_pool2d(x, x.size()[3]).view(x.size(0), -1), lambda x: x.mean((2, 3)),
    lambda x: torch.mean(x, dim=[2, 3], keepdim=True).flatten(1), lambda x: x.amax((2, 3)),
    lambda x: x.mean(3).mean(2), lambda x: x.flatten(2).mean(2), nn.Sequential(nn.AvgPool2d(4), nn.Flatten()),
    lambda x: torch.cat(
        [F.adaptive_avg_pool2d(x, 1)[:, :3], F.adaptive_max_pool2d(x, 1)[:, 3:]], 1
    ).flatten(1),
])  # fmt: skip
def test_pooling_is_known_however_it_is_written(pool):
    found = cut_backbone(Net(pool).eval(), X)
    assert found.name == "relu" and found.shape == (1, 6, 4, 4)
    assert found.head_names == ("linear.weight", "linear.bias")


@pytest.mark.parametrize("gate", [
    nn.Sequential(nn.Conv2d(6, 6, 1), nn.Sigmoid()),
    nn.Sequential(nn.Flatten(), nn.Linear(6, 6), nn.Sigmoid(), nn.Unflatten(1, (6, 1, 1))),
])  # fmt: skip
@pytest.mark.parametrize("pool", [lambda x: x.mean((2, 3)), nn.Sequential(nn.Conv2d(6, 6, 4), nn.Flatten())])
def test_the_pooling_of_a_gate_is_not_taken_for_the_last_one(gate, pool):
    found = cut_backbone(Net(pool, gate).eval(), X)
    assert found.name == ("pool.0" if isinstance(pool, nn.Module) else "mul")


def test_a_head_that_is_a_conv_on_one_pixel_is_a_head():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1), nn.Flatten()).eval()
    found = cut_backbone(net, X)
    assert found.name == "0" and found.head_names == ("2.weight", "2.bias")


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.other = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3)

    def forward(self, x):
        unrelated = self.other(x).mean((2, 3))
        h = self.conv(x)
        self.relu(h)
        return (h + 1).mean((2, 3)) + unrelated


def test_what_is_done_in_place_is_done_in_the_cut_net_too():
    net = InPlace().eval()
    assert torch.equal(cut_backbone(net, X).body(X), net.conv(X).relu() + 1)
    assert torch.equal(cut_backbone(net, X, "relu").body(X), net.conv(X).relu())


def test_what_the_feature_does_not_need_is_left_out_of_the_cut_net():
    found = cut_backbone(InPlace().eval(), X, "conv")
    assert {name.split(".")[0] for name in found.body.state_dict()} == {"conv"}


def test_after_cuts_right_behind_the_pooling():
    net = Net(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())).eval()
    found = cut_backbone(net, X, "after")
    assert found.name == "pool.0" and found.shape == (1, 6, 1, 1)


@pytest.mark.parametrize("net, feature, words", [
    (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), None,
     "where does the head of this Sequential begin? It has no global pooling, and it ends in 1, still "
     '(N, C, H, W).\n  Name the module whose output is to be mimicked: feature="1".'),
    (nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), None,
     "It has no global pooling, and it makes no tensor (N, C, H, W)."),
    (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), "after",
     'feature="after" asks for what comes out of global pooling; this Sequential has none.\n  Name the'),
    (Net(lambda x: x.mean((2, 3))), "conv3",
     'feature="conv3" of this Net does not exist.\n  Near it: conv'),
    (InPlace().requires_grad_(False), "linear", 'feature="linear" of this InPlace does not exist.'),
])  # fmt: skip
def test_a_net_without_such_a_feature_is_refused_with_the_remedy(net, feature, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        cut_backbone(net.eval(), X, feature)
