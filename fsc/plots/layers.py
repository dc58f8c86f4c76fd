"""Figures of a network's layers: accuracy when one layer alone is pruned, and the error along the depth."""

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd

from fsc.arguments import check_columns, one_of
from fsc.plots import drawing
from fsc.plots.drawing import COLOURS, INK, NAMES, STYLES, WIDE, Picture, styles_of
from fsc.plots.readings import beside, percent, short_percent
from fsc.runtime import public

SAME = 1e-6  # squared relative errors below this are drawn as 0: float32 rounding gives 1e-12


@public
def sensitivity(table: pd.DataFrame, *, ratio: float | None = None, teacher: float | None = None) -> Picture:
    """Draw accuracy against ratio when one layer alone is pruned: one line per layer, from dark to light.

    The `numbers` of the picture are "ratio", the layers "most sensitive" and "least sensitive", and their
    accuracies, "lowest" and "highest".

    Args:
        table: columns layer, ratio, accuracy (0 .. 1); the layers in the order of the network.
        ratio: the ratio at which the most and the least sensitive layer are read off; None: the largest.
        teacher: the accuracy of the teacher, with nothing pruned.

    Raises:
        ValueError: a column is missing, or the table has no such ratio; says which there are.
    """
    check_columns(table, "layer", "ratio", "accuracy")
    lines = table.pivot_table(index="ratio", columns="layer", values="accuracy", sort=False).sort_index()
    ratio = one_of("ratio", lines.index[-1] if ratio is None else ratio, lines.index)
    worst, best = lines.loc[ratio].idxmin(), lines.loc[ratio].idxmax()
    low, high = float(lines.loc[ratio, worst]), float(lines.loc[ratio, best])

    title = "one layer pruned at a time; dark: early layers, light: late"
    xlabel = "filters removed from that layer (%)"
    axes = drawing.accuracy_axes(drawing.new_figure(), WIDE, xlabel, title)
    axes.set_xticks(100 * lines.index)
    labels, last = [], len(lines.columns) - 1
    for i, (layer, line) in enumerate(lines.items()):
        colour = matplotlib.colormaps["viridis"](0.85 * i / max(last, 1))
        width = 3.5 if layer in (worst, best) else 1.5
        axes.plot(100 * lines.index, 100 * line, color=colour, marker="o", markersize=5, linewidth=width)
        if layer in (worst, best) or i in (0, last):
            labels.append((100 * line.iloc[-1], str(layer), colour, "o"))
    if teacher is not None:
        drawing.draw_level(axes, teacher)
        labels.append((100 * teacher, *STYLES["teacher"]))
    drawing.label_lines(axes, labels)

    sentence = (
        f"{short_percent(ratio)} of the filters removed from one layer alone: {worst} is the most sensitive "
        f"({percent(low)} accuracy left), {best} the least ({percent(high)}){beside(teacher)}."
    )
    alt = f"Line chart of top-1 accuracy against filters removed, one line for each of {last + 1} layers."
    layers = {"most sensitive": worst, "least sensitive": best}
    numbers = {"ratio": ratio} | layers | {"lowest": low, "highest": high}
    return Picture(axes.figure, f"{alt} {sentence}", sentence, numbers)


@public
def error_map(errors: Mapping[str, pd.Series]) -> Picture:
    """Draw the error against the teacher along the depth: one line per network, on a log scale with a 0.

    The `numbers` of the picture are {network: {layer: error}}.

    Args:
        errors: network -> the result of `fsc.error_map`. A network named like a method has that colour.

    Raises:
        ValueError: no network, or one without a layer.

    >>> fsc.plots.error_map({"none": fsc.error_map(teacher, student, images)})
    """
    if not errors or any(len(line) == 0 for line in errors.values()):
        found = ", ".join(f"{name} with {len(line)} layers" for name, line in errors.items()) or "none"
        raise ValueError(
            f"asked for networks with at least a layer each; found {found}.\n"
            f'  Pass {{"none": fsc.error_map(teacher, student, images), ...}}.'
        )
    layers = list(dict.fromkeys(layer for line in errors.values() for layer in line.index))
    values = np.concatenate([line.to_numpy(float) for line in errors.values()])
    values = values[np.isfinite(values) & (values >= SAME)]
    low, high = (values.min(), max(1.0, values.max())) if len(values) else (0.1, 1.0)
    zero = low / max(high / low, 3.0) ** 0.25  # a log scale has no 0: drawn a fifth of the height below `low`

    title = "0: the teacher; 1: no better than its mean"
    box = (0.12, 0.35, 0.575, 0.57)
    axes = drawing.new_axes(drawing.new_figure(height=5.0), box, "", "squared error, relative", title)
    ticks = drawing.log_ticks(0.85 * low, 1.15 * high, (1, 2, 5), (1,))
    drawing.log_scale(axes.yaxis, [zero, *ticks], ["0", *(f"{tick:g}" for tick in ticks)])
    axes.set_ylim(zero * 0.85, high * 1.15)
    axes.axhline(zero, color=COLOURS["teacher"], linewidth=1.5, linestyle="--")
    axes.axhline(1, color=INK, linewidth=1, linestyle=":")
    labels = [(zero, *STYLES["teacher"])]
    for network, (name, colour, marker) in styles_of(errors).items():
        line = errors[network].replace([np.inf, -np.inf], np.nan)
        heights = line.where(~(line < SAME), zero)  # NaN stays NaN: a gap in the line
        places = [layers.index(layer) for layer in line.index]
        axes.plot(places, heights, color=colour, marker=marker, markersize=7, linewidth=2)
        labels.append((heights.dropna().iloc[-1] if heights.notna().any() else zero, name, colour, marker))
    every = -(-len(layers) // 24)  # a deep network: name 24 layers at most
    names = [layer if len(layer) <= 18 else f"…{layer[-17:]}" for layer in map(str, layers[::every])]
    axes.set_xticks(range(0, len(layers), every), names, rotation=90)
    drawing.label_lines(axes, labels)

    readings = ", ".join(f"{NAMES.get(name, name)} {line.iloc[-1]:.2g}" for name, line in errors.items())
    at = ", ".join(dict.fromkeys(str(line.index[-1]) for line in errors.values()))
    relative = "relative to the variance of the teacher's"
    sentence = f"Squared error at the last layer ({at}), {relative}: {readings}."
    alt = f"Line chart of the error along {len(layers)} layers, from the first to the last, teacher = 0."
    numbers = {network: line.astype(float).to_dict() for network, line in errors.items()}
    return Picture(axes.figure, f"{alt} {sentence}", sentence, numbers)
