"""The course of a training: loss, accuracy, learning rate and speed against the step."""

import pandas as pd
from matplotlib.axes import Axes

from fsc.arguments import check_columns
from fsc.plots import drawing
from fsc.plots.drawing import COLOURS, INK, MARKERS, TEXT, Picture, new_axes, new_figure
from fsc.plots.readings import beside, percent
from fsc.runtime import public

NARROW = (0.115, 0.15, 0.41, 0.8)  # the losses, where the rate and the speed stand beside them
UPPER, LOWER = (0.785, 0.62, 0.205, 0.33), (0.785, 0.15, 0.205, 0.33)
LONE = (0.115, 0.15, 0.58, 0.75)  # room on the left for losses like 0.005


@public
def training_curve(history: pd.DataFrame, *, teacher: float | None = None) -> Picture:
    """Draw loss and test accuracy against the training step, side by side.

    The `numbers` of the picture are "first loss", "last loss", "first accuracy" and "last accuracy".

    Args:
        history: columns step, loss, accuracy (0 .. 1); NaN where one was not measured.
        teacher: the teacher's accuracy, which the training should reach.

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

    The `numbers` of the picture are "first loss", "last loss", "steps"; "first held-out", "last held-out",
    "lowest held-out" and "lowest at" (a step) of held-out images; "images per second", the median.

    Args:
        history: columns step and loss, as `fsc.report_of` gives them for a student of `fsc.mir`; optional are
            held_out_loss, lr and images_per_second. NaN where one was not measured.
        method: the method that was trained, for the colour of the loss.

    Raises:
        ValueError: a column is missing, or a loss was measured nowhere.

    >>> fsc.plots.loss_history(fsc.report_of(fsc.mir(teacher, student, few.images, held_out=0.2)))
    """
    check_columns(history, "step", "loss")
    by_step, figure = history.set_index("step"), new_figure()
    losses = [by_step[column].dropna() for column in ("loss", "held_out_loss") if column in history]
    if any(loss.empty for loss in losses):
        column = "loss" if losses[0].empty else "held_out_loss"
        raise ValueError(
            f"{column} was measured at none of {len(history)} steps.\n"
            f"  Pass a history of at least one step, or leave out the column {column}."
        )
    small = {"lr", "images_per_second"} & {*history}
    axes = new_axes(figure, NARROW if small else LONE, "training step", "loss")
    _draw_losses(axes, losses, ("fitted", COLOURS.get(method, INK), MARKERS.get(method, "o")))

    fitted, *held_out = losses
    steps = int(history.step.max())
    numbers = {"first loss": float(fitted.iloc[0]), "last loss": float(fitted.iloc[-1]), "steps": steps}
    sentence = f"In {steps} steps the loss on the fitted images goes from {_change(fitted)}"
    for loss in held_out:
        lowest, at, last = float(loss.min()), int(loss.idxmin()), float(loss.iloc[-1])
        numbers |= {"first held-out": float(loss.iloc[0]), "last held-out": last}
        numbers |= {"lowest held-out": lowest, "lowest at": at}
        sentence += f", on the held-out ones from {_change(loss)}"
        if last > 1.05 * lowest:
            sentence += f" (lowest: {lowest:.2g} at step {at})"
    if "lr" in history:
        axes, rate = new_axes(figure, UPPER, "", "learning rate"), by_step.lr.dropna()
        axes.plot(rate.index, rate, color=INK, linewidth=2, drawstyle="steps-pre")
        levels = sorted(rate.unique())
        drawing.log_scale(axes.yaxis, levels, [f"{level:.3g}" for level in levels])
    if "images_per_second" in history:
        axes = new_axes(figure, LOWER, "training step", "images a second")
        speed = by_step.images_per_second.dropna()
        axes.plot(speed.index, speed, color=INK, linewidth=2)
        axes.set_ylim(0, 1.15 * speed.max())
        numbers["images per second"] = float(speed.median())
        sentence += f"; {speed.median():.0f} images a second"
    drawn = "the loss, the learning rate and the speed" if small else "the loss"
    alt = f"Line chart of {drawn} against the training step. {sentence}."
    return Picture(figure, alt, f"{sentence}.", numbers)


def _draw_losses(axes: Axes, losses: list[pd.Series], style: tuple[str, str, str]) -> None:
    low, high = pd.concat(losses).min() / 1.2, pd.concat(losses).max() * 1.2
    if low > 0:
        ticks = drawing.log_ticks(low, high, (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,))
        drawing.log_scale(axes.yaxis, ticks)  # a loss that overfits falls by powers of ten
        axes.set_ylim(low, high)
    labels = []
    looks = [("-", *style), ("--", "held out", INK, "o")]
    for loss, (line, name, colour, marker) in zip(losses, looks, strict=False):
        look = dict(color=colour, marker=marker, markersize=7, linewidth=2)
        axes.plot(loss.index, loss, line, markevery=max(1, len(loss) // 8), **look)  # about 8 markers
        labels.append((loss.iloc[-1], name, colour, marker))
    drawing.label_lines(axes, labels, leaders=False)


def _change(values: pd.Series) -> str:
    return f"{values.iloc[0]:.2g} to {values.iloc[-1]:.2g}"


def _moves(first: float, last: float) -> str:
    """The verb for a loss or an accuracy; a change below 0.01 is no movement."""
    if abs(last - first) < 0.01:
        return "hardly moves, from"
    return "falls from" if last < first else "rises from"
