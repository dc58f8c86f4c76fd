"""Accuracy against the number of few images, the compression ratio, the number of dropped blocks, or time."""

import pandas as pd
from matplotlib.figure import Figure

from fsc.arguments import check_columns, one_of, renamed
from fsc.plots import drawing
from fsc.plots.drawing import INK, NAMES, WIDE, Picture, in_order, styles_of
from fsc.plots.readings import counted, ends, mean_sd, percent, short_percent
from fsc.runtime import public


@renamed(draw="seed")
@public
def accuracy_by_samples(
    table: pd.DataFrame, *, ratio: float, samples: int | None = None, seed: int | None = None,
    live: pd.DataFrame | None = None, removed: str = "filters",
) -> Picture:
    """Draw accuracy against the number of few images, at one compression ratio: one line per method.

    A line shows the means over the draws of the few images; its band is the mean ± standard deviation. The
    `numbers` of the picture hold each METHOD's accuracy, "METHOD sd", "METHOD draw" and "METHOD live" at
    `samples` (without `samples`: {samples: accuracy}), and "draws".

    Args:
        table: columns method, samples, ratio, seed, accuracy (0 .. 1). The rows of "teacher" and of "none",
            the unrepaired student, have samples NaN.
        samples: the number of images to point at and to read out; None: the whole range is read out.
        seed: the seed of one draw, which the lines then show beside the band of all draws.
        live: rows like those of the table, computed just now: one star per row.
        removed: what the ratio counts, in words.

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
    """
    return _draw_along("ratio", ratio, "samples", samples, table, seed, live, removed)


@renamed(draw="seed", blocks="count")
@public
def accuracy_by_blocks(
    table: pd.DataFrame, *, samples: int, count: int | None = None, seed: int | None = None,
    live: pd.DataFrame | None = None,
) -> Picture:
    """Draw accuracy against the number of dropped blocks, with one number of few images: one line per method.

    Arguments, result and errors are those of `accuracy_by_samples`, except that the table has a column blocks
    instead of ratio. `count` is the number of dropped blocks to read out; None: the largest.
    """
    check_columns(table, "method", "samples", "blocks", "seed", "accuracy")
    count = table[table.samples == samples].blocks.max() if count is None else count
    return _draw_along("blocks", count, "samples", samples, table, seed, live)


@public
def accuracy_by_seconds(
    table: pd.DataFrame, *, samples: int, ratio: float, removed: str = "filters"
) -> Picture:
    """Draw accuracy against the seconds that a repair took, at one setting: one point per method.

    Arguments and errors are those of `accuracy_by_samples`; the table also has a column seconds. A point
    stands at the median of the draws, but at 0.05 s at least. The `numbers` of the picture hold each METHOD's
    accuracy, "METHOD sd" and "METHOD seconds", and "draws".
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
    for method, (name, colour, marker) in styles_of(in_order([*groups, *levels.index])).items():
        if method in levels:
            mean = numbers[method] = float(levels[method])
            drawing.draw_level(axes, mean, colour)
            readings.append(f"{name} {percent(mean)}")
        else:
            repairs = groups[method]
            mean, sd = float(repairs.accuracy.mean()), float(repairs.accuracy.std())
            seconds = float(repairs.seconds.median())
            drawing.draw_points(axes, max(seconds, 0.05), mean, sd, colour, marker)  # a log scale has no 0
            readings.append(f"{name} {mean_sd(mean, sd)} in {seconds:.3g} s")
            numbers |= {method: mean, f"{method} seconds": seconds}
            numbers |= {} if pd.isna(sd) else {f"{method} sd": sd}
        labels.append((100 * mean, name, colour, marker))
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.09), max(high, 11))  # always a few powers of ten to read the scale by
    axes.xaxis.set_major_formatter("{x:g}")
    drawing.label_lines(axes, labels, leaders=False)

    draws = [len(repairs) for repairs in groups.values()]
    several = f" (mean ± sd of {counted(draws, 'draw')}, median time)" if max(draws) > 1 else ""
    sentence = f"{setting}: {', '.join(readings)}{several}."
    alt = f"Scatter plot of top-1 accuracy against the seconds that a repair took. {sentence}"
    return Picture(axes.figure, alt, sentence, numbers | {"draws": max(draws)})


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
    live = rows[:0] if live is None else live.dropna(subset=[x])
    teacher = table[table.method == "teacher"].assign(**{x: float("nan")})
    unrepaired = table[(table.method == "none") & table.samples.isna()]
    unrepaired = unrepaired[(x != "samples") | (unrepaired[fixed] == value)]
    groups = dict(list(pd.concat([rows, unrepaired, teacher]).groupby("method")))
    lines = {method: _line(groups[method], x, seed) for method in in_order(groups)}
    levels = {method: float(groups[method].accuracy.mean()) for method in lines if lines[method].empty}

    span = {x: sorted(rows[x].unique()) if at is None else [at], fixed: [value]}
    draws = rows[rows[x].isin(span[x])].groupby(["method", x]).seed.nunique()
    images, notes, several = counted(span["samples"], "image"), [], ""
    if seed is not None:
        images += f" (draw {seed:.0f})"
        notes.append(f"line: draw {seed:.0f}")
    if draws.max() > 1:
        notes.append(f"band: mean ± sd of {counted(draws, 'draw')}")
        several = f" ({'means' if at is None else 'mean ± sd'} of {counted(draws, 'draw')})"
    if x == "blocks":
        xlabel, cut = "blocks dropped", f"{counted(span['blocks'], 'block')} dropped"
    else:
        cut = f"{' to '.join(map(short_percent, ends(span['ratio'])))} of {removed} removed"
        xlabel = f"{removed} removed" if x == "ratio" else "number of images"
    title = cut if x == "samples" else images
    figure = _draw(lines, levels, x, at, live, xlabel, f"{title}; {', '.join(notes)}" if notes else title)

    numbers, readings = {"draws": int(draws.max())}, []
    for method, line in lines.items():
        numbers |= {method: levels[method]} if method in levels else _numbers(method, line, at)
        reading = percent(levels[method]) if method in levels else _reading(line, x, at, span[x])
        readings += [f"{NAMES.get(method, method)} {reading}"] if reading else []
    now = []
    for row in live.itertuples():
        numbers[f"{row.method} live"] = float(row.accuracy)
        now.append(f"{NAMES.get(row.method, row.method)} {percent(row.accuracy)}")
    sentence = f"{images}, {cut}: {', '.join(readings)}{several}{'; live: ' if now else ''}{', '.join(now)}."
    return Picture(figure, f"Line chart of top-1 accuracy against {xlabel}. {sentence}", sentence, numbers)


def _line(rows: pd.DataFrame, x: str, seed: int | None) -> pd.DataFrame:
    """Accuracy by x: mean and sd over the draws, and the draw with this seed; NaN where there is none."""
    by_x, one = rows.groupby(x).accuracy, rows[rows.seed == seed].groupby(x).accuracy
    return pd.DataFrame({"mean": by_x.mean(), "sd": by_x.std(), "draw": one.mean()})


def _shown(line: pd.DataFrame) -> pd.Series:
    return line["mean"] if line.draw.isna().all() else line.draw.dropna()


def _numbers(method: str, line: pd.DataFrame, at: float | None) -> dict:
    if at is None:
        return {method: line["mean"].to_dict(), f"{method} sd": line.sd.to_dict()}
    found = line.loc[at].dropna() if at in line.index else {}
    return {method if what == "mean" else f"{method} {what}": float(value) for what, value in found.items()}


def _reading(line: pd.DataFrame, x: str, at: float | None, span: list[float]) -> str:
    """The accuracy at `at`, or else from one end to the other; empty where it was not measured."""
    shown = _shown(line)
    if at is not None:
        if at not in shown:
            return ""
        all_draws = mean_sd(line["mean"][at], line.sd[at])
        return all_draws if line.draw.isna().all() else f"{percent(shown[at])} (all draws: {all_draws})"
    word = short_percent if x == "ratio" else "{:.0f}".format
    its = ends(shown.index)  # not those of the axis, where the method was not measured there
    where = "" if its == ends(span) else f" (at {' to '.join(map(word, its))})"
    return " to ".join(map(percent, ends(shown))) + where


def _draw(
    lines: dict[str, pd.DataFrame], levels: dict[str, float], x: str, at: float | None, live: pd.DataFrame,
    xlabel: str, title: str,
) -> Figure:
    styles = styles_of([*lines, *live.method])
    scale, unit = (100, " (%)") if x == "ratio" else (1, "")
    axes = drawing.accuracy_axes(drawing.new_figure(), WIDE, xlabel + unit, title)
    labels = []
    for method, line in lines.items():
        name, colour, marker = styles[method]
        if method in levels:
            drawing.draw_level(axes, levels[method], colour)
            labels.append((100 * levels[method], name, colour, marker))
            continue
        shown = _shown(line)
        drawing.draw_band(axes, scale * line.index, line["mean"], line.sd, colour, 0.2)
        if line.draw.notna().any():
            axes.plot(scale * line.index, 100 * line["mean"], color=colour, linewidth=1.5, linestyle=":")
        look = dict(color=colour, marker=marker, markersize=7, linewidth=2)
        axes.plot(scale * shown.index, 100 * shown, **look)
        labels.append((100 * shown.iloc[-1], name, colour, marker))
    for row in live.itertuples():
        drawing.draw_star(axes, scale * getattr(row, x), row.accuracy, styles[row.method][1])
    if at is not None:
        axes.axvline(scale * at, color=INK, linewidth=1, linestyle=":")
    if x == "samples":
        axes.set_xscale("log")
        axes.minorticks_off()
    ticks = sorted({place for line in lines.values() for place in scale * line.index})
    axes.set_xticks(ticks, [f"{tick:.4g}" for tick in ticks])
    drawing.label_lines(axes, labels)
    return axes.figure


def _check(table: pd.DataFrame, *more: str) -> None:
    """Refuse a table that lacks a column, or that mixes several networks or tasks: no mean may mix these."""
    check_columns(table, "method", "samples", *more, "seed", "accuracy")
    for column in ("task", "arch"):
        values = table[column].dropna().unique() if column in table else []
        if len(values) > 1:
            raise ValueError(
                f'the table mixes rows of several values of "{column}": {", ".join(map(str, values))}.\n'
                f'  Pass the rows of one, as table[table.{column} == "{values[0]}"].'
            )
