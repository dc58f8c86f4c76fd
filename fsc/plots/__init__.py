"""Figures as pure functions: a table in; a picture, its alt text, its reading in one sentence and its numbers out."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from torch import Tensor

from fsc.arguments import check_columns, one_of
from fsc.plots.accuracy import accuracy_by_ratio, accuracy_by_samples, accuracy_by_seconds
from fsc.plots.blocks import accuracy_by_blocks, accuracy_by_time, rankings
from fsc.plots.drawing import (
    COLOURS,
    INK,
    MARKERS,
    NAMES,
    TEXT,
    WIDE,
    Picture,
    label_lines,
    new_axes,
    new_figure,
    percent,
    short_percent,
    styles_of,
)
from fsc.plots.overview import overview
from fsc.plots.training import loss_history

__all__ = [
    "COLOURS", "MARKERS", "NAMES", "Picture", "accuracy_by_blocks", "accuracy_by_ratio", "accuracy_by_samples",
    "accuracy_by_seconds", "accuracy_by_time", "costs", "error_map", "loss_history", "overview", "picture_grid",
    "rankings", "sensitivity", "training_curve",
]  # fmt: skip

SAME = 1e-6
"""Squared relative errors below this are drawn as 0: float32 rounding gives 1e-12."""
GREYS = ("#5B7083", "#B4C3CE", "#2B3640", "#8A7F73")  # networks that are no method of repair


def sensitivity(table: pd.DataFrame, *, ratio: float | None = None, teacher: float | None = None) -> Picture:
    """Accuracy against ratio when one layer alone is pruned: a line a layer, from the first (dark) to the last (light).

    Args:
        table: columns layer, ratio, accuracy (0 .. 1); the layers in the order of the network.
        ratio: where the most and the least sensitive layer are read off; None: at the largest.
        teacher: the accuracy with nothing pruned.

    Raises:
        ValueError: a column is missing, or the table has no such ratio; says which there are.
    """
    check_columns(table, "layer", "ratio", "accuracy")
    lines = table.pivot_table(index="ratio", columns="layer", values="accuracy", sort=False).sort_index()
    ratio = one_of("ratio", lines.index[-1] if ratio is None else ratio, lines.index)
    worst, best = lines.loc[ratio].idxmin(), lines.loc[ratio].idxmax()
    low, high = float(lines.loc[ratio, worst]), float(lines.loc[ratio, best])

    figure, last = new_figure(), len(lines.columns) - 1
    title = "one layer pruned at a time; dark: early layers, light: late"
    axes = new_axes(figure, WIDE, "filters removed from that layer (%)", "top-1 accuracy (%)", title)
    axes.set_ylim(0, 102)
    axes.set_xticks(100 * lines.index)
    labels = []
    for i, (layer, line) in enumerate(lines.items()):
        colour, width = matplotlib.colormaps["viridis"](0.85 * i / max(last, 1)), 3.5 if layer in (worst, best) else 1.5
        axes.plot(100 * lines.index, 100 * line, color=colour, marker="o", markersize=5, linewidth=width)
        if layer in (worst, best) or i in (0, last):
            labels.append((100 * line.iloc[-1], str(layer), colour, "o"))
    if teacher is not None:
        axes.axhline(100 * teacher, color=COLOURS["teacher"], linewidth=1.5, linestyle="--")
        labels.append((100 * teacher, "teacher", COLOURS["teacher"], MARKERS["teacher"]))
    label_lines(axes, labels)

    sentence = (
        f"{short_percent(ratio)} of the filters removed from one layer alone: {worst} is the most sensitive "
        f"({percent(low)} accuracy left), {best} the least ({percent(high)}){_beside(teacher)}."
    )
    alt = f"Line chart of top-1 accuracy against filters removed, a line for each of {last + 1} layers. {sentence}"
    numbers = {"ratio": ratio, "most sensitive": worst, "least sensitive": best, "lowest": low, "highest": high}
    return Picture(figure, alt, sentence, numbers)


def error_map(errors: Mapping[str, pd.Series]) -> Picture:
    """How far networks are from their teacher along the depth: a line a network, on a log scale that has a 0.

    Args:
        errors: network -> the result of `fsc.error_map`; a network named as a method has that method's colour.

    Returns:
        A picture whose `numbers` are {network: {layer: error}}.

    Raises:
        ValueError: no network, or one without a layer.
    """
    if not errors or any(len(line) == 0 for line in errors.values()):
        found = ", ".join(f"{name} with {len(line)} layers" for name, line in errors.items()) or "none"
        raise ValueError(
            f"error_map: asked for networks with at least a layer each; found {found}.\n"
            f'  Pass {{"none": fsc.error_map(teacher, student, images), ...}}.'
        )
    layers = list(dict.fromkeys(layer for line in errors.values() for layer in line.index))
    place = {layer: i for i, layer in enumerate(layers)}
    values = np.concatenate([line.to_numpy(float) for line in errors.values()])
    seen = values[np.isfinite(values) & (values >= SAME)]
    low, high = (seen.min(), max(1.0, seen.max())) if len(seen) else (0.1, 1.0)
    zero = low / max(high / low, 3.0) ** 0.25          # where 0 is drawn: a fifth of the height below the least error

    figure = new_figure(height=5.0)
    title = "0: the teacher; 1: no better than its mean"
    axes = new_axes(figure, (0.12, 0.35, 0.575, 0.57), "", "squared error, relative", title)
    axes.set_yscale("log")
    axes.set_ylim(zero * 0.85, high * 1.15)
    axes.axhline(zero, color=COLOURS["teacher"], linewidth=1.5, linestyle="--")
    axes.axhline(1, color=INK, linewidth=1, linestyle=":")
    labels = [(zero, NAMES["teacher"], COLOURS["teacher"], MARKERS["teacher"])]
    for network, (name, colour, marker) in styles_of(errors).items():
        line = errors[network].replace([np.inf, -np.inf], np.nan)
        heights = line.where(~(line < SAME), zero)     # NaN stays NaN: a gap
        where = [place[layer] for layer in line.index]
        axes.plot(where, heights, color=colour, marker=marker, markersize=7, linewidth=2)
        labels.append((heights.dropna().iloc[-1] if heights.notna().any() else zero, name, colour, marker))
    steps = (1,) if high > 300 * low else (1, 2, 5)
    ticks = [t for t in (step * 10.0**e for e in range(-6, 9) for step in steps) if 0.85 * low <= t <= 1.15 * high]
    axes.set_yticks([zero, *ticks], ["0", *(f"{tick:g}" for tick in ticks)])
    axes.minorticks_off()
    shown = layers[:: -(-len(layers) // 24)]
    texts = [layer if len(layer) <= 18 else f"…{layer[-17:]}" for layer in map(str, shown)]
    axes.set_xticks([place[layer] for layer in shown], texts, rotation=90)
    label_lines(axes, labels)

    last = {NAMES.get(network, network): (line.index[-1], float(line.iloc[-1])) for network, line in errors.items()}
    readings = ", ".join(f"{name} {value:.2g}" for name, (_, value) in last.items())
    ends = ", ".join(dict.fromkeys(str(layer) for layer, _ in last.values()))
    sentence = f"Squared error at the last layer ({ends}), relative to the variance of the teacher's: {readings}"
    alt = f"Line chart of the error along {len(layers)} layers, from the first to the last, teacher = 0. {sentence}."
    numbers = {network: {layer: float(error) for layer, error in line.items()} for network, line in errors.items()}
    return Picture(figure, alt, f"{sentence}.", numbers)


def costs(table: pd.DataFrame, *, teacher: str = "teacher") -> Picture:
    """Parameters, MACs and measured time of each student as bars, relative to its teacher; time with its interval.

    Args:
        table: a row a network, as from `fsc.compare`: params, macs, and ratio, low, high and verdict of the time.
        teacher: the row that is 100 %, and that the time was compared with.

    Raises:
        ValueError: a column or the teacher is missing, there is no student, or the time is relative to another network.
    """
    check_columns(table, "params", "macs", "ratio", "low", "high", "verdict")
    reference = table.loc[one_of("network", teacher, table.index)]
    students = table.drop(index=teacher)
    if students.empty or reference.ratio != 1:
        other = f"the times are relative to another network ({teacher} takes {reference.ratio:.3f} of its time)"
        raise ValueError(
            f"costs: asked for students beside {teacher}; {'there is none' if students.empty else other}.\n"
            f'  Pass the table of fsc.compare({{"teacher": teacher, "student": student}}, task).'
        )
    relative = students[["ratio", "low", "high"]].rename(columns={"ratio": "time"}).astype(float)
    relative["params"], relative["macs"] = students.params / reference.params, students.macs / reference.macs

    figure, width = new_figure(), 0.8 / len(students)
    title = "lower is cheaper; line on time: 95 % interval"
    axes = new_axes(figure, WIDE, "", f"relative to {teacher} (%)", title)
    for i, (name, row) in enumerate(relative.iterrows()):
        places = np.arange(3) + (i - (len(students) - 1) / 2) * width
        bars, tops = 100 * row[["params", "macs", "time"]], 100 * row[["params", "macs", "high"]]
        colour = COLOURS.get(name, GREYS[i % len(GREYS)])
        axes.bar(places, bars, 0.92 * width, color=colour, label=textwrap.fill(str(name), 18))
        axes.plot(places[[2, 2]], 100 * row[["low", "high"]], color=INK, linewidth=2.5, marker="_", markersize=12)
        for place, bar, top in zip(places, bars, tops, strict=True):
            above = dict(textcoords="offset points", ha="center", fontsize=TEXT, color=INK)
            text = axes.annotate(f"{bar:.0f}", (place, top), (0, 5), **above)
            text.set_bbox(dict(facecolor="white", edgecolor="none", alpha=0.8, pad=0.5))
    axes.axhline(100, color=COLOURS["teacher"], linewidth=1.5, linestyle="--", label=textwrap.fill(teacher, 18))
    axes.set_ylim(0, 114 * max(1, relative.to_numpy().max()))
    axes.set_xticks(range(3), ["parameters", "MACs", "time, measured"], fontsize=TEXT + 1)
    axes.grid(visible=False, axis="x")
    axes.legend(loc="lower left", bbox_to_anchor=(1.0, 0.0), fontsize=TEXT, frameon=False)

    sentence = "; ".join(
        f"{name}: {percent(row.params)} of the parameters, {percent(row.macs)} of the MACs, "
        f"{percent(row.time)} of the time ({percent(row.low)} to {percent(row.high)}, {students.verdict[name]})"
        for name, row in relative.iterrows()
    )
    alt = f"Bar chart of parameters, MACs and measured time relative to {teacher}. {sentence}."
    return Picture(figure, alt, f"{sentence}.", relative.to_dict("index"))


def training_curve(history: pd.DataFrame, *, teacher: float | None = None) -> Picture:
    """Loss and test accuracy against the training step, side by side.

    Args:
        history: columns step, loss, accuracy (0 .. 1); NaN where one was not measured.
        teacher: the teacher's accuracy, to be reached.

    Raises:
        ValueError: a column is missing.
    """
    check_columns(history, "step", "loss", "accuracy")
    loss, accuracy = (history.set_index("step")[column].dropna() for column in ("loss", "accuracy"))
    colour, marker = COLOURS["finetune"], MARKERS["finetune"]
    figure = new_figure(height=3.4)
    left = new_axes(figure, (0.085, 0.17, 0.38, 0.72), "training step", "loss", "on the few images")
    left.plot(loss.index, loss, color=colour, linewidth=2)
    left.set_ylim(bottom=0)
    right = new_axes(figure, (0.6, 0.17, 0.38, 0.72), "training step", "top-1 accuracy (%)", "on the test images")
    right.plot(accuracy.index, 100 * accuracy, color=colour, marker=marker, linewidth=2)
    right.set_ylim(0, 102)
    if teacher is not None:
        right.axhline(100 * teacher, color=COLOURS["teacher"], linewidth=1.5, linestyle="--")
        corner = dict(xycoords=("axes fraction", "data"), textcoords="offset points", ha="right", va="top")
        right.annotate("teacher", (1, 100 * teacher), (0, -4), fontsize=TEXT, color=INK, **corner)

    (first_loss, last_loss), (first, last) = ((float(s.iloc[0]), float(s.iloc[-1])) for s in (loss, accuracy))
    sentence = (
        f"In {history.step.max()} steps the loss {_moves(first_loss, last_loss)} {first_loss:.2f} to {last_loss:.2f} "
        f"and the test accuracy {_moves(first, last)} {percent(first)} to {percent(last)}{_beside(teacher)}."
    )
    alt = f"Two line charts against the training step: loss on the few images, and test accuracy. {sentence}"
    numbers = {"first loss": first_loss, "last loss": last_loss, "first accuracy": first, "last accuracy": last}
    return Picture(figure, alt, sentence, numbers)


def picture_grid(
    images: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    titles: Sequence[str] | None = None,
    columns: int | None = None,
) -> Picture:
    """The images themselves, in rows, as they were before they were normalised.

    Args:
        images: (N, 3, H, W), normalised.
        mean, std: what they were normalised with, 3 numbers each: task.mean, task.std.
        titles: N words to write under them, as their classes.
        columns: images in a row; None: 10, with titles 8.

    Raises:
        ValueError: not as many titles as images.
    """
    n, _, h, w = images.shape
    if titles is not None and len(titles) != n:
        raise ValueError(f"picture_grid: {len(titles)} titles for {n} images.\n  Pass one title an image, or none.")
    columns = min(n, columns or (10 if titles is None else 8))
    rows = -(-n // columns)
    step_x, step_y = w + w // 16 + 1, h + h // 16 + 1 + (0 if titles is None else h // 4)
    sheet = np.ones((rows * step_y, columns * step_x, 3))
    pixels = images.detach().cpu().permute(0, 2, 3, 1).numpy() * np.array(std) + np.array(mean)   # (N, H, W, 3)
    corners = [(i // columns * step_y, i % columns * step_x) for i in range(n)]
    for (top, left), image in zip(corners, pixels.clip(0, 1), strict=True):
        sheet[top : top + h, left : left + w] = image
    width = 7.5 * min(1, columns / 5)
    figure = new_figure(width, width * sheet.shape[0] / sheet.shape[1])
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for (top, left), title in zip(corners, titles or (), strict=titles is not None):
        axes.text(left + w / 2, top + h + h // 7, title, fontsize=TEXT, color=INK, ha="center", va="center")

    kinds = Counter(titles or ())
    sentence = f"{n} image{'s' if n > 1 else ''} of {w} x {h} pixels"
    if kinds:
        sentence += ": " + ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return Picture(figure, f"The images in {rows} rows. {sentence}.", f"{sentence}.", {"images": n} | kinds)


def _moves(first: float, last: float) -> str:
    """In words, for a loss and for an accuracy alike: less than 0.01 is no movement."""
    return "hardly moves, from" if abs(last - first) < 0.01 else "falls from" if last < first else "rises from"


def _beside(teacher: float | None) -> str:
    return "" if teacher is None else f"; teacher {percent(teacher)}"
