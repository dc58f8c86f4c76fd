"""Accuracy against the number of few images, the compression ratio, the number of dropped blocks, or time."""

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from fsc.arguments import check_columns, one_of, renamed
from fsc.plots import drawing
from fsc.plots.drawing import INK, NAMES, WIDE, Picture, in_order, styles_of
from fsc.plots.readings import counted, ends, mean_sd, percent, short_percent
from fsc.runtime import public
from fsc.studies.summary import ALONE


@renamed(draw="seed")
@public
def accuracy_by_samples(
    table: pd.DataFrame, *, ratio: float, samples: int | None = None, seed: int | None = None,
    live: pd.DataFrame | None = None, removed: str = "filters",
) -> Picture:
    """Draw accuracy against the number of few images, at one compression ratio: one line per method.

    A line shows the means over the draws of the few images; its band is the mean ± standard deviation.

    Args:
        table: columns method, samples, ratio, seed, accuracy (0 .. 1). The rows of "teacher" and of "none",
            the unrepaired student, have samples NaN.
        ratio: the compression ratio.
        samples: the number of images to point at and to read out; None: the whole range is read out.
        seed: the seed of one draw, which the lines then show beside the band of all draws.
        live: rows like those of the table, computed just now: one star per row.
        removed: what the ratio counts, in words.

    Returns:
        A picture whose `numbers` hold each METHOD's accuracy, "METHOD sd", "METHOD draw" and "METHOD live" at
        `samples` (without `samples`: {samples: accuracy}), and "draws".

    Raises:
        ValueError: the table lacks a column, the ratio, samples or seed, or mixes tasks or networks.

    >>> fsc.plots.accuracy_by_samples(study, ratio=0.5, samples=50)
    """
    return _draw_along("samples", samples, "ratio", ratio, table, seed, live, removed)


@renamed(draw="seed")
@public
def accuracy_by_ratio(
    table: pd.DataFrame, *, samples: int, ratio: float | None = None, seed: int | None = None,
    live: pd.DataFrame | None = None, removed: str = "filters",
) -> Picture:
    """Draw accuracy against the compression ratio, with one number of few images: one line per method.

    Arguments, result and errors are those of `accuracy_by_samples`; `ratio` is the one to point at.

    >>> fsc.plots.accuracy_by_ratio(study, samples=50)
    """
    return _draw_along("ratio", ratio, "samples", samples, table, seed, live, removed)


@renamed(draw="seed", blocks="count")
@public
def accuracy_by_blocks(
    table: pd.DataFrame, *, samples: int, count: int | None = None, seed: int | None = None,
    live: pd.DataFrame | None = None,
) -> Picture:
    """Draw accuracy against the number of dropped blocks, with one number of few images: one line per method.

    Arguments, result and errors are those of `accuracy_by_samples`, except for:

    Args:
        table: has a column blocks, the number of dropped blocks, instead of ratio.
        count: the number of dropped blocks to point at and to read out; None: the largest.

    >>> fsc.plots.accuracy_by_blocks(study, samples=50, count=2)
    """
    check_columns(table, "method", "samples", "blocks", "seed", "accuracy")
    count = table[table.samples == samples].blocks.max() if count is None else count
    return _draw_along("blocks", count, "samples", samples, table, seed, live)


@public
def accuracy_by_seconds(
    table: pd.DataFrame, *, samples: int, ratio: float, removed: str = "filters"
) -> Picture:
    """Draw accuracy against the seconds that a repair took, at one setting: one point per method.

    Args:
        table: as for `accuracy_by_samples`, with a column seconds. A point stands at the median of the draws,
            but at 0.05 s at least.
        samples, ratio, removed: as for `accuracy_by_samples`.

    Returns:
        A picture whose `numbers` hold each METHOD's accuracy, "METHOD sd" and "METHOD seconds", and "draws".

    Raises:
        ValueError: as for `accuracy_by_samples`.

    >>> fsc.plots.accuracy_by_seconds(study, samples=50, ratio=0.5)
    """
    _check(table, "ratio", "seconds")
    rows = table[table.samples.notna() & table.seconds.notna()]
    samples = one_of("samples", samples, rows.samples)
    ratio = one_of("ratio", ratio, rows[rows.samples == samples].ratio)
    groups = dict(list(rows[(rows.samples == samples) & (rows.ratio == ratio)].groupby("method")))
    levels = table[(table.method == "teacher") | ((table.method == "none") & (table.ratio == ratio))]
    levels = levels.groupby("method").accuracy.mean()

    setting = f"{counted([samples], 'image')}, {short_percent(ratio)} of {removed} removed"
    axes = drawing.accuracy_axes(drawing.new_figure(), WIDE, "time of the repair (s)", setting)
    axes.set_xscale("log")
    numbers, readings, labels = {}, [], []
    for method, style in styles_of(in_order([*groups, *levels.index])).items():
        name, colour, marker = style
        if method in levels:
            mean = numbers[method] = float(levels[method])
            drawing.draw_level(axes, mean, colour)
            readings.append(f"{name} {percent(mean)}")
        else:
            mean, sd = float(groups[method].accuracy.mean()), float(groups[method].accuracy.std())
            seconds = float(groups[method].seconds.median())
            drawing.draw_points(axes, max(seconds, 0.05), mean, sd, colour, marker)  # a log scale has no 0
            readings.append(f"{name} {mean_sd(mean, sd)} in {seconds:.3g} s")
            numbers |= {method: mean, f"{method} seconds": seconds}
            numbers |= {} if pd.isna(sd) else {f"{method} sd": sd}
        labels.append((100 * mean, *style))
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.09), max(high, 11))  # always a few powers of ten to read the scale by
    axes.xaxis.set_major_formatter("{x:g}")
    drawing.label_lines(axes, labels, leaders=False)

    draws = [len(rows) for rows in groups.values()]
    several = f" (mean ± sd of {counted(draws, 'draw')}, median time)" if max(draws) > 1 else ""
    sentence = f"{setting}: {', '.join(readings)}{several}."
    alt = f"Scatter plot of top-1 accuracy against the seconds that a repair took. {sentence}"
    return Picture(axes.figure, alt, sentence, numbers | {"draws": max(draws)})


@dataclass(frozen=True)
class Line:
    """One method's accuracies along x. A method that does not depend on x has only a level."""

    method: str
    level: float
    mean: pd.Series  # accuracy by x; empty for a level
    sd: pd.Series    # over the draws; NaN where there is only one
    one: pd.Series   # accuracy by x in the draw that was asked for; empty where it was not measured

    @property
    def name(self) -> str:
        return NAMES.get(self.method, str(self.method))

    @property
    def shown(self) -> pd.Series:
        return self.mean if self.one.empty else self.one


def _draw_along(
    x: str, at: float | None, fixed: str, value: float, table: pd.DataFrame, seed: int | None,
    live: pd.DataFrame | None, removed: str = "",
) -> Picture:
    """Draw accuracy along the column `x`, read out at `at`; the column `fixed` has one value."""
    _check(table, "blocks" if x == "blocks" else "ratio")
    rows = table[table.samples.notna()]
    value = one_of(fixed, value, rows[fixed])
    rows = rows[rows[fixed] == value]
    at = None if at is None else one_of(x, at, rows[x])
    seed = None if seed is None else one_of("seed", seed, rows.seed)
    alone = table[table.samples.isna() & table.method.isin(ALONE)]
    alone = alone[(alone.method == "teacher") | (x != "samples") | (alone[fixed] == value)]
    groups = dict(list(pd.concat([rows, alone]).groupby("method")))
    lines = [_line(method, groups[method], x, seed) for method in in_order(groups)]
    live = rows[:0] if live is None else live.dropna(subset=[x])

    span = {x: sorted(rows[x].unique()) if at is None else [at], fixed: [value]}
    draws = rows[rows[x].isin(span[x])].groupby(["method", x]).seed.nunique()
    several = counted(draws, "draw") if draws.max() > 1 else ""
    images, notes = counted(span["samples"], "image"), [f"band: mean ± sd of {several}"] if several else []
    if seed is not None:
        images, notes = f"{images} (draw {seed:.0f})", [f"line: draw {seed:.0f}", *notes]
    if x == "blocks":
        xlabel, cut = "blocks dropped", f"{counted(span['blocks'], 'block')} dropped"
    else:
        cut = f"{' to '.join(map(short_percent, ends(span['ratio'])))} of {removed} removed"
        xlabel = f"{removed} removed" if x == "ratio" else "number of images"
    title = cut if x == "samples" else images
    figure = _draw(lines, x, at, live, xlabel, f"{title}; {', '.join(notes)}" if notes else title)

    there = [line for line in lines if line.mean.empty or at is None or at in line.shown]
    readings = [f"{line.name} {_reading(line, x, at, span[x])}" for line in there]
    sentence = f"{images}, {cut}: {', '.join(readings)}"
    if several:
        sentence += f" ({'means' if at is None else 'mean ± sd'} of {several})"
    if len(live):
        now = [f"{NAMES.get(row.method, row.method)} {percent(row.accuracy)}" for row in live.itertuples()]
        sentence += f"; live: {', '.join(now)}"
    numbers = {"draws": int(draws.max())}
    for line in lines:
        numbers |= _numbers(line, at)
    numbers |= {f"{row.method} live": float(row.accuracy) for row in live.itertuples()}
    alt = f"Line chart of top-1 accuracy against {xlabel}. {sentence}."
    return Picture(figure, alt, f"{sentence}.", numbers)


def _line(method: str, rows: pd.DataFrame, x: str, seed: int | None) -> Line:
    along = rows[:0] if method == "teacher" else rows.dropna(subset=[x])
    by_x, one = along.groupby(x).accuracy, along[along.seed == seed].groupby(x).accuracy.mean()
    return Line(method, float(rows.accuracy.mean()), by_x.mean(), by_x.std(), one)


def _numbers(line: Line, at: float | None) -> dict:
    if line.mean.empty:
        return {line.method: line.level}
    if at is None:
        return {line.method: line.mean.to_dict(), f"{line.method} sd": line.sd.to_dict()}
    found = {"": line.mean.get(at), " sd": line.sd.get(at), " draw": line.one.get(at)}
    return {line.method + what: float(number) for what, number in found.items() if pd.notna(number)}


def _reading(line: Line, x: str, at: float | None, span: list[float]) -> str:
    if line.mean.empty:
        return percent(line.level)
    if at is not None:
        all_draws = mean_sd(line.mean[at], line.sd[at])
        return all_draws if line.one.empty else f"{percent(line.one[at])} (all draws: {all_draws})"
    reading, its = " to ".join(map(percent, ends(line.shown))), ends(line.shown.index)
    if its == ends(span):
        return reading
    word = short_percent if x == "ratio" else "{:.0f}".format
    return f"{reading} (at {' to '.join(map(word, its))})"  # this line does not span the axis


def _draw(lines: list[Line], x: str, at: float | None, live: pd.DataFrame, xlabel: str, title: str) -> Figure:
    styles = styles_of([line.method for line in lines] + list(live.method))
    scale, unit = (100, " (%)") if x == "ratio" else (1, "")
    axes = drawing.accuracy_axes(drawing.new_figure(), WIDE, xlabel + unit, title)
    bands, labels = [], []
    for line in lines:
        name, colour, marker = styles[line.method]
        if line.mean.empty:
            drawing.draw_level(axes, line.level, colour)
            labels.append((100 * line.level, name, colour, marker))
            continue
        places = scale * line.mean.index
        bands.append((places, line.mean, line.sd, colour, 0.2))
        if not line.one.empty:
            axes.plot(places, 100 * line.mean, color=colour, linewidth=1.5, linestyle=":")
        look = dict(color=colour, marker=marker, markersize=7, linewidth=2)
        axes.plot(scale * line.shown.index, 100 * line.shown, **look)
        labels.append((100 * line.shown.iloc[-1], name, colour, marker))
    drawing.draw_bands(axes, bands)
    for row in live.itertuples():
        drawing.draw_star(axes, scale * getattr(row, x), row.accuracy, styles[row.method][1])
    if at is not None:
        axes.axvline(scale * at, color=INK, linewidth=1, linestyle=":")
    if x == "samples":
        axes.set_xscale("log")
        axes.minorticks_off()
    ticks = sorted({place for line in lines for place in scale * line.mean.index})
    axes.set_xticks(ticks, [f"{tick:.4g}" for tick in ticks])
    drawing.label_lines(axes, labels)
    return axes.figure


def _check(table: pd.DataFrame, *more: str) -> None:
    """Refuse a table that lacks a column, or that mixes several networks or tasks: no mean may mix these."""
    check_columns(table, "method", "samples", *more, "seed", "accuracy")
    for column in ("task", "arch"):
        if column in table and table[column].nunique() > 1:
            several = ", ".join(map(str, table[column].unique()))
            raise ValueError(
                f'the table mixes rows of several values of "{column}": {several}.\n'
                f'  Pass the rows of one, as table[table.{column} == "{table[column].iloc[0]}"].'
            )
