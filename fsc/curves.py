"""Accuracy against the two knobs of every notebook, the number of few images and the compression ratio."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from fsc.drawing import (
    COLOURS,
    INK,
    MARKERS,
    NAMES,
    TEXT,
    WIDE,
    Picture,
    check_columns,
    label_lines,
    new_axes,
    new_figure,
    one_of,
    percent,
    short_percent,
)

OTHER = ("#6B4E00", "p")  # colour and marker of a method of the reader's own


def accuracy_by_samples(
    table: pd.DataFrame,
    *,
    ratio: float,
    samples: int | None = None,
    draw: int | None = None,
    live: pd.DataFrame | None = None,
    removed: str = "filters",
) -> Picture:
    """Accuracy against the number of few images, at one compression ratio: a line a method, a band over the draws.

    Args:
        table: columns method, samples, ratio, seed, accuracy (0 .. 1); "teacher" and "none" (unrepaired): samples NaN.
        samples: the number of images to point at and to read out; None reads out the whole range.
        draw: the seed of one draw of the few images, to stand out from the band (mean and standard deviation of all).
        live: rows like those of the table, computed just now: drawn beside it.
        removed: what the ratio counts, in words.

    Returns:
        A picture whose `numbers` hold each METHOD's accuracy, "METHOD sd", "METHOD draw" and "METHOD live" at `samples`
        (without `samples`: {samples: accuracy}), and "draws".

    Raises:
        ValueError: a column is missing, or the table has no such ratio, samples or draw; says which there are.
    """
    return _accuracy("accuracy_by_samples", table, ("samples", samples), ("ratio", ratio), draw, live, removed)


def accuracy_by_ratio(
    table: pd.DataFrame,
    *,
    samples: int,
    ratio: float | None = None,
    draw: int | None = None,
    live: pd.DataFrame | None = None,
    removed: str = "filters",
) -> Picture:
    """Accuracy against the compression ratio, with one number of few images; all else as in `accuracy_by_samples`."""
    return _accuracy("accuracy_by_ratio", table, ("ratio", ratio), ("samples", samples), draw, live, removed)


class Line(NamedTuple):
    """One method's accuracies along x; a method that does not depend on x has only a level."""

    method: str
    level: float
    mean: pd.Series        # accuracy by x; empty for a level
    sd: pd.Series          # over the draws; NaN where there is only one
    one: pd.Series | None  # accuracy by x in the draw that is to stand out

    @property
    def name(self) -> str:
        return NAMES.get(self.method, self.method)

    @property
    def shown(self) -> pd.Series:
        return self.mean if self.one is None else self.one


def _accuracy(who: str, table: pd.DataFrame, across: tuple, fixed: tuple, draw, live, removed: str) -> Picture:
    check_columns(who, table, "method", "samples", "ratio", "seed", "accuracy")
    (x, at), (other, value) = across, fixed
    repaired = table[table.samples.notna()]
    value = one_of(who, other, value, repaired[other])
    repaired = repaired[repaired[other] == value]
    at = None if at is None else one_of(who, x, at, repaired[x])
    draw = None if draw is None else one_of(who, "draw", draw, repaired.seed)
    draws = int(repaired.groupby(["method", x]).seed.nunique().max())
    levels = table[(table.method == "teacher") | ((table.method == "none") & ((x == "ratio") | (table.ratio == value)))]
    groups = dict(list(pd.concat([repaired, levels]).groupby("method")))
    order = [m for m in NAMES if m in groups] + [m for m in groups if m not in NAMES]
    lines = [_line(method, groups[method], x, draw) for method in order]
    live = repaired[:0] if live is None else live.dropna(subset=[x])

    span = {x: sorted(repaired[x].unique()) if at is None else [at], other: [value]}
    images = " to ".join(f"{n:.0f}" for n in _ends(span["samples"])) + " image" + "s" * (span["samples"] != [1])
    band = f"; band: mean ± sd of {draws} draws" if draws > 1 else ""
    if draw is not None:
        images, band = f"{images} (draw {draw:.0f})", f"; line: draw {draw:.0f}{band.replace(';', ',')}"
    taken = " to ".join(map(short_percent, _ends(span["ratio"]))) + f" of {removed} removed"
    readings = [f"{line.name} {_reading(line, at)}" for line in lines if _has(line, at)]
    sentence = f"{images}, {taken}: {', '.join(readings)}"
    if draws > 1:
        sentence += f" ({'means' if at is None else 'mean ± sd'} of {draws} draws)"
    numbers = {"draws": draws}
    for line in lines:
        numbers |= _numbers(line, at)
    if len(live):
        numbers |= {f"{row.method} live": float(row.accuracy) for row in live.itertuples()}
        readings = [f"{NAMES.get(row.method, row.method)} {percent(row.accuracy)}" for row in live.itertuples()]
        sentence += f"; live: {', '.join(readings)}"

    xlabel = f"{removed} removed" if x == "ratio" else "number of images"
    figure = _draw(lines, x, at, live, xlabel, (images if x == "ratio" else taken) + band)
    return Picture(figure, f"Line chart of top-1 accuracy against {xlabel}. {sentence}.", f"{sentence}.", numbers)


def _line(method: str, rows: pd.DataFrame, x: str, draw: int | None) -> Line:
    along = rows[:0] if method == "teacher" else rows.dropna(subset=[x])
    by_x, one = along.groupby(x).accuracy, along[along.seed == draw].groupby(x).accuracy.mean()
    return Line(method, float(rows.accuracy.mean()), by_x.mean(), by_x.std(), None if one.empty else one)


def _has(line: Line, at) -> bool:
    return line.mean.empty or at is None or at in line.shown


def _numbers(line: Line, at) -> dict:
    if line.mean.empty:
        return {line.method: line.level}
    if at is None:
        return {line.method: line.mean.to_dict(), f"{line.method} sd": line.sd.to_dict()}
    found = {"": line.mean.get(at), " sd": line.sd.get(at), " draw": None if line.one is None else line.one.get(at)}
    return {line.method + what: float(number) for what, number in found.items() if pd.notna(number)}


def _reading(line: Line, at) -> str:
    if line.mean.empty:
        return percent(line.level)
    if at is None:
        return " to ".join(map(percent, _ends(line.shown)))
    several = "" if pd.isna(line.sd[at]) else f" ± {100 * line.sd[at]:.1f}"
    if line.one is None:
        return percent(line.mean[at]) + several
    return f"{percent(line.one[at])} (all draws: {percent(line.mean[at])}{several})"


def _draw(lines: list[Line], x: str, at, live: pd.DataFrame, xlabel: str, title: str) -> Figure:
    figure, labels = new_figure(), []
    scale, unit = (100, " (%)") if x == "ratio" else (1, "")
    axes = new_axes(figure, WIDE, xlabel + unit, "top-1 accuracy (%)", title)
    axes.set_ylim(0, 102)
    for line in lines:
        colour, marker = COLOURS.get(line.method, OTHER[0]), MARKERS.get(line.method, OTHER[1])
        if line.mean.empty:
            axes.axhline(100 * line.level, color=colour, linewidth=1.5, linestyle="--")
            labels.append((100 * line.level, line.name, colour, marker))
            continue
        where, middle, half = scale * line.mean.index, 100 * line.mean, 100 * line.sd.fillna(0)
        axes.fill_between(where, middle - half, middle + half, color=colour, alpha=0.2, linewidth=0)
        if line.one is not None:
            axes.plot(where, middle, color=colour, linewidth=1.5, linestyle=":")
        axes.plot(scale * line.shown.index, 100 * line.shown, color=colour, marker=marker, markersize=7, linewidth=2)
        labels.append((100 * line.shown.iloc[-1], line.name, colour, marker))
    for row in live.itertuples():
        place = (scale * getattr(row, x), 100 * row.accuracy)
        colour = COLOURS.get(row.method, OTHER[0])
        axes.plot(*place, "*", markersize=20, color=colour, markeredgecolor=INK, zorder=5)
        text = axes.annotate("live", place, (11, -14), textcoords="offset points", fontsize=TEXT, color=INK, zorder=6)
        text.set_bbox(dict(facecolor="white", edgecolor="none", alpha=0.8, pad=1))
    if at is not None:
        axes.axvline(scale * at, color=INK, linewidth=1, linestyle=":")
    ticks = sorted({value for line in lines for value in scale * line.mean.index})
    if x == "samples":
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(ticks, [f"{tick:.4g}" for tick in ticks])
    label_lines(axes, labels)
    return figure


def _ends(values: Sequence) -> list:
    """The first and the last, or the only one."""
    values = list(values)
    return values[:1] if len(values) == 1 else [values[0], values[-1]]
