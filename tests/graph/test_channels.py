"""Labels of channels, on networks small enough to work out by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fsc.graph.channel_rules import RULES, same
from fsc.graph.channels import follow_channels
from fsc.graph.tracing import trace


class Net(nn.Module):
    """Two convs of 4 channels, whatever a test does with them, and a conv that reads the result."""

    def __init__(self, join, reads: int = 4):
        super().__init__()
        self.a, self.b, self.reader = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(reads, 2, 1)
        self.join = join

    def forward(self, x):
        return self.reader(self.join(self.a(x), self.b(x))).mean((2, 3))


def sides(net) -> dict[tuple[str, str], list[int]]:
    return {(port.name, port.side): port.labels.tolist() for port in follow_channels(trace(net)).ports}


def pins(net) -> dict[str, str]:
    channels = follow_channels(trace(net))
    return {
        port.name: channels.pinned[int(port.labels[0])]
        for port in channels.ports if port.side == "out" and int(port.labels[0]) in channels.pinned
    }


class Residual(nn.Module):
    """The worked example in the docstring of fsc.graph.channels."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv1, self.bn1 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.classifier = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.classifier((x + self.conv2(F.relu(self.bn1(self.conv1(x))))).mean((2, 3)))


def test_the_worked_example_has_the_labels_that_its_docstring_writes_out():
    net = Residual().eval()
    found = follow_channels(trace(net))
    assert sides(net) == {
        ("stem", "in"): [0, 1, 2], ("stem", "out"): [3, 4, 5, 6],
        ("conv1", "in"): [3, 4, 5, 6], ("conv1", "out"): [7, 8, 9, 10], ("bn1", "out"): [7, 8, 9, 10],
        ("conv2", "in"): [7, 8, 9, 10], ("conv2", "out"): [3, 4, 5, 6],
        ("classifier", "in"): [3, 4, 5, 6], ("classifier", "out"): [15, 16],
    }  # fmt: skip
    assert found.joined == {3, 4, 5, 6} and set(found.pinned) == {0, 1, 2, 15, 16}
    assert found.behind == {"conv1": net.bn1}


def test_one_line_teaches_another_operation(monkeypatch):
    net = Net(lambda a, b: torch.softmax(a, 1) + b)
    assert "softmax" in pins(net)["a"]
    monkeypatch.setitem(RULES, torch.softmax, same)
    found = sides(net)
    assert "a" not in pins(net) and found["a", "out"] == found["b", "out"]


@pytest.mark.parametrize("join", [
    lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * torch.sigmoid(b),
    lambda a, b: F.relu(a).add(b) * 0.5, lambda a, b: a * F.adaptive_avg_pool2d(b, 1),
    lambda a, b: (a.permute(0, 2, 3, 1) + b.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    lambda a, b: a * b.mean((2, 3), keepdim=True), lambda a, b: a * b.mean((2, 3)).view(a.size(0), -1, 1, 1),
])  # fmt: skip
def test_adds_and_products_make_channels_one(join):
    found = sides(Net(join))
    assert found["a", "out"] == found["b", "out"] == found["reader", "in"]


def test_a_concatenation_puts_channels_behind_each_other():
    found = sides(Net(lambda a, b: torch.cat([b, a], dim=1), reads=8))
    assert found["reader", "in"] == found["b", "out"] + found["a", "out"]
    assert not set(found["a", "out"]) & set(found["b", "out"])


def test_a_flattened_map_repeats_each_channel_for_its_pixels():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 5))
    found = sides(net)
    a, b = found["0", "out"]
    assert found["3", "in"] == [a] * 4 + [b] * 4


def test_a_depthwise_conv_hands_its_channels_on():
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(4, 2, 1))
    found = sides(net)
    a, b = found["0", "out"]
    assert found["1", "out"] == found["2", "in"] == [a, a, b, b]


def test_a_conv_called_twice_ties_its_inputs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.mid, self.end = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.end(self.mid(F.relu(self.mid(self.stem(x)))))

    found = sides(Twice())
    assert found["stem", "out"] == found["mid", "out"] == found["mid", "in"] == found["end", "in"]


@pytest.mark.parametrize("join, why", [
    (lambda a, b: F.pad(a, (0, 0, 0, 0, 1, 1))[:, 1:-1] + b, "pad in the outermost forward does not treat"),
    (lambda a, b: torch.softmax(a, 1) + b, "softmax in the outermost forward does not treat"),
    (lambda a, b: torch.cat(a.chunk(2, 1), 1) + b, "chunk in the outermost forward does not treat"),
    (lambda a, b: a.roll(1, 1) + b, "roll in the outermost forward does not treat"),
])  # fmt: skip
def test_what_mixes_or_counts_channels_pins_them_with_the_reason(join, why):
    assert why in pins(Net(join))["a"]


def test_norms_over_channels_pin_them():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1))
    assert pins(net)["0"] == "the module 1 does not treat channels one by one"


def test_input_and_output_are_pinned():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert pins(net) == {"2": "it is the network's output"}
    found = follow_channels(trace(net))
    assert found.pinned[int(found.ports[0].labels[0])] == "it is the network's input"
