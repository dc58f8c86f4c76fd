"""Figures of block dropping: two rankings of the blocks, accuracy against blocks dropped, and against measured time."""

import numpy as np
import pandas as pd

from fsc.arguments import check_columns, one_of
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
    styles_of,
)


def rankings(table: pd.DataFrame, *, x: str, y: str) -> Picture:
    """Each block as a point, at what two ways to judge it say: how far do they put the blocks in the same order?

    Args:
        table: a row a block, by name; columns x and y, all above 0.

    Returns:
        A picture whose `numbers` hold Spearman's correlation as "spearman", and "blocks".

    Raises:
        ValueError: a column is missing, or there are fewer than 3 blocks.
    """
    check_columns(table, x, y)
    if len(table) < 3:
        raise ValueError(f"rankings: {len(table)} blocks.\n  With fewer than 3 there is no order to compare.")
    agree = float(table[x].rank().corr(table[y].rank()))
    figure = new_figure(height=4.2)
    axes = new_axes(figure, (0.11, 0.15, 0.85, 0.75), x, y, "a point a block; both axes: lower is better to drop")
    axes.set(xscale="log", yscale="log")
    axes.scatter(table[x], table[y], s=60, color=COLOURS["practise"], edgecolor=INK, zorder=3)
    middle = np.sqrt(table[x].min() * table[x].max())
    for name, here, there in zip(table.index, table[x], table[y], strict=True):
        right = here > middle
        beside = dict(textcoords="offset points", ha="right" if right else "left", va="center", fontsize=TEXT)
        axes.annotate(name, (here, there), (-9 if right else 9, 0), color=INK, **beside)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}")
    axes.tick_params(which="minor", labelsize=TEXT - 2, labelcolor=INK)
    best = [str(table[column].idxmin()) for column in (x, y)]
    same = f"both put {best[0]} first" if best[0] == best[1] else f"first are {best[0]} and {best[1]}"
    sentence = f"Spearman's rank correlation over {len(table)} blocks: {agree:.2f}; {same}."
    alt = f"Scatter plot of {y} against {x}, a point a block. {sentence}"
    return Picture(figure, alt, sentence, {"spearman": agree, "blocks": len(table)})


def accuracy_by_blocks(
    table: pd.DataFrame,
    *,
    samples: int,
    blocks: int | None = None,
    draw: int | None = None,
    live: pd.DataFrame | None = None,
) -> Picture:
    """Accuracy against the number of dropped blocks, with one number of few images: a line a method, a band its draws.

    Args:
        table: columns method, samples, blocks, seed, accuracy (0 .. 1); "teacher": samples NaN.
        samples: the number of images.
        blocks: the number of blocks to point at and to read out; None: the largest.
        draw: the seed of one draw of the few images, to stand out.
        live: rows like those of the table, computed just now.

    Returns:
        A picture whose `numbers` hold each METHOD's accuracy, "METHOD sd", "METHOD draw" and "METHOD live" at `blocks`.

    Raises:
        ValueError: a column is missing, or the table has no such samples, blocks or draw; says which there are.
    """
    check_columns(table, "method", "samples", "blocks", "seed", "accuracy")
    rows = table[table.samples.notna()]
    samples = one_of("samples", samples, rows.samples)
    rows = rows[rows.samples == samples]
    blocks = one_of("blocks", rows.blocks.max() if blocks is None else blocks, rows.blocks)
    draw = None if draw is None else one_of("draw", draw, rows.seed)
    teacher = table[table.method == "teacher"].accuracy
    taken = f"{samples:.0f} images{'' if draw is None else f' (draw {draw:.0f})'}"
    axes = new_axes(
        (figure := new_figure()), WIDE, "blocks dropped", "top-1 accuracy (%)", f"{taken}; band: mean ± sd of the draws"
    )
    axes.set_ylim(0, 102)
    axes.set_xticks(sorted(rows.blocks.unique()))
    axes.axvline(blocks, color=INK, linewidth=1, linestyle=":")
    numbers, readings, labels, counts = {}, [], [], set()
    for method, (name, colour, marker) in styles_of([m for m in NAMES if m in set(rows.method)]).items():
        mine = rows[rows.method == method]
        mean, sd = mine.groupby("blocks").accuracy.mean(), mine.groupby("blocks").accuracy.std()
        low, high = mean - sd.fillna(0), mean + sd.fillna(0)
        axes.fill_between(mean.index, 100 * low, 100 * high, color=colour, alpha=0.2, linewidth=0)
        one = mine[mine.seed == draw].set_index("blocks").accuracy.sort_index()
        shown = mean if one.empty else one
        axes.plot(shown.index, 100 * shown, color=colour, marker=marker, markersize=7, linewidth=2)
        labels.append((100 * shown.iloc[-1], name, colour, marker))
        if blocks not in mean:
            continue
        counts.add(int((mine.blocks == blocks).sum()))
        numbers |= {method: float(mean[blocks])}
        several = f" ± {100 * sd[blocks]:.1f}" if sd[blocks] >= 0 else ""
        numbers |= {f"{method} sd": float(sd[blocks])} if several else {}
        reading = f"{name} {percent(mean[blocks])}{several}"
        if blocks in one:
            numbers[f"{method} draw"] = float(one[blocks])
            reading = f"{name} {percent(one[blocks])} (all draws: {percent(mean[blocks])}{several})"
        readings.append(reading)
    if len(teacher):
        numbers["teacher"] = float(teacher.iloc[0])
        axes.axhline(100 * numbers["teacher"], color=COLOURS["teacher"], linewidth=1.5, linestyle="--")
        labels.append((100 * numbers["teacher"], NAMES["teacher"], COLOURS["teacher"], MARKERS["teacher"]))
        readings.append(f"teacher {percent(numbers['teacher'])}")
    many = f"{blocks:.0f} block{'s' if blocks > 1 else ''} dropped"
    sentence = f"{taken}, {many}: {', '.join(readings)} (mean ± sd of {' to '.join(map(str, sorted(counts)))} draws)"
    if live is not None and len(live):
        for row in live.itertuples():
            style = styles_of([row.method])[row.method]
            axes.plot(row.blocks, 100 * row.accuracy, "*", markersize=20, color=style[1], markeredgecolor=INK, zorder=5)
            numbers[f"{row.method} live"] = float(row.accuracy)
            sentence += f"; live: {style[0]} {percent(row.accuracy)}"
    label_lines(axes, labels)
    return Picture(figure, f"Line chart of top-1 accuracy against blocks dropped. {sentence}.", f"{sentence}.", numbers)


def accuracy_by_time(table: pd.DataFrame, *, teacher: float) -> Picture:
    """Accuracy against measured time, relative to the teacher's: a point a network, its means over the draws.

    Args:
        table: columns family (what was done; a line each), network (a point each), accuracy (0 .. 1; a row a draw), and
            ratio, low, high: its share of the teacher's time and the 95 % interval, as from `fsc.latency`.
        teacher: its accuracy, at 100 % of its time.

    Returns:
        A picture whose `numbers` are {network: {"accuracy", "sd", "ratio", "low", "high"}}, and "draws".

    Raises:
        ValueError: a column is missing.
    """
    check_columns(table, "family", "network", "accuracy", "ratio", "low", "high")
    axes = new_axes(
        (figure := new_figure()), WIDE, "measured time, relative to the teacher's (%)", "top-1 accuracy (%)",
        "upright: sd of the draws; level: 95 % interval of the time",
    )  # fmt: skip
    numbers, readings, labels = {}, [], []
    for family, (name, colour, marker) in styles_of(table.family).items():
        groups = table[table.family == family].groupby("network", sort=False)
        times = groups[["ratio", "low", "high"]].first()
        points = times.assign(accuracy=groups.accuracy.mean(), sd=groups.accuracy.std()).sort_values("ratio")
        aside = 100 * np.stack([points.ratio - points.low, points.high - points.ratio]).clip(0)
        axes.errorbar(
            100 * points.ratio, 100 * points.accuracy, 100 * points.sd.fillna(0), aside, color=colour, marker=marker,
            markersize=9, linewidth=2, elinewidth=1, capsize=3,
        )  # fmt: skip
        labels.append((100 * points.accuracy.iloc[-1], name, colour, marker))
        numbers |= points.to_dict("index")
        readings += [
            f"{network} {percent(p.accuracy)} in {percent(p.ratio, 0)} of the time" for network, p in points.iterrows()
        ]
    axes.plot(100, 100 * teacher, marker=MARKERS["teacher"], markersize=14, color=COLOURS["teacher"])
    labels.append((100 * teacher, NAMES["teacher"], COLOURS["teacher"], MARKERS["teacher"]))
    label_lines(axes, labels, leaders=False)
    draws = int(table.groupby("network").size().min())
    sentence = f"{'; '.join(readings)}; teacher {percent(teacher)} (means of {draws} draws)."
    alt = f"Accuracy against measured time, with error bars. {sentence}"
    return Picture(figure, alt, sentence, numbers | {"draws": draws})
