"""The figures: their numbers equal the table's, their sentences say them, and they can be read from afar."""

import matplotlib.pyplot
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.toy_tables import COLUMNS, assert_readable, depth, texts, timed_draws, timed_table, toy_table

from fsc import plots


@pytest.fixture
def table() -> pd.DataFrame:
    return toy_table()


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    assert matplotlib.pyplot.get_fignums() == []


def every_figure() -> dict:
    accuracies = [0.16, np.nan, 0.572]
    history = pd.DataFrame({"step": [0, 100, 200], "loss": [2.3, 0.5, 0.01], "accuracy": accuracies})
    unrepaired = pd.Series({"bn1": 0.0, "conv1": 2e-3, "blocks.2.branch.residual.depthwise.conv1": 2e-3})
    normalised = dict(mean=(0.5,) * 3, std=(0.25,) * 3)
    names = ["conv1"] * 2 + ["blocks.2.branch.residual.depthwise.conv1"] * 2
    layers = pd.DataFrame({"layer": names, "ratio": [0.25, 0.5] * 2, "accuracy": [0.9, 0.85, 0.7, 0.3]})
    methods = [m for m in plots.NAMES if m not in ("none", "teacher")]
    crowd = [(m, n, 0.5, seed, 0.9) for m in methods for n in (10, 500) for seed in (0, 1)]
    return {
        "crowd": plots.accuracy_by_samples(pd.DataFrame(crowd, columns=COLUMNS), ratio=0.5),
        "by samples": plots.accuracy_by_samples(toy_table(), ratio=0.5, samples=50),
        "by ratio": plots.accuracy_by_ratio(toy_table(), samples=50, ratio=0.25),
        "sensitivity": plots.sensitivity(layers, teacher=0.921),
        "by seconds": plots.accuracy_by_seconds(timed_draws(), samples=50, ratio=0.5),
        "error map": plots.error_map({"none": unrepaired, "own": depth(0.3)}),
        "costs": plots.costs(timed_table().rename(index={"half": "half of the filters of the inner layers"})),
        "training": plots.training_curve(history, teacher=0.921),
        "images": plots.picture_grid(torch.zeros(3, 3, 8, 8), **normalised, titles=list("aab")),
    }


def test_the_error_map_has_a_line_a_network_in_its_colour_and_gives_the_errors_back():
    errors = {"none": depth(0.0, 0.2, 0.8), "fskd": depth(0.0, 0.05, 0.1)}
    picture = plots.error_map(errors)
    assert picture.numbers == {name: line.to_dict() for name, line in errors.items()}
    assert picture.sentence == (
        "Squared error at the last layer (layer2), relative to the variance of the teacher's: "
        "unrepaired 0.8, FSKD 0.1."
    )
    (axes,) = picture.figure.axes
    drawn = {line.get_color(): line for line in axes.lines if list(line.get_xdata()) == [0, 1, 2]}
    assert list(drawn[plots.COLOURS["none"]].get_ydata())[1:] == [0.2, 0.8]
    assert list(drawn[plots.COLOURS["fskd"]].get_ydata())[1:] == [0.05, 0.1]
    assert axes.get_yscale() == "log"
    assert [t.get_text() for t in axes.get_xticklabels()] == list(errors["none"].index)


@pytest.mark.parametrize("nothing", [0.0, 5e-16])
def test_an_error_of_zero_or_of_rounding_is_drawn_on_the_teachers_line_at_the_foot(nothing):
    (axes,) = plots.error_map({"none": depth(nothing, 0.2, 0.8)}).figure.axes
    line = next(line for line in axes.lines if list(line.get_xdata()) == [0, 1, 2])
    foot = line.get_ydata()[0]
    assert axes.get_ylim()[0] < foot < 0.2 / 1.2 and foot in axes.get_yticks()
    assert [t.get_text() for t in axes.get_yticklabels()][list(axes.get_yticks()).index(foot)] == "0"


def test_errors_that_are_all_alike_still_stand_clear_of_the_teachers_line():
    (axes,) = plots.error_map({"none": depth(1.0, 0.99, 0.98)}).figure.axes
    foot = axes.get_yticks()[0]
    to_axes = axes.transData + axes.transAxes.inverted()
    assert to_axes.transform((0, 0.98))[1] - to_axes.transform((0, foot))[1] > 0.3


def test_an_error_map_of_the_teacher_itself_is_a_line_of_zeros():
    picture = plots.error_map({"copy": depth(0.0, 0.0)})
    assert picture.sentence.endswith("copy 0.") and len(picture.png()) > 0


def test_layers_that_one_network_lacks_leave_the_others_in_place():
    short = depth(0.1, 0.2, 0.3).drop("layer1")
    with_gap = depth(0.1, np.nan, np.inf)
    picture = plots.error_map({"none": depth(0.4, 0.5, 0.6), "fskd": short, "svd": with_gap})
    places = [list(line.get_xdata()) for line in picture.figure.axes[0].lines]
    assert [0, 2] in places and len(picture.png()) > 0


def test_a_deep_network_names_only_some_of_its_layers():
    (axes,) = plots.error_map({"none": depth(*[0.5] * 60)}).figure.axes
    assert len(axes.get_xticks()) == 20


def test_an_error_map_of_nothing_is_refused():
    words = "error_map: asked for networks with at least a layer each; found none"
    with pytest.raises(ValueError, match=words):
        plots.error_map({})
    with pytest.raises(ValueError, match="found none with 0 layers"):
        plots.error_map({"none": pd.Series(dtype=float)})


def test_a_missing_column_is_named(table):
    with pytest.raises(ValueError, match="accuracy_by_ratio: the table has no column seed"):
        plots.accuracy_by_ratio(table.drop(columns="seed"), samples=50)
    with pytest.raises(ValueError, match="sensitivity: the table has no column layer, ratio, accuracy"):
        plots.sensitivity(pd.DataFrame())


def test_sensitivity_names_the_layers_that_suffer_most_and_least():
    losses = {"z": 0.2, "a": 0.8, "m": 0.4}
    rows = [(layer, ratio, 0.9 - ratio * losses[layer]) for layer in losses for ratio in (0.25, 0.5)]
    table = pd.DataFrame(rows, columns=["layer", "ratio", "accuracy"])
    picture = plots.sensitivity(table, ratio=0.25, teacher=0.921)
    assert picture.sentence == (
        "25 % of the filters removed from one layer alone: a is the most sensitive (70.0 % accuracy left), "
        "z the least (85.0 %); teacher 92.1 %."
    )
    assert (picture.numbers["lowest"], picture.numbers["highest"]) == pytest.approx((0.7, 0.85))
    # Depth is the order of the table, not of the alphabet: the first line drawn is that of z.
    assert list(picture.figure.axes[0].lines[0].get_ydata()) == pytest.approx([85.0, 80.0])
    assert plots.sensitivity(table).numbers["lowest"] == pytest.approx(0.5), "at the largest ratio by default"


def test_costs_are_relative_and_the_time_carries_its_interval_and_verdict():
    picture = plots.costs(timed_table())
    assert picture.sentence == (
        "half: 25.0 % of the parameters, 50.0 % of the MACs, 80.0 % of the time "
        "(70.0 % to 90.0 %, faster 1.25x)."
    )
    assert picture.numbers == {"half": {"params": 0.25, "macs": 0.5, "time": 0.8, "low": 0.7, "high": 0.9}}
    bars = [patch.get_height() for patch in picture.figure.axes[0].patches]
    assert bars == pytest.approx([25, 50, 80])


@pytest.mark.parametrize("high", [0.9, 1.2, 2.5, 8.0])
def test_in_costs_the_teacher_is_named_in_the_legend_where_nothing_can_lie_over_it(high):
    table = timed_table()
    table.loc["half", "high"] = high
    (axes,) = plots.costs(table).figure.axes
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["teacher", "half"]
    assert not [t for t in axes.texts if t.get_text() == "teacher"]


def test_costs_refuse_a_time_relative_to_something_else():
    table = timed_table()
    table.ratio = [1.25, 1.0]
    with pytest.raises(ValueError, match=r"relative to another network \(teacher takes 1.250 of its time\)"):
        plots.costs(table)
    with pytest.raises(ValueError, match="costs: asked for students beside teacher; there is none"):
        plots.costs(timed_table()[:1])
    with pytest.raises(ValueError, match="costs: the table has no network Teacher.\n  There are: half, "):
        plots.costs(timed_table(), teacher="Teacher")


@pytest.mark.parametrize(
    ("accuracies", "words"),
    [((0.16, 0.572), "rises from 16.0 % to 57.2 %"), ((0.6, 0.5), "falls from 60.0 % to 50.0 %"),
     ((0.5, 0.505), "hardly moves, from 50.0 % to 50.5 %")],
)
def test_the_training_curve_says_which_way_things_went(accuracies, words):
    measured = [accuracies[0], np.nan, accuracies[1]]
    history = pd.DataFrame({"step": [0, 100, 200], "loss": [2.3, 0.5, 0.01], "accuracy": measured})
    picture = plots.training_curve(history, teacher=0.921)
    assert picture.sentence.startswith("In 200 steps the loss falls from 2.30 to 0.01 and the test accuracy ")
    assert picture.sentence.endswith(f"{words}; teacher 92.1 %.")
    assert list(picture.figure.axes[1].lines[0].get_xdata()) == [0, 200], "unmeasured steps are left out"


def test_images_are_shown_as_they_were_before_normalising():
    mean, std = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)
    before = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    after = (before - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    picture = plots.picture_grid(after, mean=mean, std=std, columns=3)
    sheet = picture.figure.axes[0].images[0].get_array()
    fourth = sheet[18:34, 0:16]  # second row; a gap of 2 below the first
    np.testing.assert_allclose(fourth, before[3].permute(1, 2, 0), atol=1e-6)
    assert picture.sentence == "5 images of 16 x 16 pixels."


def test_images_are_counted_by_title():
    images = torch.zeros(3, 3, 8, 8)
    picture = plots.picture_grid(images, mean=(0, 0, 0), std=(1, 1, 1), titles=["cat", "dog", "cat"])
    assert picture.sentence == "3 images of 8 x 8 pixels: 2 cat, 1 dog."
    assert texts(picture) == ["cat", "dog", "cat"]
    with pytest.raises(ValueError, match="picture_grid: 2 titles for 3 images"):
        plots.picture_grid(images, mean=(0, 0, 0), std=(1, 1, 1), titles=["cat", "dog"])


@pytest.mark.parametrize("name", every_figure())
def test_a_figure_can_be_read_from_afar_and_by_those_who_do_not_see_it(name):
    assert_readable(every_figure()[name])


def test_labels_on_a_log_scale_stand_at_the_height_of_their_lines():
    (axes,) = plots.error_map({"none": depth(0.01, 1.0), "fskd": depth(0.01, 0.1)}).figure.axes
    heights = {t.get_text(): t.get_position()[1] for t in axes.texts}
    foot, top = (np.log(limit) for limit in axes.get_ylim())
    assert heights["FSKD"] == pytest.approx((np.log(0.1) - foot) / (top - foot))
