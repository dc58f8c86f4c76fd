"""Figures of block dropping: the numbers are the table's, and the sentence says them."""

import pandas as pd
import pytest

from fsc import plots

COLUMNS = ["method", "samples", "blocks", "seed", "accuracy"]


def toy_blocks() -> pd.DataFrame:
    rows = [("teacher", None, 0, None, 0.9)]
    for blocks, low in ((1, 0.6), (2, 0.3)):
        rows += [("none", 50, blocks, seed, low + 0.1 * seed) for seed in (0, 1, 2)]
        rows += [("fskd", 50, blocks, seed, 0.8) for seed in (0, 1, 2)]
    return pd.DataFrame(rows, columns=COLUMNS)


@pytest.mark.parametrize(
    ("second", "agreement"), [((1, 2, 3, 4), 1.0), ((4, 3, 2, 1), -1.0), ((1, 2, 4, 3), 0.8)]
)
def test_rankings_say_how_far_the_orders_agree(second, agreement):
    table = pd.DataFrame({"a": [0.1, 0.2, 0.4, 0.5], "b": second}, index=["w", "x", "y", "z"])
    picture = plots.rankings(table, x="a", y="b")
    assert picture.numbers == {"spearman": pytest.approx(agreement), "blocks": 4}
    assert f"{agreement:.2f}" in picture.sentence and picture.sentence in picture.alt


def test_two_blocks_have_no_order_to_compare():
    with pytest.raises(ValueError, match="2 blocks"):
        plots.rankings(pd.DataFrame({"a": [1, 2], "b": [1, 2]}), x="a", y="b")


def test_the_sentence_reads_the_number_of_blocks_that_was_asked_for():
    picture = plots.accuracy_by_blocks(toy_blocks(), samples=50, count=1)
    assert picture.sentence == (
        "50 images, 1 block dropped: FSKD 80.0 % ± 0.0, unrepaired 70.0 % ± 10.0, teacher 90.0 % "
        "(mean ± sd of 3 draws)."
    )
    largest = plots.accuracy_by_blocks(toy_blocks(), samples=50)
    assert largest.sentence.startswith("50 images, 2 blocks dropped: FSKD 80.0 %")


def test_a_method_of_the_readers_own_and_a_single_draw_are_read_as_in_the_other_figures():
    table = toy_blocks().query("seed != 1 and seed != 2").replace({"method": {"fskd": "mine"}})
    assert plots.accuracy_by_blocks(table, samples=50, count=1).sentence == (
        "50 images, 1 block dropped: unrepaired 60.0 %, teacher 90.0 %, mine 80.0 %."
    )


def test_old_keywords_still_work_and_name_their_successors():
    words = r"accuracy_by_blocks: (draw= is now called seed|blocks= is now called count)="
    with pytest.warns(FutureWarning, match=words) as warned:
        old = plots.accuracy_by_blocks(toy_blocks(), samples=50, blocks=1, draw=2)
    assert len(warned) == 2
    assert old.sentence == plots.accuracy_by_blocks(toy_blocks(), samples=50, count=1, seed=2).sentence


def test_a_draw_and_a_live_result_stand_beside_the_band():
    live = pd.DataFrame([("fskd", 50, 2, 7, 0.75)], columns=COLUMNS)
    picture = plots.accuracy_by_blocks(toy_blocks(), samples=50, count=2, seed=1, live=live)
    assert picture.numbers["none draw"] == pytest.approx(0.4) and picture.numbers["fskd live"] == 0.75
    assert "unrepaired 40.0 % (all draws: 40.0 % ± 10.0)" in picture.sentence
    assert "live: FSKD 75.0 %" in picture.sentence


@pytest.mark.parametrize("asked", [{"samples": 20}, {"samples": 50, "count": 5}, {"samples": 50, "seed": 9}])
def test_what_the_table_has_not_is_refused_with_what_it_has(asked):
    with pytest.raises(ValueError, match="There are"):
        plots.accuracy_by_blocks(toy_blocks(), **asked)


def test_accuracy_by_time_is_the_mean_of_the_draws_at_each_networks_time():
    rows = [("blocks", "1 block", acc, 0.9, 0.85, 0.95) for acc in (0.7, 0.8)]
    rows += [("filters", "half", 0.6, 0.7, 0.65, 0.75)] * 2
    table = pd.DataFrame(rows, columns=["family", "network", "accuracy", "ratio", "low", "high"])
    picture = plots.accuracy_by_time(table, teacher=0.9)
    assert picture.numbers["1 block"]["accuracy"] == pytest.approx(0.75) and picture.numbers["draws"] == 2
    assert picture.sentence == (
        "1 block 75.0 % in 90 % of the time; half 60.0 % in 70 % of the time; teacher 90.0 % "
        "(means of 2 draws)."
    )
