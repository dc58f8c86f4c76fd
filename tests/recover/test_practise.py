"""PRACTISE: the lowest scores go, the target is reached or refused, the evidence comes with the student."""

import json
from functools import partial

import pandas as pd
import pytest
import torch
from helpers.probes import loss
from torch import nn

import fsc
from fsc.recover import practise as practise_module
from fsc.recover import recoverability as recoverability_module
from fsc.recover.training import split
from fsc.runtime import fingerprint, quiet

practise = partial(fsc.practise, progress=quiet)
only_dropped = partial(practise, recover=None, mimic_steps=0)
BLOCKS = ["layer1.0", "layer1.1", "layer2.1", "layer3.1"]


@pytest.fixture
def times(monkeypatch):
    """Every block saves a tenth, layer3.1 nothing that can be measured."""
    def saved(teacher, names, example, *, threads=None, progress=None):
        assert list(names) == BLOCKS
        columns = {"latency_saved": [0.1, 0.1, 0.1, 0.001], "latency_measurable": [True, True, True, False]}
        return pd.DataFrame(columns, index=pd.Index(names))
    for module in (practise_module, recoverability_module):
        monkeypatch.setattr(module, "latency_saved", saved)


ignored = pytest.mark.filterwarnings("ignore:practise", "ignore:recover")
pytestmark = [pytest.mark.usefixtures("times"), ignored]


def dropped(student):
    return [name for name in BLOCKS if isinstance(student.get_submodule(name), nn.Identity)]


def test_the_lowest_scores_go_and_the_evidence_says_so(teacher, images):
    before = fingerprint(teacher)
    student = practise(teacher, images, count=2, mimic_steps=0)
    table = fsc.recoverability(teacher, images)
    lowest = sorted(table.score.nsmallest(2).index)
    assert dropped(student) == lowest and fingerprint(teacher) == before
    report = fsc.report_of(student, "practise")
    assert report.block.tolist() == BLOCKS and report.block[report.chosen].tolist() == lowest
    assert report.score.tolist() == pytest.approx(table.score.tolist())
    assert [edit["edit"] for edit in fsc.recipe_of(student)] == ["drop_blocks", "practise", "fskd"]


def test_recovery_brings_the_dropped_net_nearer_and_mimicking_is_the_last_edit(teacher, images):
    plain, closed, both = (
        practise(teacher, images, count=1, recover=recover, mimic_steps=steps, lr=0.005)
        for recover, steps in ((None, 0), ("closed", 0), ("closed", 10))
    )
    assert dropped(plain) == dropped(closed) == dropped(both)
    assert loss(teacher, closed, images) < 0.8 * loss(teacher, plain, images)
    assert [edit["edit"] for edit in fsc.recipe_of(plain)] == ["drop_blocks", "practise"]
    assert [edit["edit"] for edit in fsc.recipe_of(both)][-2:] == ["fskd", "mir"]
    assert not both.training and fsc.recipe_of(both)[-1]["asked"]["steps"] == 10


def test_scoring_again_judges_each_block_with_those_already_gone(teacher, images):
    student = only_dropped(teacher, images, count=2, rescore=True)
    report = fsc.report_of(student, "practise")
    assert report["round"].tolist() == [1] * 4 + [2] * 3 and report.chosen.sum() == 2
    (first,) = report.block[report.chosen & (report["round"] == 1)]
    second = report[report["round"] == 2].set_index("block")
    assert first not in second.index and second.score.idxmin() == second.index[second.chosen][0]
    fitted, _ = split(images, 0.2, 0)
    for name, row in second.iterrows():
        pair = fsc.drop_blocks(teacher, [first, name])
        assert row.dropped_mse == pytest.approx(loss(teacher, pair, fitted), rel=1e-4)
        mended = fsc.fskd(teacher, pair, fitted, at="block")
        assert row.recoverability == pytest.approx(loss(teacher, mended, fitted), rel=1e-2)
        assert row.score == pytest.approx(row.recoverability / (0.1 + row.latency_saved))


@pytest.mark.parametrize("rescore", [False, True])
def test_a_share_of_the_time_takes_as_few_blocks_as_add_up_to_it(teacher, images, rescore):
    student = only_dropped(teacher, images, latency_reduction=0.15, rescore=rescore)
    assert len(dropped(student)) == 2 and "layer3.1" not in dropped(student)


def test_a_share_beyond_reach_is_refused_with_what_can_be_reached(teacher, images):
    words = r"beyond reach: all 3 blocks .*measurable here \(of 4\) save 0\.30 together"
    with pytest.raises(ValueError, match=words):
        practise(teacher, images, latency_reduction=0.31)


def test_the_student_is_saved_and_loaded_with_its_evidence(teacher, images, tmp_path):
    student = practise(teacher, images, count=1, method="closed", mimic_steps=0)
    json.dumps(fsc.recipe_of(student))
    again = fsc.load(fsc.save(student, tmp_path / "s.safetensors"), teacher)
    assert torch.equal(again(images), student(images))
    assert fsc.report_of(again, "practise").equals(fsc.report_of(student, "practise"))


def test_a_pruned_student_loses_blocks_with_itself_for_a_teacher(teacher, images, tmp_path):
    pruned = fsc.prune_filters(teacher, 0.5)
    student = practise(pruned, images, count=1, mimic_steps=2)
    made = [edit["edit"] for edit in fsc.recipe_of(student)]
    assert made == ["prune_filters", "drop_blocks", "practise", "fskd", "mir"]
    again = fsc.load(fsc.save(student, tmp_path / "s.safetensors"), teacher)
    assert torch.equal(again(images), student(images)) and all(p.requires_grad for p in student.parameters())


@pytest.mark.parametrize("wrong, words", [
    ({}, "one of the two"), ({"count": 1, "latency_reduction": 0.1}, "one of the two"),
    ({"count": 5}, r"has 4 blocks that can be dropped: layer1\.0, .*\n  Ask for 1 to 4"),
    ({"count": 0}, "Ask for 1 to 4"), ({"count": True}, "Ask for"),
    ({"latency_reduction": 0}, r"not inside \(0, 1\)"),
    ({"count": 1, "recover": "magic"}, 'recover is "closed" or None'),
    ({"count": 1, "method": "magic"}, "'magic'"), ({"count": 1, "mimic_steps": -1}, "at least 0"),
])  # fmt: skip
def test_what_cannot_be_asked_for_is_refused(teacher, images, wrong, words):
    with pytest.raises(ValueError, match=words):
        practise(teacher, images, **wrong)


def test_times_of_an_earlier_table_are_taken_instead_of_measuring_again(teacher, images, monkeypatch):
    table = fsc.recoverability(teacher, images)
    table["latency_saved"], table["latency_measurable"] = 0.001, True
    table.loc["layer3.1", "latency_saved"] = 1e6  # so much that its score is the lowest
    monkeypatch.setattr(practise_module, "latency_saved", lambda *_, **__: pytest.fail("measured again"))
    student = practise(teacher, images, count=1, timed=table, mimic_steps=0)
    report = fsc.report_of(student, "practise").set_index("block")
    assert dropped(student) == ["layer3.1"] == report.index[report.chosen].tolist()
    assert report.latency_saved.tolist() == table.latency_saved.tolist()
    words = "timed has no latency_saved, latency_measurable.\n  Pass a table of"
    with pytest.raises(ValueError, match=words):
        practise(teacher, images, count=1, timed=table[["score"]], mimic_steps=0)
    with pytest.raises(ValueError, match="timed has no layer1.0."):
        practise(teacher, images, count=1, timed=table.drop("layer1.0"), mimic_steps=0)


def test_the_number_of_blocks_is_taken_under_its_old_name_with_a_warning(teacher, images):
    with pytest.warns(FutureWarning, match="practise: blocks= is now called count="):
        student = only_dropped(teacher, images, blocks=1)
    assert len(dropped(student)) == 1


def test_scoring_by_sgd_takes_its_own_steps(teacher, images):
    calls = []
    only_dropped(teacher, images, count=1, method="sgd", scoring_steps=2, scoring_lr=0.01,
                 progress=lambda done, total: calls.append((done, total)))
    assert calls == [(step, 8) for step in range(1, 9)]  # two steps for each of four blocks
