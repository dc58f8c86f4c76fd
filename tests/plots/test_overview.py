"""The overview of a study: its numbers are those of the table; no network beats those of the frontier."""

import re

import numpy as np
import pandas as pd
import pytest
from helpers.toy_tables import NAN, frontier_table, texts

from fsc.plots.overview import overview


@pytest.fixture
def table() -> pd.DataFrame:
    return frontier_table()


def test_the_sentence_says_what_the_setting_reached_at_what_latency_and_what_the_others_do(table):
    picture = overview(table, method="fskd", samples=50, ratio=0.5)
    assert picture.sentence == (
        "FSKD, 50 images, 50 % of MACs removed: 70.0 % ± 2.0 (3 draws), "
        "at 60 % of the teacher's latency (58 to 61 %), below the frontier; "
        "best mine 75.0 % of 2 methods here; unrepaired 20.0 %; teacher 95.0 %."
    )
    assert picture.alt.endswith(picture.sentence) and "against measured latency" in picture.alt
    wanted = {"fskd": 0.7, "fskd sd": 0.02, "mine": 0.75, "none": 0.2, "teacher": 0.95}
    wanted |= {"draws": 3, "failed": 0}
    assert {key: picture.numbers[key] for key in wanted} == pytest.approx(wanted)
    assert picture.numbers["latency_ratio"] == 0.6 and "finetune" not in picture.numbers


def test_no_network_of_the_frontier_is_beaten_in_both_and_every_other_is(table):
    picture = overview(table, method="fskd", samples=50, ratio=0.3)
    assert picture.numbers["frontier"] == [("mine", 0.5), ("fskd", 0.3), ("teacher", None)]
    assert "on the frontier; the best of 2 methods here" in picture.sentence
    on = [method for method, _ in overview(table, method="fskd", samples=500, ratio=0.3).numbers["frontier"]]
    assert on == ["fskd", "fskd", "teacher"], '"mine" was not measured with 500 images'


def test_one_draw_stands_out_and_the_chosen_method_is_bold(table):
    picture = overview(table, method="fskd", samples=50, ratio=0.5, seed=2)
    assert "50 images (draw 2), 50 % of MACs removed: 72.0 % (all 3 draws: 70.0 % ± 2.0)" in picture.sentence
    assert picture.numbers["fskd draw"] == pytest.approx(0.72)
    bold = [t.get_text() for t in picture.figure.axes[0].texts if t.get_fontweight() == "bold"]
    assert bold == ["FSKD"] and {"mine", "teacher", "unrepaired"} <= set(texts(picture))
    boldest = max(picture.figure.axes[0].lines, key=lambda line: line.get_linewidth())
    assert boldest.get_color() == "#0072B2" and boldest.get_ydata().tolist() == pytest.approx([72, 82])


def test_ratios_are_written_beside_the_points_of_the_chosen_method_where_they_do_not_overlap(table):
    assert set(right_texts(overview(table, method="fskd", samples=50, ratio=0.5))) == {"50 %", "30 %"}
    near = table.method.eq("fskd") & table.ratio.eq(0.3)
    table.loc[near, ["accuracy", "latency_ratio"]] = [0.71, 0.61]
    for asked, written in ((0.3, "30 %"), (0.5, "50 %")):
        assert right_texts(overview(table, method="fskd", samples=50, ratio=asked)) == [written]


def right_texts(picture) -> list[str]:
    return [text.get_text() for text in picture.figure.axes[1].texts]


def test_points_of_the_frontier_are_drawn_stronger(table):
    right = overview(table, method="finetune", samples=50, ratio=0.5).figure.axes[1]
    strong = [line for line in right.lines if line.get_marker() not in ("", "None", "o")]
    strong = [line.get_xdata()[0] for line in strong if line.get_markeredgecolor() == "#222222"]
    assert sorted(strong) == pytest.approx([50, 80, 100])


def test_without_latency_the_right_half_weighs_the_seconds_of_the_repair_at_this_ratio(table):
    bare = table.drop(columns=["latency_ratio", "latency_low", "latency_high"])
    for unmeasured in (bare, table.assign(latency_ratio=NAN)):
        picture = overview(unmeasured, method="fskd", samples=50, ratio=0.5, removed="filters")
        reached = "50 % of filters removed: 70.0 % ± 2.0 (3 draws), at 2 s of repair, below the frontier"
        assert reached in picture.sentence
        assert picture.numbers["frontier"] == [("mine", 0.5)] and picture.numbers["seconds"] == 2.0
    assert "at less than 0.05 s of repair" in overview(bare, method="mine", samples=50, ratio=0.5).sentence


def test_without_any_cost_there_is_no_right_half(table):
    few = table[["method", "samples", "ratio", "seed", "accuracy"]]
    picture = overview(few, method="fskd", samples=50, ratio=0.5)
    assert len(picture.figure.axes) == 1
    assert picture.numbers["frontier"] == [] and "frontier" not in picture.sentence
    assert picture.png().startswith(b"\x89PNG")


def test_what_was_not_measured_is_said_and_where_it_was(table):
    picture = overview(table, method="mine", samples=500, ratio=0.3)
    assert picture.sentence == (
        "mine, 500 images, 30 % of MACs removed: not measured (it is at 50 % with 50 images); FSKD 90.0 %; "
        "unrepaired 20.0 %; teacher 95.0 %."
    )
    assert "mine" not in picture.numbers and picture.numbers["draws"] == 0
    assert "mine: not measured here" in texts(picture)
    assert picture.png().startswith(b"\x89PNG")
    nowhere = table[(table.samples != 500) | (table.ratio != 0.3)]
    assert "not measured" in overview(nowhere, method="fskd", samples=500, ratio=0.3).sentence


def test_runs_that_failed_are_counted_with_the_first_reason(table):
    failed = (table.method == "fskd") & (table.samples == 50) & (table.ratio == 0.5) & (table.seed > 0)
    table.loc[failed, ["accuracy", "latency_ratio", "seconds"]] = NAN
    table["error"] = np.where(failed, "ValueError: too few images", None)
    picture = overview(table, method="fskd", samples=50, ratio=0.5, seed=2)
    failures = "2 of 3 runs failed (ValueError: too few images)"
    assert f"this draw not measured (all 1 draw: 68.0 %), {failures}" in picture.sentence
    assert (picture.numbers["draws"], picture.numbers["failed"]) == (1, 2)


def test_a_live_row_is_a_star_in_both_halves(table):
    live = table[table.method == "fskd"].iloc[:1].assign(accuracy=0.5, seed=7)
    picture = overview(table, method="fskd", samples=50, ratio=0.3, live=live)
    assert picture.sentence.endswith("; live: FSKD 50.0 % (draw 7).") and picture.numbers["fskd live"] == 0.5
    for axes, x in zip(picture.figure.axes, (50, 80), strict=True):
        (star,) = [line for line in axes.lines if line.get_marker() == "*" and line.get_markersize() == 20]
        assert (star.get_xdata()[0], star.get_ydata()[0]) == pytest.approx((x, 50))


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("arch", ["resnet20", "vgg16"], 'the study has rows of several values of "arch": resnet20, vgg16.'),
        ("arch", ["resnet20", "vgg16"], 'Pass the rows of one, as study[(study.arch == "resnet20")].'),
        ("steps", [200, 2000], "00) | study.steps.isna()]"),
    ],
)
def test_what_no_mean_may_mix_is_refused_with_the_words_that_choose(table, column, values, words):
    table[column] = [values[i % 2] for i in range(len(table))]
    with pytest.raises(ValueError, match=re.escape(words)):
        overview(table, method="fskd", samples=50, ratio=0.5)


def test_a_missing_column_is_named(table):
    with pytest.raises(ValueError, match="overview: the table has no column ratio, seed"):
        overview(table.drop(columns=["seed", "ratio"]), method="fskd", samples=50, ratio=0.5)
