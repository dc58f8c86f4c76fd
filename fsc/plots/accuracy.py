"""Accuracy against the two knobs of every notebook, number of few images and compression ratio, and against time."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from fsc.arguments import check_columns, one_of
from fsc.plots.drawing import (
    INK,
    NAMES,
    TEXT,
    WIDE,
    Picture,
    in_order,
    label_lines,
    new_axes,
    new_figure,
    percent,
    short_percent,
    styles_of,
)


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


def accuracy_by_seconds(table: pd.DataFrame, *, samples: int, ratio: float, removed: str = "filters") -> Picture:
    """Accuracy against the time a repair took, with one number of few images at one ratio: a method a point.

    Args:
        table: as for `accuracy_by_samples`, and seconds; the median over the draws is shown, from 0.05 s on.
        samples, ratio, removed: as for `accuracy_by_samples`.

    Returns:
        A picture whose `numbers` hold each METHOD's accuracy, "METHOD sd" and "METHOD seconds", and "draws".

    Raises:
        ValueError: as for `accuracy_by_samples`.
    """
    who = "accuracy_by_seconds"
    _check(who, table, "seconds")
    repaired = table[table.samples.notna() & table.seconds.notna()]
    samples = one_of("samples", samples, repaired.samples)
    repaired = repaired[repaired.samples == samples]
    ratio = one_of("ratio", ratio, repaired.ratio)
    groups = dict(list(repaired[repaired.ratio == ratio].groupby("method")))
    levels = table[(table.method == "teacher") | ((table.method == "none") & (table.ratio == ratio))]
    levels = levels.groupby("method").accuracy.mean()
    styles = styles_of(in_order([*groups, *levels.index]))

    taken = f"{_count(samples)}, {short_percent(ratio)} of {removed} removed"
    axes = new_axes((figure := new_figure()), WIDE, "time of the repair (s)", "top-1 accuracy (%)", taken)
    axes.set_ylim(0, 102)
    axes.set_xscale("log")
    numbers, readings, labels, draws = {}, [], [], [len(group) for group in groups.values()]
    for method, (name, colour, marker) in styles.items():
        if method in levels:
            mean = numbers[method] = float(levels[method])
            axes.axhline(100 * mean, color=colour, linewidth=1.5, linestyle="--")
            readings.append(f"{name} {percent(mean)}")
        else:
            rows = groups[method]
            mean, sd, seconds = float(rows.accuracy.mean()), float(rows.accuracy.std()), float(rows.seconds.median())
            place = (max(seconds, 0.05), 100 * mean)  # a stored 0.0 is less than half of a tenth
            axes.errorbar(*place, 100 * sd if sd > 0 else None, color=colour, marker=marker, markersize=9, capsize=4)
            readings.append(f"{name} {percent(mean)}{_spread(sd)} in {seconds:.3g} s")
            numbers |= {method: mean, f"{method} seconds": seconds} | ({f"{method} sd": sd} if sd >= 0 else {})
        labels.append((100 * mean, name, colour, marker))
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.09), max(high, 11))  # always a few powers of ten to read the scale by
    axes.xaxis.set_major_formatter("{x:g}")
    label_lines(axes, labels, leaders=False)
    several = f" (mean ± sd of {_range(draws)} draws, median time)" if max(draws) > 1 else ""
    sentence = f"{taken}: {', '.join(readings)}{several}"
    alt = f"Scatter plot of top-1 accuracy against the seconds that a repair took. {sentence}."
    return Picture(figure, alt, f"{sentence}.", numbers | {"draws": max(draws)})


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
    _check(who, table)
    (x, at), (other, value) = across, fixed
    repaired = table[table.samples.notna()]
    value = one_of(other, value, repaired[other])
    repaired = repaired[repaired[other] == value]
    at = None if at is None else one_of(x, at, repaired[x])
    draw = None if draw is None else one_of("draw", draw, repaired.seed)
    counts = repaired[repaired[x].notna() if at is None else repaired[x] == at].groupby(["method", x]).seed.nunique()
    draws = int(counts.max())
    levels = table[(table.method == "teacher") | ((table.method == "none") & ((x == "ratio") | (table.ratio == value)))]
    groups = dict(list(pd.concat([repaired, levels]).groupby("method")))
    lines = [_line(method, groups[method], x, draw) for method in in_order(groups)]
    live = repaired[:0] if live is None else live.dropna(subset=[x])

    span = {x: sorted(repaired[x].unique()) if at is None else [at], other: [value]}
    images = _count(*_ends(span["samples"]))
    band = f"; band: mean ± sd of {_range(counts)} draws" if draws > 1 else ""
    if draw is not None:
        images, band = f"{images} (draw {draw:.0f})", f"; line: draw {draw:.0f}{band.replace(';', ',')}"
    taken = " to ".join(map(short_percent, _ends(span["ratio"]))) + f" of {removed} removed"
    word = short_percent if x == "ratio" else "{:.0f}".format
    readings = [f"{line.name} {_reading(line, at, _ends(span[x]), word)}" for line in lines if _has(line, at)]
    sentence = f"{images}, {taken}: {', '.join(readings)}"
    if draws > 1:
        sentence += f" ({'means' if at is None else 'mean ± sd'} of {_range(counts)} draws)"
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


def _reading(line: Line, at, ends: list, word: Callable[[float], str]) -> str:
    if line.mean.empty:
        return percent(line.level)
    if at is None:
        its = _ends(line.shown.index)
        where = "" if its == ends else f" (at {' to '.join(map(word, its))})"  # a line that does not span the axis
        return " to ".join(map(percent, _ends(line.shown))) + where
    several = _spread(line.sd[at])
    if line.one is None:
        return percent(line.mean[at]) + several
    return f"{percent(line.one[at])} (all draws: {percent(line.mean[at])}{several})"


def _draw(lines: list[Line], x: str, at, live: pd.DataFrame, xlabel: str, title: str) -> Figure:
    figure, labels, styles = new_figure(), [], styles_of([line.method for line in lines] + list(live.method))
    scale, unit = (100, " (%)") if x == "ratio" else (1, "")
    axes = new_axes(figure, WIDE, xlabel + unit, "top-1 accuracy (%)", title)
    axes.set_ylim(0, 102)
    for line in lines:
        _, colour, marker = styles[line.method]
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
        axes.plot(*place, "*", markersize=20, color=styles[row.method][1], markeredgecolor=INK, zorder=5)
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


def _check(who: str, table: pd.DataFrame, *more: str) -> None:
    """Refuse a table that lacks a column, or holds the rows of several networks or tasks, which no mean may mix."""
    check_columns(table, "method", "samples", "ratio", "seed", "accuracy", *more)
    for column in {"task", "arch"} & {*table.columns}:
        if table[column].nunique() > 1:
            several = ", ".join(map(str, table[column].unique()))
            raise ValueError(
                f'{who}: the table mixes rows of several values of "{column}": {several}.\n'
                f'  Pass the rows of one, as table[table.{column} == "{table[column].iloc[0]}"].'
            )


def _count(*samples: float) -> str:
    return " to ".join(f"{n:.0f}" for n in samples) + " image" + "s" * (samples != (1,))


def _spread(sd: float) -> str:
    return "" if pd.isna(sd) else f" ± {100 * sd:.1f}"


def _range(counts: Iterable[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{high}" if low == high else f"{low} to {high}"


def _ends(values: Sequence) -> list:
    """The first and the last, or the only one."""
    values = list(values)
    return values[:1] if len(values) == 1 else [values[0], values[-1]]
