"""The explorer: knobs over a study that raise nothing, and runs recomputed beside the stored ones."""

import itertools
import re
import time

import numpy as np
import pandas as pd
import pytest
from helpers.toy_panel import press, shown
from helpers.toy_study import changes_the_teacher, mine, toy_latency, toy_net, toy_study, toy_task
from helpers.toy_tables import frontier_table

import fsc
from fsc.widgets import Explorer, Panel, explorer

WAIT = 60


@pytest.fixture
def study(tmp_path, monkeypatch) -> pd.DataFrame:
    toy_latency(monkeypatch)
    asked = dict(methods=["bn", "kd", mine], samples=[6, 12], ratios=[0.3, 0.5], seeds=[0, 1], steps=3)
    return toy_study(tmp_path / "study.csv", **asked)


def test_every_setting_of_a_real_study_has_its_picture_and_its_sentence(study):
    panel = fsc.widgets.Explorer(study)
    assert isinstance(panel, Panel)
    assert panel.knobs == {"method": ("kd", "bn", "mine"), "samples": (6, 12), "ratio": (0.3, 0.5)}
    assert panel.seeds == (0, 1)
    for method, samples, ratio in itertools.product(*panel.knobs.values()):
        panel.set(method=method, samples=samples, ratio=ratio, seed=None)
        rows = study[(study.method == method) & (study.samples == samples) & (study.ratio == ratio)]
        assert panel.numbers[method] == pytest.approx(rows.accuracy.mean())
        assert panel.numbers["latency_ratio"] == 0.5
        assert f"{samples} images, {100 * ratio:.0f} % of MACs removed: " in panel.sentence
        panel.set(seed=1)
        assert panel.numbers[f"{method} draw"] == pytest.approx(rows.accuracy[rows.seed == 1].item())
        assert panel.image.value.startswith("<img alt=") and panel.error is None


def test_the_shipped_study_is_explored_without_an_error_and_what_it_lacks_is_said():
    table = pd.read_csv(fsc.data_dir() / "studies" / "all_shapes.csv", comment="#")
    table = table[~table.samples.isin([100, 200]) & ~table.ratio.isin([0.1, 0.2])]  # 48 settings
    panel, spent, said = Explorer(table), [], []
    for method, samples, ratio in itertools.product(*panel.knobs.values()):
        panel.state["seed"] = None
        start = time.process_time()  # CPU time of this process: what else the machine does enters less
        for name, value in (("method", method), ("samples", samples), ("ratio", ratio)):
            panel.sliders[name].value = value
        spent.append(time.process_time() - start)
        assert panel.error is None and shown(panel) == ""
        said.append(panel.sentence)
    assert all("% of MACs removed" in sentence for sentence in said)
    assert any("not measured (it is at" in sentence for sentence in said)
    assert np.median(spent) < 0.2, f"{np.median(spent):.3f} s in the median, {max(spent):.3f} s at most"


def test_recompute_finds_what_is_stored_and_shows_it_beside(study):
    panel = Explorer(study, toy_task(), toy_net())
    panel.set(method="bn", samples=12, ratio=0.5, seed=1)
    stored = panel.numbers["bn draw"]
    assert re.search(r"under 1 s on .*, and the test on 20 images", panel._work.note.value)
    live = panel.recompute()
    assert live.accuracy.item() == stored == panel.numbers["bn live"] and live.latency_ratio.item() == 0.5
    assert panel.sentence.endswith(f"; live: BN re-estimated {100 * stored:.1f} % (draw 1).")
    panel.set(method="kd", seed=None)
    assert "live" not in panel.sentence
    live = panel.recompute()
    assert (live.seed.item(), live.steps.item()) == (0, 3), "the first draw, and as many steps as stored"
    there = study.query("method == 'kd' and samples == 12 and ratio == 0.5 and seed == 0")
    assert live.accuracy.item() == there.accuracy.item()


def test_a_study_without_times_is_recomputed_and_one_that_may_count_filters_is_not(study):
    columns = ["task", "method", "samples", "ratio", "seed", "accuracy", "reached"]
    bare = study.query("method != 'mine'")[columns]
    panel = Explorer(bare, toy_task(), toy_net())
    panel.set(method="bn", ratio=0.5)
    assert panel._work.note.value == "never timed at this setting; and the test on 20 images"
    assert panel.recompute().setting.item() == study.query("method == 'bn' and ratio == 0.5").setting.iloc[0]
    older = bare.drop(columns="reached")
    assert "50 % of filters removed" in Explorer(older[older.ratio == 0.5]).sentence
    with pytest.raises(ValueError, match="Explorer: the table has no column reached"):
        Explorer(older, toy_task(), toy_net())


def test_recompute_stops_at_a_step_and_leaves_the_stored_picture(study):
    panel = Explorer(study.assign(steps=study.steps * 100_000), toy_task(), toy_net())
    panel.set(method="kd")
    stored = panel.sentence
    press(panel, "Recompute")
    deadline = time.monotonic() + WAIT
    while panel._work.bar.max < 1000 and time.monotonic() < deadline:
        time.sleep(0.01)
    press(panel, "Stop")
    panel.wait(WAIT)
    assert not panel._work.running and panel.error is None and panel.sentence == stored
    assert panel._work.note.value == "stopped; nothing has changed"


def test_a_function_of_ones_own_cannot_be_recomputed_and_a_failing_method_says_why(study, monkeypatch):
    panel = Explorer(study, toy_task(), toy_net())
    panel.set(method="mine")
    assert panel._work.note.value.startswith("cannot be recomputed")
    with pytest.raises(ValueError, match="Panel.recompute: 'mine' is a function of your own"):
        panel.recompute()
    panel.set(method="bn")
    monkeypatch.setattr(explorer, "do", lambda *_, **__: ({"error": "ValueError: too few"}, None))
    press(panel, "Recompute")
    panel.wait(WAIT)
    assert isinstance(panel.error, RuntimeError)
    assert shown(panel) == "RuntimeError: bn failed: ValueError: too few"
    panel.set(samples=12)
    assert panel.error is None and shown(panel) == ""


def test_a_function_that_is_passed_is_recomputed_and_one_of_other_code_is_refused(study):
    panel = Explorer(study, toy_task(), toy_net(), methods={"mine": mine})
    panel.set(method="mine", seed=1)
    stored = panel.numbers["mine draw"]
    assert panel.recompute().accuracy.item() == stored == panel.numbers["mine live"]
    words = r"the function 'mine' .* is not in the study, which has one of that name with other code"
    with pytest.raises(ValueError, match=words):
        Explorer(study, toy_task(), toy_net(), methods={"mine": changes_the_teacher})
    with pytest.raises(ValueError, match="'yours' .* is not in the study, which has no method of that name"):
        Explorer(study, toy_task(), toy_net(), methods={"yours": mine})


def test_task_and_teacher_must_be_those_of_the_study(study):
    with pytest.raises(ValueError, match="Explorer: to recompute it needs task and teacher; the teacher is "):
        Explorer(study, toy_task())
    with pytest.raises(ValueError, match="Explorer: the study's teacher is sha256:"):
        Explorer(study.assign(teacher="sha256:0"), toy_task(), toy_net())
    with pytest.raises(ValueError, match="Explorer: the study's task is shapes; the one to .* with is toy"):
        Explorer(study.assign(task="shapes"), toy_task(), toy_net())


def failed_study() -> pd.DataFrame:
    table = frontier_table().assign(error=None)
    table.loc[table.samples.notna(), ["accuracy", "error"]] = [np.nan, "ValueError: x"]
    return table


@pytest.mark.parametrize(
    ("study", "error", "words"),
    [
        ("study.csv", TypeError, "asked for a table, as from fsc.study; got a str.\n  A stored one: "),
        (frontier_table()[:0], ValueError, "Explorer: the study has no rows.\n  Run fsc.study first"),
        (pd.DataFrame({"loss": [1.0]}), ValueError, "Explorer: the table has no column method, samples, "),
        (frontier_table()[:3], ValueError, "Explorer: of 3 rows none has the accuracy of a method with few "),
        (failed_study(), ValueError, "has the accuracy of a method with few images; 21 failed."),
        (frontier_table().assign(task=list("ab") * 12), ValueError, 'as study[(study.task == "a")]'),
    ],
    ids=["path", "empty", "columns", "alone", "failed", "tasks"],
)
def test_what_cannot_be_explored_is_refused_in_words(study, error, words):
    with pytest.raises(error, match=re.escape(words)):
        Explorer(study)
