"""Accuracy by samples, and beside it accuracy against measured cost with the frontier of what is best."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from fsc.arguments import renamed
from fsc.plots import drawing
from fsc.plots.drawing import GRID, INK, NAMES, TEXT, WIDE, Picture, in_order, styles_of
from fsc.plots.readings import counted, mean_sd, percent, short_percent
from fsc.runtime import public
from fsc.studies.summary import ALONE, Point, Points, check_study, frontier, gather

LEFT, RIGHT = (0.075, 0.16, 0.31, 0.74), (0.61, 0.16, 0.37, 0.74)  # the labels stand between, and serve both
COST_LABELS = {"latency_ratio": "measured latency (% of the teacher's)", "seconds": "time of the repair (s)"}
QUICKEST = 0.05  # seconds; less is drawn as this much, for a logarithmic axis has no 0
TENTHS = range(0, 101, 20)


@renamed(draw="seed")
@public
def overview(
    table: pd.DataFrame, *, method: str, samples: int, ratio: float, seed: int | None = None,
    live: pd.DataFrame | None = None, removed: str = "MACs",
) -> Picture:
    """Draw one setting among all of a study: accuracy against samples at its ratio, and the frontier.

    On the right each method and ratio has a point: the mean over the draws with the asked number of images,
    against measured latency. Without a measured latency each method has one point at the asked ratio, against
    the seconds of its repair; without seconds there is no right half. The stepped line is the frontier: no
    point is both above it and left of it. Its points are drawn stronger.

    The `numbers` of the picture hold at this setting each METHOD's accuracy, "METHOD sd", "METHOD draw" and
    "METHOD live"; the chosen one's "draws", "failed", and "latency_ratio" or "seconds"; as "frontier" its
    points (method, ratio), from the fastest to the most accurate, with ratio None for the teacher.

    Args:
        table: as from `fsc.study`; at least method, samples, ratio, seed, accuracy (NaN where a run failed).
        method: the method that stands out.
        samples, ratio: the setting that is read out; it need not have been measured.
        seed, live, removed: as in `accuracy_by_samples`.

    Raises:
        ValueError: a column is missing, or the table mixes rows that no mean may mix; says how to choose.

    >>> fsc.plots.overview(study, method="fskd", samples=50, ratio=0.5)
    """
    check_study(table)
    return draw_overview(Setting(gather(table), method, samples, ratio, seed, removed), live)


@dataclass(frozen=True)
class Setting:
    """One setting of a study that was checked and gathered."""

    points: Points
    method: str
    samples: int
    ratio: float
    seed: int | None = None
    removed: str = "MACs"

    @cached_property
    def styles(self) -> dict[str, tuple[str, str, str]]:
        return styles_of(in_order(point.method for point in self.points))

    @cached_property
    def lines(self) -> dict[str, list[Point]]:
        """Each method's measured points at this ratio, from few images to many."""
        lines: dict[str, list[Point]] = {method: [] for method in self.styles}
        for point in sorted(self.points, key=lambda point: point.samples or 0):
            if point.accuracies and (point.ratio == self.ratio or point.method == "teacher"):
                lines[point.method].append(point)
        return {method: points for method, points in lines.items() if points}

    @cached_property
    def levels(self) -> dict[str, float]:
        """The accuracies of the unrepaired student at this ratio, and of the teacher."""
        return {method: self.lines[method][0].mean for method in self.lines if method in ALONE}

    @cached_property
    def costed(self) -> list[Point]:
        """The points of the right half, from the quickest on."""
        return self.points.costed(self.samples, self.ratio)

    @cached_property
    def best(self) -> list[Point]:
        return frontier(self.costed)

    @cached_property
    def here(self) -> dict[str, Point]:
        """Each method's point at this setting."""
        return {point.method: point for point in self.points.where(samples=self.samples, ratio=self.ratio)}

    @property
    def mine(self) -> Point:
        return self.here.get(self.method, Point(self.method, self.ratio, self.samples, [], [], [], None))


def draw_overview(setting: Setting, live: pd.DataFrame | None = None) -> Picture:
    """`overview` of a study that was checked and gathered once: a panel draws it again and again."""
    live = [] if live is None else live.to_dict("records")
    against, what = setting.points.against, "top-1 accuracy against the number of images"
    figure = drawing.new_figure(10.2, 3.8) if against else drawing.new_figure()
    left, ends = _draw_by_samples(figure, setting, live)
    if against:
        what += f", and of accuracy against {COST_LABELS[against]}"
        right = _draw_by_cost(figure, setting, live)
        if against == "seconds" and "teacher" in ends:
            drawing.draw_level(right, ends["teacher"])
        for point in setting.costed:  # measured, but not at this ratio: it has no line, but a marker to name
            ends.setdefault(point.method, point.mean)
    labels = [(100 * y, *setting.styles[method]) for method, y in ends.items()]
    drawing.label_lines(left, labels, leaders=not against)
    for text in left.texts:
        text.set_fontweight("bold" if text.get_text() == setting.styles[setting.method][0] else "normal")
    sentence = _sentence(setting, live)
    return Picture(figure, f"Line chart of {what}. {sentence}", sentence, _numbers(setting, live))


def _axes(figure: Figure, box: Sequence[float], xlabel: str, title: str) -> Axes:
    """Accuracy axes with fixed places of label and title: searching for these takes most of a redraw."""
    axes = drawing.accuracy_axes(figure, box, xlabel, "")
    axes.set_title(title, fontsize=TEXT + 1, color=INK, loc="left", y=1.03)
    axes.xaxis.set_label_coords(0.5, -0.115)
    axes.yaxis.set_label_coords(-0.135, 0.5)
    axes.tick_params(left=False, bottom=False)  # the grid shows where they are
    return axes


def _draw_by_samples(figure: Figure, setting: Setting, live: list[dict]) -> tuple[Axes, dict[str, float]]:
    """Draw each method's line over the numbers of images; return the axes, and the end of each line."""
    points, samples = setting.points, setting.samples
    note = "band: ± sd" if setting.seed is None else f"lines: draw {setting.seed:.0f}"
    title = f"{short_percent(setting.ratio)} of {setting.removed} removed; {note}"
    axes = _axes(figure, LEFT if points.against else WIDE, "number of images", title)
    axes.set_yticks(TENTHS)
    measured = sorted({point.samples for point in points} - {None})
    first, last = min(samples, *measured), max(samples, *measured)
    edge = (last / first) ** 0.05 if first < last else 2
    drawing.log_scale(axes.xaxis, measured, [str(n) for n in measured])
    axes.set_xlim(first / edge, last * edge)
    axes.axvline(samples, color=INK, linewidth=1, linestyle=":")
    ends = dict(setting.levels)
    for method in sorted(setting.lines, key=lambda method: method == setting.method):  # the chosen one on top
        (_, colour, marker), bold = setting.styles[method], method == setting.method
        if method in setting.levels:
            drawing.draw_level(axes, setting.levels[method], colour)
            continue
        line = setting.lines[method]
        mean = pd.Series({point.samples: point.mean for point in line})
        one = pd.Series({point.samples: point.of(setting.seed) for point in line}, dtype=float).dropna()
        shown = mean if one.empty else one
        drawing.draw_band(axes, mean.index, mean, [point.sd for point in line], colour, 0.25 if bold else 0.1)
        look = dict(linewidth=3.5, markersize=10) if bold else dict(linewidth=1.3, markersize=6, alpha=0.65)
        axes.plot(shown.index, 100 * shown, color=colour, marker=marker, **look)
        if bold and shown is one:
            axes.plot(mean.index, 100 * mean, ":", color=colour, linewidth=1.5)
        ends[method] = float(shown.iloc[-1])
    for row in live:
        drawing.draw_star(axes, row["samples"], row["accuracy"], setting.styles[row["method"]][1])
    if not setting.mine.accuracies:
        look = dict(transform=axes.transAxes, ha="center", fontsize=TEXT, color=INK, style="italic", zorder=6)
        axes.text(0.5, 0.04, f"{setting.styles[setting.method][0]}: not measured here", **look)
    return axes, ends


def _draw_by_cost(figure: Figure, setting: Setting, live: list[dict]) -> Axes:
    """Draw accuracies against cost, and the frontier; heights are read on the axes on the left."""
    points, against, styles = setting.costed, setting.points.against, setting.styles
    each, scale = ("method and ratio", 100) if against == "latency_ratio" else ("method", 1)
    title = f"{counted([setting.samples], 'image')}: one point per {each}"
    axes = _axes(figure, RIGHT, COST_LABELS[against], title)
    axes.yaxis.set_visible(False)  # lines are quicker to draw than ticks
    axes.hlines(TENTHS, 0, 1, transform=axes.get_yaxis_transform(), color=GRID, linewidth=0.8, zorder=0.5)

    costs = np.array([point.cost for point in points]).reshape(-1, 3)  # (P, 3): median, low, high
    x, low, high = np.maximum(scale * costs.T, QUICKEST)
    mean, half = 100 * np.array([(point.mean, point.sd or 0) for point in points]).reshape(-1, 2).T
    bars = dict(colors=[styles[point.method][1] for point in points], linewidth=1, zorder=2)
    axes.vlines(x, mean - half, mean + half, **bars)  # one artist for all points is quicker than many
    axes.hlines(mean, low, high, **bars)
    best = np.array([point in setting.best for point in points], dtype=bool)
    axes.step(x[best], mean[best], where="post", color=INK, linewidth=1.2, zorder=1)
    weak, strong = dict(markersize=7, alpha=0.65, zorder=3), dict(markersize=7, markeredgecolor=INK, zorder=4)
    for method in dict.fromkeys(point.method for point in points):
        mine = np.array([point.method == method for point in points])
        bold = dict(markersize=11, alpha=1, zorder=5) if method == setting.method else {}
        for which, look in ((mine & ~best, weak | bold), (mine & best, strong | bold)):
            if which.any():
                axes.plot(x[which], mean[which], styles[method][2], color=styles[method][1], **look)
    chosen = [(p.ratio, *at) for p, *at in zip(points, x, mean, strict=True) if p.method == setting.method]
    _name_ratios(axes, chosen, setting.ratio)
    for row in live:
        if pd.notna(cost := row.get(against)):
            drawing.draw_star(axes, max(scale * cost, QUICKEST), row["accuracy"], styles[row["method"]][1])
    if against == "seconds":  # always from a tenth of a second to a hundred, to read the scale by
        first, last = min(0.04, 0.8 * low.min(initial=1)), max(110, 1.3 * high.max(initial=1))
        drawing.log_scale(axes.xaxis, drawing.log_ticks(0.1, last, (1,)))
        axes.set_xlim(first, last)
    return axes


def _name_ratios(axes: Axes, places: Sequence[tuple[float, float, float]], asked: float) -> None:
    """Write each ratio beside its point (ratio, x, y) where there is room; circle the asked one."""
    left, right = axes.get_xlim()
    beside = offset_copy(axes.transData, axes.figure, 9, -15, units="points")
    taken: list[tuple[float, float]] = []
    for ratio, x, y in sorted(places, key=lambda place: place[0] != asked):
        if ratio == asked:
            axes.plot(x, y, "o", markersize=20, markerfacecolor="none", markeredgecolor=INK, zorder=6)
        if all(abs(x - a) > 0.13 * (right - left) or abs(y - b) > 7 for a, b in taken):
            axes.text(x, y, short_percent(ratio), transform=beside, fontsize=TEXT, color=INK, zorder=6)
            taken.append((x, y))


def _numbers(setting: Setting, live: list[dict]) -> dict:
    measured = [point for point in setting.here.values() if point.accuracies]
    numbers = {point.method: point.mean for point in measured} | setting.levels
    for point in measured:
        found = {"sd": point.sd, "draw": None if setting.seed is None else point.of(setting.seed)}
        numbers |= {f"{point.method} {what}": value for what, value in found.items() if value is not None}
    numbers |= {f"{row['method']} live": float(row["accuracy"]) for row in live}
    numbers |= {"draws": len(setting.mine.accuracies), "failed": len(setting.mine.errors)}
    if setting.mine in setting.costed:
        numbers[setting.points.against] = setting.mine.cost[0]
    return numbers | {"frontier": [(point.method, point.ratio) for point in setting.best]}


def _sentence(setting: Setting, live: list[dict]) -> str:
    draw = "" if setting.seed is None else f" (draw {setting.seed:.0f})"
    who = f"{setting.styles[setting.method][0]}, {counted([setting.samples], 'image')}{draw}"
    cut = f"{short_percent(setting.ratio)} of {setting.removed} removed"
    errors, runs = setting.mine.errors, len(setting.mine.errors) + len(setting.mine.accuracies)
    failed = f", {len(errors)} of {runs} runs failed" if errors else ""
    why = f" ({errors[0]})" if any(errors[:1]) else ""
    parts = [_reached(setting) + failed + why + _cost(setting), *_best_other(setting)]
    parts += [f"{NAMES[method]} {percent(level)}" for method, level in setting.levels.items()]
    for row in live:
        name = setting.styles[row["method"]][0]
        parts.append(f"live: {name} {percent(row['accuracy'])} (draw {row['seed']:.0f})")
    return f"{who}, {cut}: {'; '.join(parts)}."


def _reached(setting: Setting) -> str:
    """The accuracy of the chosen method; where it was not measured, the settings where it was."""
    mine = setting.mine
    if mine.accuracies:
        draws, mean = counted([len(mine.accuracies)], "draw"), mean_sd(mine.mean, mine.sd)
        if setting.seed is None:
            return f"{mean} ({draws})"
        one = mine.of(setting.seed)
        return f"{'this draw not measured' if one is None else percent(one)} (all {draws}: {mean})"
    points = setting.points.where(method=setting.method)
    there = sorted((point.ratio, point.samples) for point in points if point.accuracies)
    places = [
        f"{short_percent(ratio)} with {', '.join(str(samples) for _, samples in each)} images"
        for ratio, each in groupby(there, lambda place: place[0])
    ]
    return f"not measured (it is at {'; '.join(places)})" if places else "not measured"


def _cost(setting: Setting) -> str:
    if setting.mine not in setting.costed:
        return ""
    x, low, high = setting.mine.cost
    if setting.points.against == "latency_ratio":
        cost = f"{percent(x, 0)} of the teacher's latency ({100 * low:.0f} to {percent(high, 0)})"
    else:
        cost = f"{f'{x:.3g} s' if x >= QUICKEST else f'less than {QUICKEST} s'} of repair"
    return f", at {cost}, {'on' if setting.mine in setting.best else 'below'} the frontier"


def _best_other(setting: Setting) -> list[str]:
    """The best other method at this setting; nothing where there is none."""
    means = {method: point.mean for method, point in setting.here.items() if point.accuracies}
    among, mine = f"of {len(means)} methods here", means.pop(setting.method, None)
    if not means:
        return []
    best = max(means, key=means.get)
    reading = f"{setting.styles[best][0]} {percent(means[best])}"
    if mine is None:
        return [reading]
    return [f"the best {among}" if mine >= means[best] else f"best {reading} {among}"]
