"""The course of a training: loss, accuracy, learning rate and speed against the step."""

import pandas as pd
from matplotlib.figure import Figure

from fsc.arguments import check_columns
from fsc.plots import drawing
from fsc.plots.drawing import COLOURS, INK, MARKERS, TEXT, Picture, new_axes, new_figure
from fsc.plots.readings import beside, percent
from fsc.runtime import public

NARROW = (0.115, 0.15, 0.41, 0.8)  # the losses, where the rate and the speed stand beside them
LONE = (0.115, 0.15, 0.58, 0.75)  # room on the left for losses like 0.005


@public
def training_curve(history: pd.DataFrame, *, teacher: float | None = None) -> Picture:
    """Draw loss and test accuracy against the training step, side by side.

    Args:
        history: columns step, loss, accuracy (0 .. 1); NaN where one was not measured.
        teacher: the teacher's accuracy, which the training should reach.

    Returns:
        A picture whose `numbers` are "first loss", "last loss", "first accuracy" and "last accuracy".

    Raises:
        ValueError: a column is missing.

    >>> fsc.plots.training_curve(history, teacher=0.935)
    """
    check_columns(history, "step", "loss", "accuracy")
    loss, accuracy = (history.set_index("step")[column].dropna() for column in ("loss", "accuracy"))
    colour, marker = COLOURS["finetune"], MARKERS["finetune"]
    figure = new_figure(height=3.4)
    left = new_axes(figure, (0.085, 0.17, 0.38, 0.72), "training step", "loss", "on the few images")
    left.plot(loss.index, loss, color=colour, linewidth=2)
    left.set_ylim(bottom=0)
    right = drawing.accuracy_axes(figure, (0.6, 0.17, 0.38, 0.72), "training step", "on the test images")
    right.plot(accuracy.index, 100 * accuracy, color=colour, marker=marker, linewidth=2)
    if teacher is not None:
        drawing.draw_level(right, teacher)
        corner = dict(xycoords=("axes fraction", "data"), textcoords="offset points", ha="right", va="top")
        right.annotate("teacher", (1, 100 * teacher), (0, -4), fontsize=TEXT, color=INK, **corner)

    start, end, first, last = map(float, (loss.iloc[0], loss.iloc[-1], accuracy.iloc[0], accuracy.iloc[-1]))
    sentence = (
        f"In {history.step.max()} steps the loss {_moves(start, end)} {start:.2f} to {end:.2f} and the test "
        f"accuracy {_moves(first, last)} {percent(first)} to {percent(last)}{beside(teacher)}."
    )
    alt = f"Two line charts against the training step: loss on the few images, and test accuracy. {sentence}"
    numbers = {"first loss": start, "last loss": end, "first accuracy": first, "last accuracy": last}
    return Picture(figure, alt, sentence, numbers)


@public
def loss_history(history: pd.DataFrame, *, method: str = "mir") -> Picture:
    """Draw the losses on fitted and held-out images against the step, with learning rate and speed.

    Args:
        history: columns step and loss, as `fsc.report_of` gives them for a student of `fsc.mir`; optional are
            held_out_loss, lr and images_per_second. NaN where one was not measured.
        method: the method that was trained, for the colour of the loss.

    Returns:
        A picture whose `numbers` are "first loss", "last loss", "steps"; "first held-out", "last held-out",
        "lowest held-out" and "lowest at" (a step) of held-out images; "images per second", the median.

    Raises:
        ValueError: a column is missing, or a loss was measured nowhere.

    >>> fsc.plots.loss_history(fsc.report_of(fsc.mir(teacher, student, few.images, held_out=0.2)))
    """
    check_columns(history, "step", "loss")
    by_step = history.set_index("step")
    fitted = _measured(by_step, "loss")
    held_out = _measured(by_step, "held_out_loss") if "held_out_loss" in history else None
    small = [column for column in ("lr", "images_per_second") if column in history]
    curves = [(fitted, "-", ("fitted", COLOURS.get(method, INK), MARKERS.get(method, "o")))]
    if held_out is not None:
        curves.append((held_out, "--", ("held out", INK, "o")))
    figure = _draw_losses(curves, NARROW if small else LONE)
    for column, bottom in zip(small, (0.62, 0.15), strict=False):
        _draw_small(figure, (0.785, bottom, 0.205, 0.33), by_step[column].dropna(), column)

    steps = int(history.step.max())
    numbers = {"first loss": float(fitted.iloc[0]), "last loss": float(fitted.iloc[-1]), "steps": steps}
    sentence = f"In {steps} steps the loss on the fitted images goes from {_change(fitted)}"
    if held_out is not None:
        lowest, at, last = float(held_out.min()), int(held_out.idxmin()), float(held_out.iloc[-1])
        numbers |= {"first held-out": float(held_out.iloc[0]), "last held-out": last}
        numbers |= {"lowest held-out": lowest, "lowest at": at}
        sentence += f", on the held-out ones from {_change(held_out)}"
        if last > 1.05 * lowest:
            sentence += f" (lowest: {lowest:.2g} at step {at})"
    if "images_per_second" in history:
        speed = numbers["images per second"] = float(history.images_per_second.median())
        sentence += f"; {speed:.0f} images a second"
    drawn = "the loss, the learning rate and the speed" if small else "the loss"
    alt = f"Line chart of {drawn} against the training step. {sentence}."
    return Picture(figure, alt, f"{sentence}.", numbers)


def _measured(by_step: pd.DataFrame, column: str) -> pd.Series:
    values = by_step[column].dropna()
    if values.empty:
        raise ValueError(
            f"{column} was measured at none of {len(by_step)} steps.\n"
            f"  Pass a history of at least one step, or leave out the column {column}."
        )
    return values


def _draw_losses(curves: list[tuple[pd.Series, str, tuple]], box: tuple[float, ...]) -> Figure:
    axes = new_axes(new_figure(), box, "training step", "loss")
    every_loss = pd.concat([values for values, *_ in curves])
    low, high = every_loss.min() / 1.2, every_loss.max() * 1.2
    if low > 0:
        axes.set_yscale("log")  # a loss that overfits falls by powers of ten
        axes.set_ylim(low, high)
        ticks = drawing.log_ticks(low, high, (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,))
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    for values, line, (_, colour, marker) in curves:
        every = max(1, len(values) // 8)  # about 8 markers
        look = dict(color=colour, marker=marker, markersize=7, markevery=every, linewidth=2)
        axes.plot(values.index, values, line, **look)
    drawing.label_lines(axes, [(values.iloc[-1], *style) for values, _, style in curves], leaders=False)
    return axes.figure


def _draw_small(figure: Figure, box: tuple[float, ...], values: pd.Series, column: str) -> None:
    if column == "lr":
        axes = new_axes(figure, box, "", "learning rate")
        axes.plot(values.index, values, color=INK, linewidth=2, drawstyle="steps-pre")
        axes.set_yscale("log")
        levels = sorted(values.unique())
        axes.set_yticks(levels, [f"{level:.3g}" for level in levels])
        axes.minorticks_off()
    else:
        axes = new_axes(figure, box, "training step", "images a second")
        axes.plot(values.index, values, color=INK, linewidth=2)
        axes.set_ylim(0, 1.15 * values.max())


def _change(values: pd.Series) -> str:
    return f"{values.iloc[0]:.2g} to {values.iloc[-1]:.2g}"


def _moves(first: float, last: float) -> str:
    """The verb for a loss or an accuracy; a change below 0.01 is no movement."""
    if abs(last - first) < 0.01:
        return "hardly moves, from"
    return "falls from" if last < first else "rises from"
