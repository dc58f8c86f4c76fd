"""The course of a training as a figure: numbers and lines are those of the table."""

import matplotlib.pyplot
import numpy as np
import pandas as pd
import pytest
from helpers.toy_tables import assert_readable

from fsc.plots.training import loss_history


@pytest.fixture
def history() -> pd.DataFrame:
    """As `fsc.report_of` gives it of `fsc.mir`: the held-out loss is lowest at step 20, then rises."""
    return pd.DataFrame(
        {
            "step": [1, 10, 20, 30],
            "loss": [0.9, 0.3, 0.1, 0.05],
            "held_out_loss": [1.6, 0.7, 0.5, 0.6],
            "lr": [0.02, 0.02, 0.002, 0.0002],
            "images_per_second": [100.0, 300.0, 310.0, 290.0],
        }
    )


def every_figure(history) -> dict:
    long = pd.DataFrame({"step": range(1, 101), "loss": np.geomspace(1e-4, 3e4, 100), "lr": [0.02] * 100})
    return {
        "all": loss_history(history),
        "losses": loss_history(history[["step", "loss", "held_out_loss"]], method="finetune"),
        "wide range": loss_history(long),
        "own method": loss_history(history[["step", "loss", "images_per_second"]], method="mine"),
        "zero": loss_history(history.assign(loss=0.0)),
        "one step": loss_history(history[:1]),
    }


def test_the_sentence_reads_both_losses_and_says_where_the_held_out_one_was_lowest(history):
    picture = loss_history(history)
    assert picture.sentence == (
        "In 30 steps the loss on the fitted images goes from 0.9 to 0.05, "
        "on the held-out ones from 1.6 to 0.6 (lowest: 0.5 at step 20); 295 images a second."
    )
    assert picture.numbers == {
        "first loss": 0.9, "last loss": 0.05, "steps": 30, "first held-out": 1.6, "last held-out": 0.6,
        "lowest held-out": 0.5, "lowest at": 20, "images per second": 295.0,
    }


def test_a_held_out_loss_that_ends_at_its_lowest_needs_no_remark(history):
    assert "lowest" not in loss_history(history[:3]).sentence


def test_what_is_drawn_is_what_was_measured(history):
    history.loc[1, "held_out_loss"] = np.nan
    losses, rate, speed = loss_history(history).figure.axes
    (fitted, held_out), (steps,), (images,) = losses.lines[:2], rate.lines, speed.lines
    assert list(fitted.get_ydata()) == list(history.loss) and list(fitted.get_xdata()) == list(history.step)
    assert list(held_out.get_xdata()) == [1, 20, 30] and list(held_out.get_ydata()) == [1.6, 0.5, 0.6]
    assert list(steps.get_ydata()) == list(history.lr)
    assert list(images.get_ydata()) == list(history.images_per_second)
    assert [t.get_text() for t in rate.get_yticklabels()] == ["0.0002", "0.002", "0.02"]


def test_a_history_of_losses_alone_has_one_chart(history):
    picture = loss_history(history[["step", "loss"]])
    assert picture.sentence == "In 30 steps the loss on the fitted images goes from 0.9 to 0.05."
    (axes,) = picture.figure.axes
    assert axes.get_yscale() == "log" and [t.get_text() for t in axes.texts] == ["fitted"]


def test_a_loss_of_zero_is_drawn_on_a_scale_that_has_a_zero(history):
    picture = loss_history(history.assign(loss=0.0))
    assert picture.figure.axes[0].get_yscale() == "linear" and picture.numbers["last loss"] == 0


def test_a_history_of_nothing_is_refused(history):
    with pytest.raises(ValueError, match="loss_history: the table has no column loss"):
        loss_history(history.drop(columns="loss"))
    with pytest.raises(ValueError, match="loss_history: held_out_loss was measured at none of 4 steps"):
        loss_history(history.assign(held_out_loss=np.nan))
    with pytest.raises(ValueError, match="loss was measured at none of 0 steps"):
        loss_history(history[:0])


@pytest.mark.parametrize("name", ["all", "losses", "wide range", "own method", "zero", "one step"])
def test_a_history_can_be_read_from_afar_and_nothing_reaches_over_the_edge(history, name):
    assert_readable(every_figure(history)[name])
    assert matplotlib.pyplot.get_fignums() == []
