"""Figures of block dropping: two rankings of the blocks, and accuracy against measured time."""

import numpy as np
import pandas as pd

from fsc.arguments import check_columns
from fsc.plots import drawing
from fsc.plots.drawing import COLOURS, INK, MARKERS, STYLES, TEXT, WIDE, Picture, styles_of
from fsc.plots.readings import percent
from fsc.runtime import public


@public
def rankings(table: pd.DataFrame, *, x: str, y: str) -> Picture:
    """Draw one point per block, placed by two scores, to see whether both put the blocks in the same order.

    The `numbers` of the picture are Spearman's correlation, as "spearman", and "blocks".

    Args:
        table: one row per block, with its name as index; columns x and y, all above 0.

    Raises:
        ValueError: a column is missing, or there are fewer than 3 blocks.
    """
    check_columns(table, x, y)
    if len(table) < 3:
        raise ValueError(f"{len(table)} blocks.\n  With fewer than 3 there is no order to compare.")
    agree = float(table[x].rank().corr(table[y].rank()))
    title = "one point per block; both axes: lower is better to drop"
    axes = drawing.new_axes(drawing.new_figure(height=4.2), (0.11, 0.15, 0.85, 0.75), x, y, title)
    axes.set(xscale="log", yscale="log")
    axes.scatter(table[x], table[y], s=60, color=COLOURS["practise"], edgecolor=INK, zorder=3)
    middle = np.sqrt(table[x].min() * table[x].max())
    for name, here, there in zip(table.index, table[x], table[y], strict=True):
        side, shift = ("right", -9) if here > middle else ("left", 9)
        beside = dict(textcoords="offset points", ha=side, va="center", fontsize=TEXT, color=INK)
        axes.annotate(name, (here, there), (shift, 0), **beside)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}")
    axes.tick_params(which="minor", labelsize=TEXT - 2, labelcolor=INK)

    first, second = str(table[x].idxmin()), str(table[y].idxmin())
    same = f"both put {first} first" if first == second else f"first are {first} and {second}"
    sentence = f"Spearman's rank correlation over {len(table)} blocks: {agree:.2f}; {same}."
    alt = f"Scatter plot of {y} against {x}, one point per block. {sentence}"
    return Picture(axes.figure, alt, sentence, {"spearman": agree, "blocks": len(table)})


@public
def accuracy_by_time(table: pd.DataFrame, *, teacher: float) -> Picture:
    """Draw accuracy against measured time: one point per network, at the mean of its draws.

    The `numbers` of the picture are {network: {"accuracy", "sd", "ratio", "low", "high"}}, and "draws".

    Args:
        table: one row per draw, with columns family (one line each), network (one point each), accuracy
            (0 .. 1); ratio, low, high: share of the teacher's time and 95 % interval, as from `fsc.latency`.
        teacher: the teacher's accuracy, which is drawn at 100 % of the time.

    Raises:
        ValueError: a column is missing.
    """
    check_columns(table, "family", "network", "accuracy", "ratio", "low", "high")
    xlabel, ylabel = "measured time, relative to the teacher's (%)", "top-1 accuracy (%)"
    title = "vertical: sd of the draws; horizontal: 95 % interval of the time"
    axes = drawing.new_axes(drawing.new_figure(), WIDE, xlabel, ylabel, title)
    numbers, readings, labels = {}, [], [(100 * teacher, *STYLES["teacher"])]
    for family, (name, colour, marker) in styles_of(table.family).items():
        groups = table[table.family == family].groupby("network", sort=False)
        times = groups[["ratio", "low", "high"]].first()
        points = times.assign(accuracy=groups.accuracy.mean(), sd=groups.accuracy.std()).sort_values("ratio")
        aside = 100 * np.stack([points.ratio - points.low, points.high - points.ratio]).clip(0)
        drawing.draw_points(axes, 100 * points.ratio, points.accuracy, points.sd, colour, marker, xerr=aside)
        labels.append((100 * points.accuracy.iloc[-1], name, colour, marker))
        numbers |= points.to_dict("index")
        readings += [f"{network} {percent(point.accuracy)} in {percent(point.ratio, 0)} of the time"
                     for network, point in points.iterrows()]
    axes.plot(100, 100 * teacher, marker=MARKERS["teacher"], markersize=14, color=COLOURS["teacher"])
    drawing.label_lines(axes, labels, leaders=False)
    draws = int(table.groupby("network").size().min())
    sentence = f"{'; '.join(readings)}; teacher {percent(teacher)} (means of {draws} draws)."
    alt = f"Accuracy against measured time, with error bars. {sentence}"
    return Picture(axes.figure, alt, sentence, numbers | {"draws": draws})
