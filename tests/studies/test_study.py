"""A study: its rows hold what was asked and what was found, and no odd method spoils it."""

import itertools

import pandas as pd
import pytest
import torch
from helpers.toy_study import QUIET, changes_the_teacher, mine, returns_a_copy, toy_net, toy_study, toy_task
from torch import nn

import fsc
from fsc.compress.macs_budget import blocks_to_drop, prune_macs
from fsc.inputs.nets import ResNet
from fsc.plots import accuracy_by_ratio, accuracy_by_samples
from fsc.runtime import fingerprint
from fsc.studies import methods
from fsc.studies import study as sweeps


def asked_of(table):
    return [tuple(None if pd.isna(v) else v for v in row) for row in
            table[["method", "ratio", "samples", "seed"]].itertuples(index=False)]  # fmt: skip


def test_there_is_one_row_per_run_in_the_order_asked(store, timings):
    table = toy_study(store, methods=["bn", mine], samples=[8, 6], ratios=[0.5, 0.3], seeds=[1, 0])
    alone = [("teacher", None, None, None), ("none", 0.5, None, None), ("none", 0.3, None, None)]
    fitted = itertools.product(("bn", "mine"), (0.5, 0.3), (8, 6), (1, 0))
    assert asked_of(table) == [*alone, *fitted]
    again = pd.read_csv(store, comment="#")
    assert list(again.columns) == list(table.columns) == list(sweeps.COLUMNS)
    key = ["method", "ratio", "samples", "seed"]
    again, table = (rows.sort_values(key, ignore_index=True) for rows in (again, table))
    pd.testing.assert_frame_equal(again, table)


def test_a_row_says_what_the_functions_of_the_package_say(store, timings):
    task, teacher = toy_task(), toy_net()
    table = toy_study(store, methods=["fskd", "fskd-published", "mir", "kd"], seeds=[3], arch="toy3")
    row = table.set_index("method").loc
    few, start = task.sample(6, seed=3), prune_macs(teacher, 0.5, task.example)
    published = {"at": "conv", "intercept": False, "ridge": 0, "shortcuts": False}
    students = {
        "none": start,
        "fskd": fsc.fskd(teacher, start, few.images, **QUIET),
        "fskd-published": fsc.fskd(teacher, start, few.images, **published, **QUIET),
        "mir": fsc.mir(teacher, start, few.images, steps=2, seed=3, **QUIET),
        "kd": fsc.distill(teacher, start, few.images, steps=2, seed=3, **QUIET),
    }
    whole = fsc.cost(teacher, task.example).macs
    for method, student in students.items():
        assert row[method].accuracy == fsc.accuracy(student, task.test, **QUIET)
        assert row[method].agreement == fsc.agreement(student, teacher, task.test, **QUIET)
        assert (row[method].params, row[method].macs) == fsc.cost(student, task.example)
        assert row[method].reached == round(1 - row[method].macs / whole, 4)
    assert row["teacher"].agreement == 1 and row["teacher"].reached == 0
    assert set(table.arch) == {"toy3"} and set(table.task) == {"toy"}
    assert set(table.fsc) == {fsc.__version__} and set(table.torch) == {torch.__version__}
    assert table.device.str.contains("CPU, ").all() and table.error.isna().all()
    assert row[["mir", "kd"]].steps.tolist() == [2, 2] and row[["fskd", "none"]].steps.isna().all()
    assert (table.seconds >= 0).all()


def test_practise_drops_the_blocks_that_come_closest_by_times_taken_once(store, timings, monkeypatch):
    asked, tables = [], []

    def practise(teacher, images, *, count, timed, mimic_steps, seed, progress):
        asked.append((count, mimic_steps, seed, len(images)))
        tables.append(timed)
        return fsc.drop_blocks(teacher, ["layer1.0", "layer3.1"][:count], example=images)

    monkeypatch.setattr(methods, "practise", practise)
    resnet = ResNet(2, classes=4).eval()
    table = fsc.study(toy_task(), resnet, methods=["practise", "practise-closed"], samples=[6], ratios=[0.3],
                      seeds=[7], store=store, steps=11, **QUIET)  # fmt: skip
    row = table.set_index("method").loc["practise"]
    blocks = blocks_to_drop(resnet, 0.3, toy_task().example)
    assert asked == [(blocks, 11, 7, 6), (blocks, 0, 7, 6)] and tables[0] is tables[1]
    assert tables[0].index.tolist() == fsc.droppable_blocks(resnet) and (tables[0].latency_saved > 0).all()
    assert (row.family, row.setting, row.steps) == ("blocks", blocks, 11)


def raises(teacher, images, ratio):
    raise RuntimeError("no luck,\n  with these images")


def gives_nan(teacher, images, ratio):
    student = prune_macs(teacher, ratio, images)
    student[-1].bias.data.fill_(torch.nan)
    return student


def returns_the_teacher(teacher, images, ratio):
    return teacher


def returns_none(teacher, images, ratio):
    prune_macs(teacher, ratio, images)


def cuts_the_teacher_down(teacher, images, ratio):
    teacher[3] = nn.Identity()
    return teacher


@pytest.mark.parametrize("method, words", [
    (raises, "RuntimeError: no luck, with these images"),
    (gives_nan, "ValueError: the network's output is NaN for"),
    (returns_the_teacher, "ValueError: the method returned the teacher unchanged"),
    (returns_a_copy, "ValueError: the method returned the teacher unchanged"),
    (changes_the_teacher, "ValueError: the method changed the teacher"),
    (cuts_the_teacher_down, "ValueError: the method changed the teacher"),
    (returns_none, "TypeError: the method returned a NoneType"),
])  # fmt: skip
def test_what_a_method_does_wrong_stands_in_its_row_and_the_rest_goes_on(store, timings, method, words):
    teacher, task = toy_net(), toy_task()
    before, rng = fingerprint(teacher), torch.random.get_rng_state()
    asked = {"methods": [method, "bn"], "samples": [6], "ratios": [0.5], "seeds": [0, 1], **QUIET}
    for _ in range(2):                                               # the second time nothing is tried again
        with pytest.warns(UserWarning, match=rf"study: 2 of 6 runs failed \({method.__name__}\)"):
            table = fsc.study(task, teacher, store=store, **asked)
    failed = table[table.method == method.__name__]
    assert failed.error.str.startswith(words).all()
    assert failed[["accuracy", "latency_ms"]].isna().all(axis=None)
    assert table[table.method == "bn"].error.isna().all() and len(pd.read_csv(store, comment="#")) == 6
    assert fingerprint(teacher) == before and torch.equal(torch.random.get_rng_state(), rng)


def test_a_network_without_filters_to_prune_can_still_be_studied_with_your_own_method(store, timings):
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)
    net, asked = nn.Sequential(*layers).eval(), {"samples": [6], "ratios": [0.5], "seeds": [0], **QUIET}

    def halves(teacher, images, ratio):
        return nn.Sequential(nn.AvgPool2d(2), teacher)

    with pytest.warns(UserWarning, match=r"study: 1 of 3 runs failed \(none\)"):
        table = fsc.study(toy_task(), net, methods=[halves], store=store, **asked)
    assert "no filter of this Sequential can go" in table.error[1] and table.error[[0, 2]].isna().all()


@pytest.mark.parametrize("asked, error, words", [
    ({"methods": []}, ValueError, "nothing to do: methods is empty"),
    ({"samples": []}, ValueError, "nothing to do: samples is empty"),
    ({"ratios": ()}, ValueError, "nothing to do: ratios is empty"),
    ({"seeds": range(0)}, ValueError, "nothing to do: seeds is empty"),
    ({"samples": 50}, TypeError, "samples=50; asked for a list.\n  Write samples=[50]."),
    ({"samples": [6, 41]}, ValueError, "asked for 41 images; there are 40"),
    ({"ratios": [0.5, 1]}, ValueError, "ratio 1 is not inside (0, 1)"),
    ({"ratios": ["half"]}, ValueError, "ratio 'half' is not inside (0, 1)"),
    ({"seeds": [0.5]}, TypeError, "seed 0.5; asked for whole numbers"),
    ({"methods": ["fskd", "mirr"]}, ValueError, 'unknown method "mirr". Did you mean "mir"?'),
    ({"methods": ["something"]}, ValueError, '{"something": function}'),
    ({"methods": [lambda t, i, r: t]}, ValueError, "needs a name that fits into a line; found '<lambda>'"),
    ({"methods": [{"two\nlines": mine}]}, ValueError, "fits into a line"),
    ({"methods": [{"fskd": mine}]}, ValueError, 'two methods have the name "fskd"'),
    ({"methods": [mine, {"mine": returns_none}]}, ValueError, 'two methods have the name "mine"'),
    ({"methods": [{"mine": 3}]}, TypeError, "the method 'mine' is a int; asked for a name or a function"),
    ({"methods": [3]}, TypeError, "is a int; asked for a name or a function"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused_before_anything_is_done(store, asked, error, words):
    with pytest.raises(error) as caught:
        toy_study(store, **asked)
    assert words in str(caught.value) and not store.exists()


def test_a_task_and_a_teacher_are_asked_for_in_this_order(store):
    with pytest.raises(TypeError, match="asked for a task and its teacher, got a Sequential and a Task"):
        fsc.study(toy_net(), toy_task(), methods=["bn"], samples=[6], ratios=[0.5], seeds=[0], store=store)


def test_a_store_of_another_make_is_left_alone(store):
    store.write_text("# fsc study, format 7\nmethod,accuracy\nfskd,0.9\n")
    words = "study: .*written by another version of fsc, in 'fsc study, format 7'"
    with pytest.raises(ValueError, match=words):
        toy_study(store)
    assert store.read_text() == "# fsc study, format 7\nmethod,accuracy\nfskd,0.9\n"


def test_a_method_with_random_numbers_repeats_itself_by_the_seed(timings, tmp_path):
    def randomised(teacher, images, ratio):
        student = prune_macs(teacher, ratio, images)
        student[-1].weight.data = torch.randn_like(student[-1].weight)
        return student

    stores = tmp_path / "one.csv", tmp_path / "two.csv"
    one, two = (toy_study(store, methods=[randomised], seeds=[0, 1, 2]) for store in stores)
    assert one.agreement.equals(two.agreement) and one.agreement[2:].nunique() > 1


def test_the_figures_take_the_table_as_it_is(store, timings):
    table = toy_study(store, methods=["fskd", mine], samples=[6, 8], ratios=[0.3, 0.5], seeds=[0, 1])
    numbers = accuracy_by_samples(table, ratio=0.5, samples=8, removed="MACs").numbers
    rows = table[(table.method == "mine") & (table.samples == 8) & (table.ratio == 0.5)]
    assert numbers["mine"] == rows.accuracy.mean() and numbers["draws"] == 2
    assert {"teacher", "none"} <= set(numbers)
    assert "50 %" in accuracy_by_ratio(table, samples=6, ratio=0.5, removed="MACs").sentence
