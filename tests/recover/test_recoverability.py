"""Recoverability: one shared pass gives what each student alone would, published adaptors, times."""

from functools import partial

import pandas as pd
import pytest
import torch
import torchvision
from helpers.probes import loss, odd_norms
from helpers.random_nets import random_nets
from hypothesis import given, settings
from torch import nn

import fsc
from fsc.compress.blocks import without_blocks
from fsc.graph.backbone import cut_backbone
from fsc.graph.tracing import trace
from fsc.inputs.nets import NETS
from fsc.recover import recoverability as evidence
from fsc.recover.recoverability_sgd import places, train_around, with_adaptors
from fsc.recover.training import Training, split
from fsc.runtime import clone, fingerprint, frozen_copy, quiet
from fsc.surgery import merges

recoverability = partial(fsc.recoverability, latency=False, progress=quiet)
fskd = partial(fsc.fskd, progress=quiet)


# -- in closed form --------------------------------------------------------------------------------


def test_every_row_is_what_fskd_makes_of_that_student_alone(teacher, images):
    table = recoverability(teacher, images, held_out=0.3, seed=5)
    assert table.index.tolist() == fsc.droppable_blocks(teacher)
    fitted, unseen = split(images, 0.3, 5)
    assert (len(fitted), len(unseen)) == (7, 3)
    for name, row in table.iterrows():
        student = fsc.drop_blocks(teacher, [name])
        mended = fskd(teacher, student, fitted, at="block")
        assert row.dropped_mse == pytest.approx(loss(teacher, student, fitted), rel=1e-4)
        assert row.recoverability == pytest.approx(loss(teacher, mended, fitted), rel=1e-2)
        assert row.held_out_recoverability == pytest.approx(loss(teacher, mended, unseen), rel=1e-2)
        assert row.recoverability < row.dropped_mse and row.score == row.recoverability


@given(net=random_nets())
@settings(max_examples=8)
@pytest.mark.filterwarnings("ignore")
def test_on_random_nets_too_where_double_precision_tells_them_apart(net):
    x = torch.randn(6, 3, 12, 12, dtype=torch.float64)
    try:
        table = recoverability(net, x, held_out=0)
    except ValueError:
        return
    for name, row in table.iterrows():
        mended = fskd(net, fsc.drop_blocks(net, [name], example=x), x, at="block")
        assert row.recoverability == pytest.approx(loss(net, mended, x), rel=1e-5, abs=1e-12)


def test_a_block_that_computes_nothing_costs_nothing(teacher, images):
    for block in (teacher.layer1[1], teacher.layer3[1]):
        nn.init.zeros_(block.bn2.weight), nn.init.zeros_(block.bn2.bias)
    table = recoverability(teacher, images)
    nothing = table.loc[["layer1.1", "layer3.1"]]
    assert (nothing[["dropped_mse", "recoverability", "held_out_recoverability"]] == 0).all(axis=None)
    assert nothing.cosine.tolist() == pytest.approx([1, 1])
    assert (table.loc[["layer1.0", "layer2.1"]].recoverability > 0).all()


def test_nets_that_work_in_place_are_ranked_as_nets_that_do_not(teacher, images):
    class InPlace(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, x):
            h = self.block.bn2(self.block.conv2(torch.relu_(self.block.bn1(self.block.conv1(x)))))
            h += self.block.shortcut(x)
            return h.relu_()

    same = clone(teacher).eval()
    for layer in (same.layer1, same.layer2, same.layer3):
        for i, block in enumerate(layer):
            layer[i] = InPlace(block)
    one, other = (recoverability(n, images) for n in (teacher, same))
    columns = ["dropped_mse", "recoverability", "held_out_recoverability", "cosine"]
    assert other.index.tolist() == one.index.tolist()
    assert torch.allclose(torch.tensor(other[columns].values), torch.tensor(one[columns].values), rtol=1e-4)


def test_what_nothing_can_make_up_for_is_said():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return x + self.conv(x)

    net = nn.Sequential(Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    for method in ("closed", "sgd"):
        with pytest.warns(UserWarning, match="no conv before or behind can make up for 0"):
            table = recoverability(net, torch.randn(4, 3, 8, 8), method=method)
        assert table.recoverability["0"] == table.dropped_mse["0"] > 0


# -- as published ----------------------------------------------------------------------------------

# By hand from the paper's rule: behind the last conv of each earlier block of the stage and its downsample
# conv; before the first conv of each later one, the next stage's first conv and its downsample conv.
PLACES = {
    ("resnet34", "layer2.2"): (
        ["layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2"],
        ["layer2.3.conv1", "layer3.0.conv1", "layer3.0.downsample.0"],
    ),
    ("resnet34", "layer1.0"): (
        [], ["layer1.1.conv1", "layer1.2.conv1", "layer2.0.conv1", "layer2.0.downsample.0"],
    ),
    ("resnet50", "layer4.1"): (["layer4.0.conv3", "layer4.0.downsample.0"], ["layer4.2.conv1"]),
    ("mobilenet_v2", "features.5"): (["features.4.conv.2"], ["features.6.conv.0.0", "features.7.conv.0.0"]),
}


@pytest.mark.parametrize("arch, block", PLACES)
def test_adaptors_sit_where_the_paper_puts_them(arch, block):
    torch.manual_seed(0)
    net = without_blocks(torchvision.models.get_model(arch, weights=None).eval(), [block])
    graph = trace(net, torch.randn(1, 3, 64, 64))
    before, behind = places(graph, [node for node in graph.graph.nodes if node.target == block])
    assert ([node.target for node in before], [node.target for node in behind]) == PLACES[arch, block]


@pytest.fixture(params=["resnet", "mobilenet"])
def around(request, teacher, images):
    """The teacher's body, the body of the network without one block, and the place of that block."""
    net = teacher if request.param == "resnet" else odd_norms(NETS["mobilenet"](10))
    name = "layer2.1" if request.param == "resnet" else "blocks.5"
    source = frozen_copy(net)
    body = cut_backbone(without_blocks(source, [name]), images[:1]).body
    dropped = [node for node in body.graph.nodes if node.target == name]
    return cut_backbone(source, images[:1]).body, body, dropped


def test_adaptors_at_the_identity_change_nothing(around, images):
    _, body, dropped = around
    adapted, adaptors = with_adaptors(body, *places(body, dropped))
    assert len(adaptors) >= 2 and {side for side, _ in adaptors} == {"after", "before"}
    with torch.no_grad():
        assert torch.equal(adapted(images), body(images))


def test_training_lowers_the_loss_by_the_adaptors_alone_and_they_can_be_merged(around, images):
    whole, body, dropped = around
    before, was = (fingerprint(net) for net in (whole, body))
    losses = []
    for steps in (1, 12, 40):
        adapted, adaptors = train_around(whole, body, dropped, images, Training(steps, 0.02, 10, 0, quiet))
        with torch.no_grad():
            losses.append(float((adapted(images) - whole(images)).square().mean()))
    assert losses[0] > losses[1] > losses[2]
    assert (fingerprint(whole), fingerprint(body)) == (before, was)
    merged = clone(body).eval()
    for (side, name), adaptor in adaptors.items():
        merge = merges.merge_after if side == "after" else merges.merge_before
        merged.set_submodule(name, merge(merged.get_submodule(name), adaptor.q))
    with torch.no_grad():
        found, wanted = merged(images), adapted(images)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_sgd_fills_the_same_table_and_leaves_the_teacher(teacher, images):
    before = fingerprint(teacher)
    calls = []
    table = recoverability(teacher.train(), images, method="sgd", blocks=["layer2.1", "layer1.1"], steps=3,
                           progress=lambda done, total: calls.append((done, total)))
    assert fingerprint(teacher) == before and teacher.training
    assert all(p.requires_grad for p in teacher.parameters())
    assert table.index.tolist() == ["layer1.1", "layer2.1"] and table.notna().all(axis=None)
    assert calls[:: len(calls) - 1] == [(1, 6), (6, 6)]


# -- time ------------------------------------------------------------------------------------------


def timed(ratios, high):
    """A stand-in for `fsc.latency` on a machine that is known."""
    def latency(models, example, *, threads, progress):
        assert len(example) == 1
        columns = {"ratio": [1.0, *ratios], "high": [1.0, *high]}
        table = pd.DataFrame(columns, index=pd.Index(models, name="name"))
        table.attrs["measured"] = "by hand"
        return table
    return latency


def test_alike_blocks_share_their_time_and_noise_has_a_floor(teacher, images, monkeypatch):
    monkeypatch.setattr(evidence, "latency", timed([0.90, 0.80, 1.001, 0.95], [0.92, 0.84, 1.01, 0.97]))
    with pytest.warns(UserWarning, match=r"not measurable for layer2\.1: no more than noise"):
        table = recoverability(teacher, images, latency=True)
    # layer1.0 and layer1.1 are alike
    assert table.latency_saved.tolist() == pytest.approx([0.15, 0.15, 0.001, 0.05])
    assert table.latency_measurable.tolist() == [True, True, False, True]
    assert table.score.tolist() == pytest.approx((table.recoverability / table.latency_saved).tolist())
    assert table.attrs["measured"] == "by hand"


# -- what was asked wrongly ------------------------------------------------------------------------


@pytest.mark.parametrize("wrong, words", [
    ({"method": "magic"}, "method='magic'"), ({"held_out": 1}, "held_out=1"),
    ({"blocks": "layer1.0"}, "list of names"), ({"blocks": []}, "list of names"),
    ({"blocks": ["layer1.9"]}, r'no module "layer1\.9".*\n.*layer1\.'),
    ({"blocks": ["layer3.0"]}, r"layer3\.0 cannot be dropped: it makes \(1, 64, 4, 4\) of \(1, 32, 8, 8\)"),
])  # fmt: skip
def test_what_cannot_be_asked_for_is_refused(teacher, images, wrong, words):
    with pytest.raises(ValueError, match=words):
        recoverability(teacher, images, **wrong)


def test_nan_names_network_and_layer(teacher, images):
    teacher.layer2[0].bn1.bias.data[1] = float("nan")
    words = "recoverability: NaN or infinity in the .*features behind layer2.0.bn"
    with pytest.raises(ValueError, match=words):
        recoverability(teacher, images)


def test_of_one_image_nothing_can_be_held_out_and_that_is_said(teacher, images):
    with pytest.raises(ValueError, match="recoverability: held_out=0.2"):
        recoverability(teacher, images[:1])
    table = recoverability(teacher, images[:1], held_out=0)
    assert table.recoverability.notna().all() and table.held_out_recoverability.isna().all()


# -- published teachers and photographs ------------------------------------------------------------


@pytest.mark.real
def test_on_photographs_each_block_of_resnet32_comes_nearer_by_half(real_data):
    task = fsc.load_task("folder", root=real_data / "cifar10-subset", like="cifar10")
    teacher = fsc.load_teacher("resnet32", task)
    table = recoverability(teacher, task.sample(60, seed=0).images)
    assert len(table) == 13 and (table.held_out_recoverability < 0.8 * table.dropped_mse).all()
