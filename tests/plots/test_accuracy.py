"""Accuracy against images, ratio, blocks and time: numbers and sentence are those of the table."""

import itertools

import numpy as np
import pandas as pd
import pytest
from helpers.toy_tables import COLUMNS, texts, timed_draws, toy_table

from fsc import plots


@pytest.fixture
def table() -> pd.DataFrame:
    return toy_table()


def test_the_sentence_reads_the_point_that_the_knobs_chose(table):
    assert plots.accuracy_by_samples(table, ratio=0.5, samples=50).sentence == (
        "50 images, 50 % of filters removed: fine-tuned 57.2 % ± 2.1, unrepaired 16.0 %, teacher 92.1 % "
        "(mean ± sd of 3 draws)."
    )


def test_without_a_point_the_sentence_reads_the_range(table):
    assert plots.accuracy_by_samples(table, ratio=0.5).sentence == (
        "50 to 500 images, 50 % of filters removed: fine-tuned 57.2 % to 80.0 %, unrepaired 16.0 %, "
        "teacher 92.1 % (means of 3 draws)."
    )
    assert plots.accuracy_by_ratio(table, samples=50).sentence == (
        "50 images, 25 % to 50 % of filters removed: fine-tuned 75.0 % to 57.2 %, "
        "unrepaired 60.0 % to 16.0 %, teacher 92.1 % (means of 3 draws)."
    )


def test_a_line_that_does_not_span_the_axis_says_where_it_was_measured(table):
    short = table[(table.method == "finetune") & (table.ratio == 0.5)].assign(method="mir")
    picture = plots.accuracy_by_ratio(pd.concat([table, short]), samples=50)
    assert "fine-tuned 75.0 % to 57.2 %, MiR 57.2 % (at 50 %), " in picture.sentence


def test_one_draw_and_a_live_result_are_read_beside_the_stored_band(table):
    live = pd.DataFrame([("finetune", 50, 0.5, 9, 0.6)], columns=COLUMNS)
    picture = plots.accuracy_by_samples(table, ratio=0.5, samples=50, seed=2, live=live)
    assert picture.sentence == (
        "50 images (draw 2), 50 % of filters removed: fine-tuned 59.3 % (all draws: 57.2 % ± 2.1), "
        "unrepaired 16.0 %, teacher 92.1 % (mean ± sd of 3 draws); live: fine-tuned 60.0 %."
    )
    assert picture.numbers["finetune draw"] == pytest.approx(0.593)
    assert picture.numbers["finetune live"] == 0.6
    assert "live" in texts(picture)
    assert "live" not in texts(plots.accuracy_by_samples(table, ratio=0.5, samples=50, seed=2))


def test_a_single_draw_claims_no_spread(table):
    once = table[table.seed == 0]
    assert plots.accuracy_by_samples(once, ratio=0.5, samples=50).sentence == (
        "50 images, 50 % of filters removed: fine-tuned 55.1 %, unrepaired 16.0 %, teacher 92.1 %."
    )


@pytest.mark.parametrize(("samples", "ratio"), [(50, 0.25), (50, 0.5), (500, 0.25), (500, 0.5)])
def test_numbers_equal_the_table_on_both_axes(table, samples, ratio):
    mine = table[(table.samples == samples) & (table.ratio == ratio)].accuracy
    unrepaired = table[(table.method == "none") & (table.ratio == ratio)].accuracy.item()
    expected = {"finetune": mine.mean(), "finetune sd": np.std(mine, ddof=1), "draws": 3}
    expected |= {"none": unrepaired, "teacher": 0.921}
    assert plots.accuracy_by_samples(table, ratio=ratio, samples=samples).numbers == pytest.approx(expected)
    assert plots.accuracy_by_ratio(table, ratio=ratio, samples=samples).numbers == pytest.approx(expected)


def test_the_line_that_is_drawn_is_the_mean_in_percent(table):
    (axes,) = plots.accuracy_by_samples(table, ratio=0.5).figure.axes
    line = next(line for line in axes.lines if list(line.get_xdata()) == [50, 500])
    assert list(line.get_ydata()) == pytest.approx([57.2, 80.0])
    band = axes.collections[0].get_paths()[0].vertices
    assert {round(y, 6) for x, y in band if x == 50} == {55.1, 59.3}


def test_several_methods_of_the_readers_own_can_be_told_apart(table):
    own = [table.assign(method=table.method.replace("finetune", name)) for name in ("mine", "yours")]
    (axes,) = plots.accuracy_by_samples(pd.concat(own), ratio=0.5).figure.axes
    lines = [line for line in axes.lines if list(line.get_xdata()) == [50, 500]]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(lines) == 2


@pytest.mark.parametrize("figure", ["accuracy_by_samples", "accuracy_by_seconds"])
def test_rows_of_two_networks_are_not_averaged(figure):
    table = pd.concat([timed_draws().assign(arch=arch) for arch in ("resnet20", "resnet32")])
    asked = {"ratio": 0.5, "samples": 50}
    with pytest.raises(ValueError, match=f'{figure}: the table mixes rows of several values of "arch": '):
        getattr(plots, figure)(table, **asked)
    assert getattr(plots, figure)(table[table.arch == "resnet32"], **asked).numbers["draws"] == 3


def test_methods_with_fewer_draws_are_not_said_to_have_as_many():
    for samples, draws in ((50, "2 to 3"), (500, "3")):
        sentence = plots.accuracy_by_samples(timed_draws(), ratio=0.5, samples=samples).sentence
        assert sentence.endswith(f"(mean ± sd of {draws} draws).")


def test_time_is_read_as_the_median_of_the_draws():
    picture = plots.accuracy_by_seconds(timed_draws(), samples=50, ratio=0.5)
    assert picture.sentence == (
        "50 images, 50 % of filters removed: fine-tuned 57.2 % ± 2.1 in 11 s, FSKD 90.0 % ± 0.0 in 0.1 s, "
        "unrepaired 16.0 %, teacher 92.1 % (mean ± sd of 2 to 3 draws, median time)."
    )
    assert picture.numbers["finetune seconds"] == 11 and picture.numbers["fskd seconds"] == pytest.approx(0.1)
    assert picture.numbers["finetune"] == pytest.approx(0.572) and picture.numbers["none"] == 0.16
    assert {"fine-tuned", "FSKD", "unrepaired", "teacher"} == set(texts(picture))


def test_a_repair_that_took_no_measurable_time_still_has_a_place_on_the_log_scale():
    table = timed_draws()
    table.loc[table.method == "fskd", "seconds"] = 0.0
    picture = plots.accuracy_by_seconds(table, samples=50, ratio=0.5)
    points = [line for line in picture.figure.axes[0].lines if line.get_marker() == "^"]
    assert 0.05 in [line.get_xdata()[0] for line in points], "not at 0, which no log scale has"
    assert picture.numbers["fskd seconds"] == 0


def test_a_method_of_the_readers_own_is_drawn_under_its_own_name(table):
    table.loc[table.method == "finetune", "method"] = "my idea"
    picture = plots.accuracy_by_samples(table, ratio=0.5, samples=50)
    assert "my idea 57.2 %" in picture.sentence and "my idea" in texts(picture)


def test_a_method_without_this_point_is_left_out_of_the_sentence_and_not_out_of_the_figure(table):
    few = pd.DataFrame([("mir", 500, 0.5, 0, 0.9)], columns=COLUMNS)
    picture = plots.accuracy_by_samples(pd.concat([table, few]), ratio=0.5, samples=50)
    assert "MiR" not in picture.sentence and "mir" not in picture.numbers and "MiR" in texts(picture)


def test_a_ratio_is_found_whatever_its_last_digit(table):
    table.ratio = table.ratio.replace(0.5, 0.1 + 0.2)
    assert "30 % of filters removed" in plots.accuracy_by_samples(table, ratio=0.3, samples=50).sentence


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"ratio": 0.3}, "accuracy_by_samples: the table has no ratio 0.3.\n  There are: 0.25, 0.5."),
        ({"ratio": 0.5, "samples": 51}, "the table has no samples 51.\n  There are: 50.0, 500.0."),
        ({"ratio": 0.5, "seed": 3}, "the table has no seed 3.\n  There are: 0, 1, 2."),
    ],
)
def test_what_the_table_does_not_hold_is_refused_with_what_it_holds(table, asked, words):
    with pytest.raises(ValueError) as caught:
        plots.accuracy_by_samples(table, **asked)
    assert words in str(caught.value)


def test_a_label_that_had_to_move_has_a_leader_to_its_line():
    rows = [(m, n, 0.5, 0, a) for m, a in (("mir", 0.9), ("fskd", 0.9), ("kd", 0.4)) for n in (10, 500)]
    (axes,) = plots.accuracy_by_samples(pd.DataFrame(rows, columns=COLUMNS), ratio=0.5).figure.axes
    beside = [line for line in axes.lines if line.get_transform() == axes.transAxes]
    (leader,) = [line.get_ydata() for line in beside if len(line.get_ydata()) == 2]
    assert leader[0] == pytest.approx(90 / 102) and leader[1] > 90 / 102


def test_labels_of_lines_that_end_together_do_not_overlap():
    methods = [m for m in plots.NAMES if m not in ("none", "teacher")]
    crowd = pd.DataFrame([(m, n, 0.5, 0, 0.99) for m in methods for n in (10, 500)], columns=COLUMNS)
    (axes,) = plots.accuracy_by_samples(crowd, ratio=0.5).figure.axes
    boxes = sorted((t.get_window_extent() for t in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == len(methods)
    assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))
