"""Tracing: shapes on every node, and refusals that name the place."""

import pytest
import torch
import torchvision
from torch import nn

from fsc.graph.tracing import NotTraceable, trace, unused_modules, walk_from
from fsc.inputs.nets import NETS


class Asks(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def with_question() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), Asks()), nn.Flatten())


def test_every_tensor_knows_its_shape():
    graph = trace(NETS["resnet20"](10), torch.randn(5, 3, 32, 32))
    shapes = {node.name: node.meta["shape"] for node in graph.graph.nodes if "shape" in node.meta}
    assert shapes["layer2_0_conv1"] == (1, 32, 16, 16) and shapes["linear"] == (1, 10)


@pytest.mark.parametrize("side", [224, 299, 28])
def test_a_fitting_image_size_is_found(side):
    channels = 1 if side == 28 else 3
    net = nn.Sequential(nn.Conv2d(channels, 2, 3), nn.Flatten(), nn.Linear(2 * (side - 2) ** 2, 4))
    assert trace(net).meta["example"].shape == (1, channels, side, side)


def test_a_net_that_takes_no_usual_size_asks_for_an_example():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 39 * 39, 4))
    with pytest.raises(NotTraceable, match="Give example="):
        trace(net)
    assert trace(net, torch.randn(1, 3, 41, 41)).meta["example"].shape[-1] == 41


def test_control_flow_on_values_is_refused_by_the_name_of_its_module_and_its_line():
    line = r', at "return x if x\.sum\(\) > 0 else -x"\.'
    with pytest.raises(NotTraceable, match=r"it stopped in 1\.1 \(Asks\)" + line):
        trace(with_question())
    with pytest.raises(NotTraceable, match="it stopped in the forward of Asks itself" + line):
        trace(Asks())


def test_two_inputs_and_several_outputs_are_refused():
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    class Both(nn.Module):
        def forward(self, x):
            return {"a": x, "b": x}

    with pytest.raises(NotTraceable, match=r"takes 2 inputs \(x, y\)"):
        trace(Two())
    with pytest.raises(NotTraceable, match="returns a dict"):
        trace(Both())


def test_the_mode_of_every_module_is_put_back():
    net = NETS["vgg9"](10).train()
    net.features[1].eval()
    trace(net)
    assert net.training and net.features[0].training and not net.features[1].training
    with pytest.raises(NotTraceable):
        trace(with_question().train())


def test_heads_of_training_only_are_found_unused():
    net = torchvision.models.googlenet(weights=None, init_weights=False)
    assert {name.split(".")[0] for name in unused_modules(net, trace(net))} == {"aux1", "aux2"}
    resnet = NETS["resnet20"](10)
    assert unused_modules(resnet, trace(resnet)) == []


def test_a_walk_visits_each_node_once_the_nearest_first_and_goes_on_only_where_it_may():
    leads = {"a": "bc", "b": "dx", "c": "d", "d": "a", "x": "e", "e": ""}
    assert list(walk_from("a", lambda node: "" if node == "x" else leads[node])) == ["a", "b", "c", "d", "x"]
