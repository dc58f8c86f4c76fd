"""The figures: their numbers equal the table's, their sentences say them, and they can be read from afar."""

import io
import itertools

import matplotlib.pyplot
import numpy as np
import pandas as pd
import pytest
import torch

from fsc import plots

COLUMNS = ["method", "samples", "ratio", "seed", "accuracy"]


def toy_table() -> pd.DataFrame:
    """50 images, half of the filters gone: three draws of 0.551, 0.572 and 0.593, whose mean is 0.572 and sd 0.021."""
    rows = [("teacher", np.nan, np.nan, 0, 0.921), ("none", np.nan, 0.25, 0, 0.6), ("none", np.nan, 0.5, 0, 0.16)]
    for samples, ratio, middle in ((50, 0.5, 0.572), (500, 0.5, 0.8), (50, 0.25, 0.75), (500, 0.25, 0.85)):
        rows += [("finetune", samples, ratio, seed, middle + (seed - 1) * 0.021) for seed in range(3)]
    return pd.DataFrame(rows, columns=COLUMNS)


@pytest.fixture
def table() -> pd.DataFrame:
    return toy_table()


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    assert matplotlib.pyplot.get_fignums() == []


def texts(picture) -> list[str]:
    """Every word drawn, in the order of drawing."""
    return [t.get_text() for axes in picture.figure.axes for t in axes.texts]


def every_figure() -> dict:
    history = pd.DataFrame({"step": [0, 100, 200], "loss": [2.3, 0.5, 0.01], "accuracy": [0.16, np.nan, 0.572]})
    names = ["conv1"] * 2 + ["blocks.2.branch.residual.depthwise.conv1"] * 2
    layers = pd.DataFrame({"layer": names, "ratio": [0.25, 0.5] * 2, "accuracy": [0.9, 0.85, 0.7, 0.3]})
    return {
        "by samples": plots.accuracy_by_samples(toy_table(), ratio=0.5, samples=50),
        "by ratio": plots.accuracy_by_ratio(toy_table(), samples=50, ratio=0.25),
        "sensitivity": plots.sensitivity(layers, teacher=0.921),
        "costs": plots.costs(timed_table().rename(index={"half": "half of the filters of the inner layers"})),
        "training": plots.training_curve(history, teacher=0.921),
        "images": plots.picture_grid(torch.zeros(3, 3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3, titles=list("aab")),
    }


def timed_table() -> pd.DataFrame:
    """As `fsc.compare` gives it."""
    return pd.DataFrame(
        {
            "params": [1000, 250],
            "macs": [8000, 4000],
            "ratio": [1.0, 0.8],
            "low": [1.0, 0.7],
            "high": [1.0, 0.9],
            "verdict": ["reference", "faster 1.25x"],
        },
        index=["teacher", "half"],
    )


def test_the_sentence_reads_the_point_that_the_knobs_chose(table):
    assert plots.accuracy_by_samples(table, ratio=0.5, samples=50).sentence == (
        "50 images, 50 % of filters removed: fine-tuned 57.2 % ± 2.1, unrepaired 16.0 %, teacher 92.1 % "
        "(mean ± sd of 3 draws)."
    )


def test_without_a_point_the_sentence_reads_the_range(table):
    assert plots.accuracy_by_samples(table, ratio=0.5).sentence == (
        "50 to 500 images, 50 % of filters removed: fine-tuned 57.2 % to 80.0 %, unrepaired 16.0 %, teacher 92.1 % "
        "(means of 3 draws)."
    )
    assert plots.accuracy_by_ratio(table, samples=50).sentence == (
        "50 images, 25 % to 50 % of filters removed: fine-tuned 75.0 % to 57.2 %, unrepaired 60.0 % to 16.0 %, "
        "teacher 92.1 % (means of 3 draws)."
    )


def test_one_draw_and_a_live_result_are_read_beside_the_stored_band(table):
    live = pd.DataFrame([("finetune", 50, 0.5, 9, 0.6)], columns=COLUMNS)
    picture = plots.accuracy_by_samples(table, ratio=0.5, samples=50, draw=2, live=live)
    assert picture.sentence == (
        "50 images (draw 2), 50 % of filters removed: fine-tuned 59.3 % (all draws: 57.2 % ± 2.1), unrepaired 16.0 %, "
        "teacher 92.1 % (mean ± sd of 3 draws); live: fine-tuned 60.0 %."
    )
    assert picture.numbers["finetune draw"] == pytest.approx(0.593)
    assert picture.numbers["finetune live"] == 0.6
    assert "live" in texts(picture)
    assert "live" not in texts(plots.accuracy_by_samples(table, ratio=0.5, samples=50, draw=2))


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
        ({"ratio": 0.5, "draw": 3}, "the table has no draw 3.\n  There are: 0, 1, 2."),
    ],
)
def test_what_the_table_does_not_hold_is_refused_with_what_it_holds(table, asked, words):
    with pytest.raises(ValueError) as caught:
        plots.accuracy_by_samples(table, **asked)
    assert words in str(caught.value)


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
    assert picture.numbers["lowest"] == pytest.approx(0.7) and picture.numbers["highest"] == pytest.approx(0.85)
    # Depth is the order of the table, not of the alphabet: the first line drawn is that of z.
    assert list(picture.figure.axes[0].lines[0].get_ydata()) == pytest.approx([85.0, 80.0])
    assert plots.sensitivity(table).numbers["lowest"] == pytest.approx(0.5), "the largest ratio, where none is given"


def test_costs_are_relative_and_the_time_carries_its_interval_and_verdict():
    picture = plots.costs(timed_table())
    assert picture.sentence == (
        "half: 25.0 % of the parameters, 50.0 % of the MACs, 80.0 % of the time (70.0 % to 90.0 %, faster 1.25x)."
    )
    assert picture.numbers == {"half": {"params": 0.25, "macs": 0.5, "time": 0.8, "low": 0.7, "high": 0.9}}
    bars = [patch.get_height() for patch in picture.figure.axes[0].patches]
    assert bars == pytest.approx([25, 50, 80])


def test_costs_refuse_a_time_relative_to_something_else():
    table = timed_table()
    table.ratio = [1.25, 1.0]
    with pytest.raises(ValueError, match=r"relative to another network \(teacher takes 1.250 of its time\)"):
        plots.costs(table)
    with pytest.raises(ValueError, match="costs: asked for students beside teacher; there is none"):
        plots.costs(timed_table()[:1])
    with pytest.raises(ValueError, match="costs: the table has no network Teacher.\n  There are: half, teacher"):
        plots.costs(timed_table(), teacher="Teacher")


@pytest.mark.parametrize(
    ("accuracies", "words"),
    [((0.16, 0.572), "rises from 16.0 % to 57.2 %"), ((0.6, 0.5), "falls from 60.0 % to 50.0 %"),
     ((0.5, 0.505), "hardly moves, from 50.0 % to 50.5 %")],
)  # fmt: skip
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
    picture = every_figure()[name]
    drawn = [t for t in picture.figure.findobj(matplotlib.text.Text) if t.get_text().strip()]
    assert min(t.get_fontsize() for t in drawn) >= 11
    assert picture.sentence in picture.alt and len(picture.alt) > len(picture.sentence)
    for axes in picture.figure.axes:
        assert axes.images or axes.get_ylabel(), "an axis without a name"
    image = matplotlib.pyplot.imread(io.BytesIO(picture.png()))
    assert (image.shape[1], image.shape[0]) == (2 * picture.size[0], 2 * picture.size[1]), "two pixels a CSS pixel"


@pytest.mark.parametrize("name", [*every_figure(), "crowd"])
def test_nothing_that_is_drawn_reaches_over_the_edge(name):
    methods = [m for m in plots.NAMES if m not in ("none", "teacher")]
    crowd = pd.DataFrame([(m, n, 0.5, s, 0.9) for m in methods for n in (10, 500) for s in (0, 1)], columns=COLUMNS)
    figure = (every_figure() | {"crowd": plots.accuracy_by_samples(crowd, ratio=0.5)})[name].figure
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0) > -0.02 and drawn.x1 < width + 0.02 and drawn.y1 < height + 0.02, drawn


def test_labels_of_lines_that_end_together_do_not_overlap():
    methods = [m for m in plots.NAMES if m not in ("none", "teacher")]
    crowd = pd.DataFrame([(m, n, 0.5, 0, 0.99) for m in methods for n in (10, 500)], columns=COLUMNS)
    (axes,) = plots.accuracy_by_samples(crowd, ratio=0.5).figure.axes
    boxes = sorted((t.get_window_extent() for t in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == len(methods)
    assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))
