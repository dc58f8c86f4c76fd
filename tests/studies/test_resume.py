"""A study that is ended early and resumed: no run is done twice, no row is lost, no latency is missing."""

import signal

import pandas as pd
import pytest
from helpers.toy_study import QUIET, mine, toy_net, toy_study, toy_task

import fsc
from fsc.compress.macs_budget import prune_macs
from fsc.studies import study as sweeps
from fsc.studies.provenance import code_of

LATENCY = ["latency_ms", "latency_ratio", "latency_low", "latency_high"]


def counted():
    """A method that counts its calls."""
    calls = []

    def method(teacher, images, ratio):
        calls.append(ratio)
        return prune_macs(teacher, ratio, images)

    return method, calls


def test_what_is_stored_is_not_done_again(store, timings):
    method, calls = counted()
    first = toy_study(store, methods=[method, "bn"], seeds=[0, 1])
    assert len(calls) == 2
    pd.testing.assert_frame_equal(toy_study(store, methods=[method, "bn"], seeds=[0, 1]), first)
    more = toy_study(store, methods=[method, "bn"], seeds=[0, 1, 2], ratios=[0.5, 0.3])
    assert len(calls) == 6 and len(more) == 1 + 2 + 12 and len(pd.read_csv(store, comment="#")) == 15


def test_another_network_task_or_number_of_steps_is_another_run(store, timings):
    teacher, task = toy_net(), toy_task()
    asked = {"methods": ["mir", "bn"], "samples": [6], "ratios": [0.5], "seeds": [0], "store": store, **QUIET}
    fsc.study(task, teacher, steps=2, **asked)
    fsc.study(task, teacher, steps=3, **asked)                           # only "mir" has steps
    assert len(pd.read_csv(store, comment="#")) == 5
    fsc.study(toy_task(36), teacher, steps=3, **asked)
    assert len(pd.read_csv(store, comment="#")) == 9
    teacher[0].weight.data.mul_(1.5)
    found = fsc.study(task, teacher, steps=3, **asked)
    assert len(pd.read_csv(store, comment="#")) == 13 and len(found) == 4


def test_an_edited_function_is_another_method_and_a_remark_in_it_is_none(store, timings):
    def text_of(scale, remark=""):
        body = f"return cut(teacher, {scale} * ratio, images)  {remark}"
        exec(f"def edited(teacher, images, ratio):\n    {body}", found := {"cut": prune_macs})
        return found["edited"]

    for function in (text_of(1.0), text_of(1.0, "# better?"), text_of(0.5)):
        table = toy_study(store, methods=[function])
    assert len(pd.read_csv(store, comment="#")) == 4 and len(table) == 3
    assert table.reached.iloc[-1] == pytest.approx(0.25, abs=0.1)


def test_a_function_of_other_constants_around_it_is_another_method():
    def with_share(share):
        return lambda teacher, images, ratio: prune_macs(teacher, share, images)

    codes = [code_of(with_share(share)) for share in (0.5, 0.5, 0.25)]
    assert codes[0] == codes[1] != codes[2]


def test_a_torn_last_line_is_repaired_and_its_run_done_again(store, timings):
    whole = toy_study(store, seeds=[0, 1, 2])
    store.write_bytes(store.read_bytes()[:-20])
    with pytest.warns(UserWarning, match="last line of study.csv was torn"):
        again = toy_study(store, seeds=[0, 1, 2])
    columns = [c for c in whole if c != "seconds"]
    pd.testing.assert_frame_equal(again[columns], whole[columns])


def halts_at(done, error):
    """A `progress` that raises this error when this number of runs is done."""

    def progress(now, total):
        if now == done:
            raise error

    return progress


def test_ctrl_c_keeps_what_is_done_and_the_next_call_goes_on(store, timings, tmp_path):
    asked = {"methods": ["mir", "bn"], "seeds": [0, 1]}
    with pytest.warns(UserWarning, match="study: stopped with 4 of 6 runs done; call it again to go on"):
        part = toy_study(store, **asked, progress=halts_at(4, KeyboardInterrupt))
    assert len(part) == 4 and part.latency_ms.isna().all() and not timings
    whole, other = toy_study(store, **asked), toy_study(tmp_path / "other.csv", **asked)
    same = [column for column in whole if column != "seconds"]
    pd.testing.assert_frame_equal(whole[same], other[same])


def test_a_student_that_a_method_made_of_what_it_had_at_ctrl_c_is_no_row(store, timings):
    def stubborn(teacher, images, ratio):
        student = prune_macs(teacher, ratio, images)
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:  # as `mir` does
            pass
        return student

    before = signal.getsignal(signal.SIGINT)
    with pytest.warns(UserWarning, match="stopped with 2 of 3 runs done"):
        assert toy_study(store, methods=[stubborn]).method.tolist() == ["teacher", "none"]
    assert signal.getsignal(signal.SIGINT) is before


def test_what_progress_raises_ends_the_study_even_in_the_midst_of_a_run(store, timings):
    class Stop(Exception):
        pass

    calls = []

    def progress(done, total):
        calls.append((done, total))
        if calls[-20:] == [(2, 4)] * 20:      # of 50 steps of the third run
            raise Stop

    with pytest.raises(Stop):
        toy_study(store, methods=["mir"], seeds=[0, 1], steps=50, progress=progress)
    assert len(pd.read_csv(store, comment="#")) == 2
    calls.clear()
    toy_study(store, methods=["mir"], seeds=[0, 1], steps=2, progress=lambda *step: calls.append(step))
    assert calls[0] == (0, 2) and (1, 2) in calls and calls[-1] == (2, 2) or calls[-1][0] == calls[-1][1]


def other_shape(teacher, images, ratio):
    """A student with as many MACs as that of `mine`, but other shapes."""
    return fsc.prune_filters(teacher, {"0": 0.25, "3": 0.75}, example=images)


def test_each_structure_is_timed_once_and_all_its_rows_have_it(store, timings):
    table = toy_study(store, methods=["fskd", "bn", mine, other_shape], ratios=[0.3, 0.5], seeds=[0, 1])
    structures = table.structure[table.method != "teacher"].unique().tolist()
    assert len(structures) == 3 and len(timings) == 1          # two of pruned students, one of `other_shape`
    assert timings[0][0] == "teacher" and set(structures) <= set(timings[0])
    assert (table[LATENCY][table.method == "teacher"] == 1.0).all(axis=None)
    assert (table[LATENCY][table.method != "teacher"] == 0.5).all(axis=None)
    more = toy_study(store, methods=["fskd", other_shape], ratios=[0.3, 0.5], seeds=[0, 1, 2])
    assert len(timings) == 1 and (more[LATENCY][1:] == 0.5).all(axis=None)   # no structure is timed again
    toy_study(store, methods=["fskd"], ratios=[0.3, 0.5, 0.7])
    assert len(timings) == 2 and len(timings[1]) == 2


def test_latencies_that_an_end_forestalled_are_measured_by_the_next_call(store, timings, monkeypatch):
    asked = {"methods": ["bn", other_shape], "seeds": [0, 1]}

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="stopped with 6 of 6 runs done"):
        patch.setattr(sweeps, "latency", interrupted)
        assert toy_study(store, **asked).latency_ms.isna().all()
    before = store.read_text()
    table = toy_study(store, **asked)
    assert len(timings) == 1 and table.latency_ms.tolist() == [1.0, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert len(store.read_text().splitlines()) == len(before.splitlines()) == 8


def test_latency_is_really_measured(store):
    table = toy_study(store, methods=[mine])
    assert (table.latency_ms > 0).all() and table.latency_ratio[0] == 1.0
    assert table.latency_ratio.between(table.latency_low, table.latency_high).all()


def test_rows_of_another_version_are_used_and_said(store, timings):
    toy_study(store)
    store.write_text(store.read_text().replace(f",{fsc.__version__},", ",0.0.9,"))
    with pytest.warns(UserWarning, match="these rows were stored with fsc 0.0.9, torch .*; this is fsc"):
        assert len(toy_study(store)) == 3
