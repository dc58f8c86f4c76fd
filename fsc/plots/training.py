"""How training went, step by step: the loss on fitted and on held-out images, the learning rate, the speed."""

from typing import NamedTuple

import pandas as pd

from fsc.arguments import check_columns
from fsc.plots.drawing import COLOURS, INK, MARKERS, Picture, label_lines, new_axes, new_figure

NARROW = (0.115, 0.15, 0.41, 0.8)  # the losses, where the rate and the speed stand beside them
LONE = (0.115, 0.15, 0.58, 0.75)  # room on the left for losses like 0.005
FITTED, HELD_OUT = "fitted", "held out"


class Curve(NamedTuple):
    """One loss along the steps, where it was measured."""

    name: str
    values: pd.Series
    colour: str
    line: str
    marker: str

    @property
    def first(self) -> float:
        return float(self.values.iloc[0])

    @property
    def last(self) -> float:
        return float(self.values.iloc[-1])


def loss_history(history: pd.DataFrame, *, method: str = "mir") -> Picture:
    """The loss on fitted and on held-out images against the step; learning rate and images a second where they are.

    Args:
        history: columns step and loss, as `fsc.report_of` has them of `fsc.mir`; held_out_loss, lr and
            images_per_second are drawn where there are such columns. NaN where one was not measured.
        method: whose history it is, for the colour of the loss.

    Returns:
        A picture whose `numbers` are "first loss", "last loss", "steps"; "first held-out", "last held-out",
        "lowest held-out" and "lowest at" (a step), with images held out; "images per second", the median.

    Raises:
        ValueError: a column is missing, or a loss was measured nowhere.

    >>> loss_history(fsc.report_of(fsc.mir(teacher, student, few.images, held_out=0.2)))
    """
    check_columns(history, "step", "loss")
    by_step = history.set_index("step")
    curves = [_curve(by_step, "loss", FITTED, COLOURS.get(method, INK), "-", MARKERS.get(method, "o"))]
    if "held_out_loss" in history:
        curves.append(_curve(by_step, "held_out_loss", HELD_OUT, INK, "--", "o"))
    beside = [column for column in ("lr", "images_per_second") if column in history]

    figure = new_figure()
    axes = new_axes(figure, NARROW if beside else LONE, "training step", "loss")
    if min(curve.values.min() for curve in curves) > 0:
        axes.set_yscale("log")  # what overfits falls by powers of ten
        low, high = min(c.values.min() for c in curves), max(c.values.max() for c in curves)
        axes.set_ylim(low / 1.2, high * 1.2)
        axes.set_yticks(ticks := _ticks(low / 1.2, high * 1.2), [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    for curve in curves:
        every = max(1, len(curve.values) // 8)
        axes.plot(curve.values.index, curve.values, curve.line, color=curve.colour, linewidth=2,
                  marker=curve.marker, markersize=7, markevery=every)  # fmt: skip
    label_lines(axes, [(curve.last, curve.name, curve.colour, curve.marker) for curve in curves], leaders=False)
    for column, bottom in zip(beside, (0.62, 0.15), strict=False):
        _small(figure, (0.785, bottom, 0.205, 0.33), by_step[column].dropna(), column)

    numbers = {"first loss": curves[0].first, "last loss": curves[0].last, "steps": int(history.step.max())}
    sentence = f"In {numbers['steps']} steps the loss on the fitted images goes from {_change(curves[0])}"
    if len(curves) > 1:
        values = curves[1].values
        numbers |= {"first held-out": curves[1].first, "last held-out": curves[1].last}
        numbers |= {"lowest held-out": float(values.min()), "lowest at": int(values.idxmin())}
        sentence += f", on the held-out ones from {_change(curves[1])}"
        if curves[1].last > 1.05 * values.min():
            sentence += f" (lowest: {values.min():.2g} at step {values.idxmin()})"
    if "images_per_second" in history:
        numbers["images per second"] = float(history.images_per_second.median())
        sentence += f"; {numbers['images per second']:.0f} images a second"
    alt = f"Line chart of the loss{', the learning rate and the speed' if beside else ''} against the training step. "
    return Picture(figure, f"{alt}{sentence}.", f"{sentence}.", numbers)


def _curve(by_step: pd.DataFrame, column: str, name: str, *look: str) -> Curve:
    values = by_step[column].dropna()
    if values.empty:
        raise ValueError(
            f"loss_history: {column} was measured at none of {len(by_step)} steps.\n"
            f"  Pass a history of at least one step, or leave out the column {column}."
        )
    return Curve(name, values, *look)


def _small(figure, box: tuple, values: pd.Series, column: str) -> None:
    name = {"lr": "learning rate", "images_per_second": "images a second"}[column]
    axes = new_axes(figure, box, "training step" if column != "lr" else "", name)
    axes.plot(values.index, values, color=INK, linewidth=2, drawstyle="steps-pre" if column == "lr" else "default")
    if column == "lr":
        axes.set_yscale("log")
        axes.set_yticks(levels := sorted(values.unique()), [f"{level:.3g}" for level in levels])
        axes.minorticks_off()
    else:
        axes.set_ylim(0, 1.15 * values.max())


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between the two, eight at most where that can be."""
    for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,)):
        ticks = [t for t in (step * 10.0**e for e in range(-9, 10) for step in steps) if low <= t <= high]
        if len(ticks) <= 8:
            break
    return ticks


def _change(curve: Curve) -> str:
    return f"{curve.first:.2g} to {curve.last:.2g}"
