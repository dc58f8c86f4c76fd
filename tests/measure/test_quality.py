"""Accuracy and agreement by hand, costs against published numbers, and the table that compares networks."""

import math
import re

import pytest
import torch
import torchvision
from torch import nn

from fsc.inputs.nets import NETS
from fsc.inputs.tasks import Images, Task
from fsc.measure.quality import Cost, accuracy, agreement, compare, cost, predictions
from fsc.runtime import quiet

QUIET = {"progress": quiet}


class Scores(nn.Module):
    """A network whose scores are the first row of the image, `classes` pixels, times a factor."""

    def __init__(self, factor: float = 1.0, classes: int = 4):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.classes = classes
        self.dropout = nn.Dropout(0.9)

    def forward(self, x):
        return self.dropout(x[:, 0, 0, : self.classes] * self.factor)


def images_of(rows, labels):
    """Images whose first row is given: (N, 3, 2, 4)."""
    pixels = torch.tensor(rows)[:, None, None, :].repeat(1, 3, 2, 1)
    labels = None if labels is None else torch.tensor(labels)
    return Images(lambda indices: pixels[indices], labels, torch.arange(len(rows)))


#        scores of classes 0 1 2 3       the order of classes
ROWS = [
    [4.0, 3.0, 2.0, 1.0],               # 0 1 2 3
    [1.0, 2.0, 3.0, 4.0],               # 3 2 1 0
    [2.0, 4.0, 1.0, 3.0],               # 1 3 0 2
    [3.0, 1.0, 4.0, 2.0],               # 2 0 3 1
    [4.0, 1.0, 3.0, 2.0],               # 0 2 3 1
]
LABELS = [0, 2, 0, 2, 1]                # found at place 1, 2, 3, 1, 4
JUDGED = images_of(ROWS, LABELS)
NONE = torch.tensor([], dtype=torch.long)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 256])
def test_accuracy_counts_the_label_among_the_topk_highest_scores(batch_size):
    found = [accuracy(Scores(), JUDGED, topk=k, batch_size=batch_size) for k in (1, 2, 3, 4)]
    assert found == [2 / 5, 3 / 5, 4 / 5, 1.0]


def test_accuracy_is_measured_in_eval_mode_and_every_module_gets_its_own_mode_back():
    net = nn.Sequential(Scores(), nn.Identity())
    net[1].eval()
    assert {accuracy(net, JUDGED) for _ in range(5)} == {2 / 5}
    assert [module.training for module in (net, net[0], net[0].dropout, net[1])] == [True, True, True, False]


def test_agreement_is_the_share_of_images_named_alike_and_needs_no_labels():
    # The negative scores are highest where the scores are lowest: never the same class.
    assert agreement(Scores(), Scores(2.0), images_of(ROWS, None)) == 1.0
    assert agreement(Scores(), Scores(-1.0), images_of(ROWS, None)) == 0.0
    # Of the first two classes alone, the higher is the highest of all in images 0, 2 and 4.
    two = nn.Sequential(Scores(classes=2), nn.ConstantPad1d((0, 2), -9.0))
    assert agreement(two, Scores(), JUDGED, batch_size=2) == 3 / 5
    assert agreement(model=two, teacher=Scores(), images=JUDGED) == 3 / 5


def test_predictions_are_the_classes_with_the_highest_scores():
    found = predictions(Scores(), images_of(ROWS, None), batch_size=2)
    assert found.tolist() == [0, 3, 1, 2, 0] and found.dtype == torch.int64


def test_accuracy_reports_every_batch():
    seen = []
    accuracy(Scores(), JUDGED, batch_size=2, progress=lambda *step: seen.append(step))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: accuracy(Scores(), torch.zeros(5, 3, 2, 4)),
          "accuracy: asked for images with their labels, got Tensor.\n  Pass task.test, or few = task"),
        (lambda: agreement(Scores(), Scores(), [1]), "agreement: asked for images with their labels, got"),
        (lambda: compare({"a": Scores()}, TASK, images=torch.zeros(5, 3, 2, 4)), "compare: asked for images"),
    ],
)
def test_images_without_their_set_are_refused(call, words):
    with pytest.raises(TypeError, match=re.escape(words)):
        call()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: accuracy(Scores(), images_of(ROWS, None)), "accuracy: these 5 images have no labels.\n"),
        (lambda: accuracy(Scores(), JUDGED.subset(NONE)), "accuracy: there are no images to judge on."),
        (lambda: accuracy(Scores(), JUDGED, topk=5),
         "accuracy: topk=5; the network tells apart 4 classes.\n  Use 1 .. 4."),
        (lambda: accuracy(Scores(), JUDGED, topk=0), "accuracy: topk=0; the network tells apart 4"),
        (lambda: accuracy(Scores(classes=2), JUDGED),
         "accuracy: an image has label 2; the network tells apart the classes 0 .. 1.\n  Network and images"),
        (lambda: accuracy(Scores(math.nan), JUDGED), "accuracy: the network's output is NaN for 5 of 5"),
        (lambda: accuracy(nn.Flatten(2), JUDGED),
         "accuracy: the network's output for 5 images is shape (5, 3, 8); asked for (5, classes)."),
        (lambda: agreement(Scores(), Scores(classes=3), JUDGED),
         "agreement: the networks tell apart 4 and 3 classes.\n  Predictions can be compared only if the"),
        (lambda: accuracy(Scores(), images_of([[math.inf] * 4], [0])), "accuracy: 1 of 1 images hold NaN"),
        (lambda: compare({}, TASK), "compare: asked for networks by name, got {}.\n  Pass a dict: {"),
    ],
)
def test_what_cannot_be_judged_is_refused_with_the_remedy(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


@pytest.mark.parametrize(
    "name, weights",
    [
        ("resnet18", torchvision.models.ResNet18_Weights.IMAGENET1K_V1),
        ("mobilenet_v2", torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1),
        ("densenet121", torchvision.models.DenseNet121_Weights.IMAGENET1K_V1),
    ],
)
def test_cost_is_what_torchvision_publishes_and_what_a_formula_gives(name, weights):
    net, example = torchvision.models.get_model(name, weights=None), torch.randn(1, 3, 224, 224)
    found = cost(net, example)
    assert found.params == weights.meta["num_params"]
    assert round(found.macs / 1e9, 3) == weights.meta["_ops"]               # published in billions of MACs
    assert found.macs == macs_by_formula(net, example)


def macs_by_formula(net, example):
    """Convs: C_out * H_out * W_out * (C_in / groups) * k * k; linear layers: C_out * C_in."""
    total = 0

    def count(module, args, output):
        nonlocal total
        if isinstance(module, nn.Conv2d):
            c_out, h, w = output.shape[1:]
            total += c_out * h * w * (module.in_channels // module.groups) * math.prod(module.kernel_size)
        elif isinstance(module, nn.Linear):
            total += module.out_features * module.in_features

    handles = [module.register_forward_hook(count) for module in net.modules()]
    with torch.no_grad():
        net.eval()(example)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize(
    "conv, macs",
    [
        (nn.Conv2d(8, 16, 3), 16 * 15 * 15 * 8 * 9),
        (nn.Conv2d(8, 16, 3, groups=4), 16 * 15 * 15 * 2 * 9),              # 4 groups of 2 -> 4 channels
        (nn.Conv2d(8, 16, 3, padding=1, groups=8, bias=False), 16 * 17 * 17 * 1 * 9),
        (nn.Conv2d(8, 16, (3, 1), stride=2, dilation=2, padding=(2, 0)), 16 * 9 * 9 * 8 * 3),
    ],
)
def test_macs_of_a_conv_by_hand(conv, macs):
    assert cost(conv, torch.randn(1, 8, 17, 17)) == Cost(sum(p.numel() for p in conv.parameters()), macs)


def test_cost_is_that_of_one_image_however_many_are_shown():
    net = NETS["mobilenet"](10)
    assert cost(net, torch.randn(7, 3, 32, 32)) == cost(net, torch.randn(1, 3, 32, 32))


def test_cost_counts_shared_parameters_once_and_their_work_each_time():
    conv = nn.Conv2d(4, 4, 1, bias=False)
    assert cost(nn.Sequential(conv, nn.ReLU(), conv), torch.randn(1, 4, 5, 5)) == Cost(16, 2 * 25 * 16)


def test_cost_leaves_modes_statistics_and_gradients_alone():
    net = NETS["vgg9"](10)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    cost(net, torch.randn(2, 3, 32, 32))
    assert net.training and all(p.grad is None for p in net.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


TASK = Task("toy", tuple("abcd"), "toy", (2, 4), (0.0,) * 3, (1.0,) * 3, JUDGED, JUDGED)


def test_compare_has_one_row_per_network():
    nets = {"student": Scores(-1.0), "teacher": Scores(2.0), "twin": Scores(3.0)}
    table = compare(nets, TASK, latency_rounds=6, **QUIET)
    assert table.index.tolist() == ["student", "teacher", "twin"] and table.index.name == "name"
    assert table.columns.tolist() == [
        "accuracy", "agreement", "params", "macs", "median_ms", "spread_ms", "ratio", "low", "high", "verdict"
    ]
    assert table.accuracy.tolist() == [1 / 5, 2 / 5, 2 / 5]                 # image 4's label scores lowest
    assert table.agreement.tolist() == [0.0, 1.0, 1.0]
    assert table.params.tolist() == [1, 1, 1] and table.macs.tolist() == [0, 0, 0]
    assert table.verdict["teacher"] == "reference" and table.ratio["teacher"] == 1.0
    assert table.attrs["measured"].startswith("6 interleaved rounds, batch of 1, ")


def test_compare_takes_the_first_network_as_reference_where_none_is_called_teacher():
    table = compare({"b": Scores(), "a": Scores(-1.0)}, TASK, latency_rounds=6, latency_batch=3, **QUIET)
    assert table.agreement.tolist() == [1.0, 0.0]
    assert table.verdict["b"] == "reference"
    assert "batch of 3" in table.attrs["measured"]


def test_compare_on_unlabelled_images_knows_agreement_but_no_accuracy():
    nets, unlabelled = {"a": Scores(), "b": Scores(2.0)}, images_of(ROWS, None)
    table = compare(nets, TASK, images=unlabelled, latency_rounds=6, **QUIET)
    assert table.accuracy.isna().all() and table.agreement.tolist() == [1.0, 1.0]


def test_compare_fetches_every_image_once_for_all_networks():
    fetched = []

    def fetch(indices):
        fetched.extend(indices.tolist())
        return JUDGED.fetch(indices)

    nets = {"a": Scores(), "b": Scores(), "c": Scores()}
    watched = Images(fetch, JUDGED.labels, JUDGED.indices)
    compare(nets, TASK, images=watched, batch_size=2, latency_rounds=6, **QUIET)
    assert fetched == [0, 1, 2, 3, 4]
