"""Accuracy against measured latency, where no other network is both faster and better, beside accuracy by samples."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from fsc.plots.drawing import (
    COLOURS,
    GRID,
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
from fsc.studies.summary import ALONE, Point, Points, check_study, frontier, gather

LEFT, RIGHT = (0.075, 0.16, 0.31, 0.74), (0.61, 0.16, 0.37, 0.74)  # the labels stand between, and serve both
AGAINST = {"latency_ratio": "measured latency (% of the teacher's)", "seconds": "time of the repair (s)"}
QUICKEST = 0.05  # seconds, on a logarithmic axis: a stored 0.0 is less
TENTHS = range(0, 101, 20)


def overview(
    table: pd.DataFrame,
    *,
    method: str,
    samples: int,
    ratio: float,
    draw: int | None = None,
    live: pd.DataFrame | None = None,
    removed: str = "MACs",
) -> Picture:
    """One setting among all of a study: left, accuracy against samples, at its ratio; right, the frontier.

    On the right each method and ratio has a point, with the asked number of images: the mean of its draws, against
    measured latency. Where no latency was measured, each method has one, at the asked ratio, against the seconds of its
    repair; where neither was, there is no right half. The stepped line is the frontier: no point is both above it and
    left of it; points on it are drawn stronger.

    Args:
        table: as from `fsc.study`; at least method, samples, ratio, seed and accuracy. Failed runs: accuracy NaN.
        method: the one that stands out.
        samples, ratio: the setting that is read out; it need not have been measured.
        draw: the seed of one draw, which the lines on the left then follow; None: the means.
        live: rows like those of the table, computed just now: drawn beside it.
        removed: what the ratio counts, in words.

    Returns:
        A picture whose `numbers` hold, at this setting, each METHOD's accuracy, "METHOD sd", "METHOD draw" and "METHOD
        live"; the chosen one's "draws", "failed" and "latency_ratio" or "seconds"; and "frontier", a list of
        (method, ratio) from the fastest to the most accurate; the teacher's ratio is None.

    Raises:
        ValueError: a column is missing, or rows are mixed that no mean may mix; says how to choose.

    >>> overview(table, method="fskd", samples=50, ratio=0.5)
    """
    check_study(table)
    setting = dict(method=method, samples=samples, ratio=ratio, draw=draw)
    return draw_overview(gather(table), **setting, live=live, removed=removed)


def draw_overview(
    points: Points, *, method: str, samples: int, ratio: float, draw: int | None = None,
    live: pd.DataFrame | None, removed: str,
) -> Picture:  # fmt: skip
    """`overview`, of a study that was checked and gathered before: what a panel draws again and again."""
    styles = styles_of(in_order(point.method for point in points))
    against, costed = points.against, points.costed(samples, ratio)
    live = [] if live is None else live.to_dict("records")
    taken = f"{short_percent(ratio)} of {removed} removed"
    drawn = f"lines: draw {draw:.0f}" if draw is not None else "band: ± sd"

    figure = new_figure(10.2, 3.8) if against else new_figure()
    axes = _axes(figure, LEFT if against else WIDE, "number of images", f"{taken}; {drawn}")
    axes.set_ylabel("top-1 accuracy (%)", fontsize=TEXT + 1, color=INK)
    axes.yaxis.set_label_coords(-0.135, 0.5)
    _by_samples(axes, {point.samples for point in points} - {None}, samples)
    ends = _draw_lines(axes, points, styles, method, ratio, draw)
    _draw_live(axes, live, "samples", 1, styles)
    if not any(point.accuracies for point in points.where(method=method, samples=samples, ratio=ratio)):
        said = dict(transform=axes.transAxes, ha="center", fontsize=TEXT, color=INK, style="italic", zorder=6)
        axes.text(0.5, 0.04, f"{styles[method][0]}: not measured here", **said)
    if against:
        each = "method and ratio" if against == "latency_ratio" else "method"
        right = _axes(figure, RIGHT, AGAINST[against], f"{_images(samples)}: a point a {each}", bare=True)
        _draw_frontier(right, costed, against, styles, method, ratio)
        _draw_live(right, live, against, 100 if against == "latency_ratio" else 1, styles)
        if against == "seconds" and "teacher" in ends:
            right.axhline(100 * ends["teacher"], color=COLOURS["teacher"], linewidth=1.5, linestyle="--")
        for point in costed:  # measured, but not at this ratio: no line, yet a marker to name
            ends.setdefault(point.method, point.mean)
    label_lines(axes, [(100 * y, *styles[name]) for name, y in ends.items()], leaders=not against)
    for text in axes.texts:
        text.set_fontweight("bold" if text.get_text() == styles[method][0] else "normal")

    sentence, numbers = _words(points, costed, styles, method, samples, ratio, draw, live, taken)
    alt = f"Line chart of top-1 accuracy against the number of images{', and of accuracy against ' * bool(against)}"
    alt += f"{AGAINST.get(against, '')}. {sentence}"
    return Picture(figure, alt, sentence, numbers)


def _axes(figure: Figure, box: tuple, xlabel: str, title: str, *, bare: bool = False) -> Axes:
    """Axes for percentages; `bare`: its height is to be read on the axes beside it.

    What matplotlib would search a place for, label and title, is told its place, and a bare axis has lines in place of
    ticks: most of a figure's time goes into these.
    """
    axes = new_axes(figure, box, xlabel, "")
    axes.set_title(title, fontsize=TEXT + 1, color=INK, loc="left", y=1.03)
    axes.xaxis.set_label_coords(0.5, -0.115)
    axes.tick_params(left=False, bottom=False)  # the grid shows where they are
    axes.set_ylim(0, 102)
    if bare:
        axes.yaxis.set_visible(False)
        axes.hlines(TENTHS, 0, 1, transform=axes.get_yaxis_transform(), color=GRID, linewidth=0.8, zorder=0.5)
    else:
        axes.set_yticks(TENTHS)
    return axes


def _by_samples(axes: Axes, measured: set[int], samples: int) -> None:
    """A logarithmic scale with the measured numbers of images, and a line where the asked one is."""
    ticks = sorted(measured | {samples})
    edge = (ticks[-1] / ticks[0]) ** 0.05 if len(ticks) > 1 else 2
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xlim(ticks[0] / edge, ticks[-1] * edge)
    axes.set_xticks(sorted(measured), [str(tick) for tick in sorted(measured)])
    axes.axvline(samples, color=INK, linewidth=1, linestyle=":")


def _draw_lines(
    axes: Axes, points: Points, styles: Mapping, chosen: str, ratio: float, draw: int | None
) -> dict[str, float]:
    """Draw each method's accuracies, the chosen one bold and last; return where each line ends."""
    lines: dict[str, list[Point]] = {}
    for point in [*points.where(ratio=ratio), *points.where(method="teacher")]:
        if point.accuracies:
            lines.setdefault(point.method, []).append(point)
    ends, bands, shades = {}, [], []
    for method in sorted(lines, key=lambda m: (m == chosen, [*styles].index(m))):
        (_, colour, marker), bold = styles[method], method == chosen
        if method in ALONE:
            ends[method] = lines[method][0].mean
            axes.axhline(100 * ends[method], color=colour, linewidth=1.5, linestyle="--")
            continue
        mine = sorted(lines[method], key=lambda point: point.samples)
        x, mean, half = np.array([(p.samples, 100 * p.mean, 100 * (p.sd or 0)) for p in mine]).T
        bands.append(np.column_stack([[*x, *x[::-1]], [*(mean - half), *(mean + half)[::-1]]]))
        shades.append(to_rgba(colour, 0.25 if bold else 0.1))
        one = [(p.samples, 100 * p.of(draw)) for p in mine if p.of(draw) is not None]
        shown = np.array(one).T if one else (x, mean)
        look = dict(linewidth=3.5, markersize=10) if bold else dict(linewidth=1.3, markersize=6, alpha=0.65)
        axes.plot(*shown, color=colour, marker=marker, **look)
        if bold and one:
            axes.plot(x, mean, ":", color=colour, linewidth=1.5)
        ends[method] = float(shown[1][-1]) / 100
    axes.add_collection(PolyCollection(bands, facecolors=shades, linewidths=0), autolim=False)  # one artist for all
    return ends


def _draw_frontier(
    axes: Axes, points: Sequence[Point], against: str, styles: Mapping, chosen: str, ratio: float
) -> None:
    scale, least = (100, 0) if against == "latency_ratio" else (1, QUICKEST)
    x, low, high = np.array([p.cost for p in points]).reshape(-1, 3).T.clip(min=least / scale) * scale
    mean, half = 100 * np.array([(p.mean, p.sd or 0) for p in points]).reshape(-1, 2).T
    best = frontier(points)
    on = np.array([p in best for p in points], dtype=bool)
    bars = dict(colors=[styles[p.method][1] for p in points], linewidth=1, zorder=2)
    axes.vlines(x, mean - half, mean + half, **bars)
    axes.hlines(mean, low, high, **bars)
    axes.step(x[on], mean[on], where="post", color=INK, linewidth=1.2, zorder=1)
    for method in dict.fromkeys(p.method for p in points):
        (_, colour, marker), bold = styles[method], method == chosen
        mine = np.array([p.method == method for p in points])
        for which, look in ((mine & ~on, dict(alpha=0.65)), (mine & on, dict(markeredgecolor=INK, zorder=4))):
            look = dict(markersize=11 if bold else 7, zorder=3) | look | ({"alpha": 1, "zorder": 5} if bold else {})
            if which.any():
                axes.plot(x[which], mean[which], marker, color=colour, **look)
    _name_ratios(axes, [(p.ratio, *at) for p, *at in zip(points, x, mean, strict=True) if p.method == chosen], ratio)
    if against == "seconds":  # from a tenth of a second to a hundred there are powers of ten to read the scale by
        ends = min(0.04, 0.8 * low.min(initial=1)), max(110, 1.3 * high.max(initial=1))
        axes.set_xscale("log")
        axes.minorticks_off()
        ticks = [10.0**e for e in range(-1, 7) if 10.0**e <= ends[1]]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xlim(*ends)


def _name_ratios(axes: Axes, places: Sequence[tuple[float, float, float]], asked: float) -> None:
    """Write each ratio beside its point (ratio, x, y), the asked one with a ring; leave out what would overlap."""
    left, right = axes.get_xlim()
    beside = offset_copy(axes.transData, axes.figure, 9, -15, units="points")
    taken: list[tuple[float, float]] = []
    for ratio, x, y in sorted(places, key=lambda place: place[0] != asked):
        if ratio == asked:
            axes.plot(x, y, "o", markersize=20, markerfacecolor="none", markeredgecolor=INK, zorder=6)
        if all(abs(x - a) > 0.13 * (right - left) or abs(y - b) > 7 for a, b in taken):
            axes.text(x, y, short_percent(ratio), transform=beside, fontsize=TEXT, color=INK, zorder=6)
            taken.append((x, y))


def _draw_live(axes: Axes, live: Sequence[Mapping], x: str, scale: float, styles: Mapping) -> None:
    for row in live:
        place = scale * row.get(x, float("nan"))
        if pd.notna(place):
            look = dict(markersize=20, color=styles[row["method"]][1], markeredgecolor=INK, zorder=7)
            axes.plot(max(place, QUICKEST), 100 * row["accuracy"], "*", **look)


def _words(
    points: Points, costed: Sequence[Point], styles: Mapping, method: str, samples: int, ratio: float,
    draw: int | None, live: Sequence[Mapping], taken: str,
) -> tuple[str, dict]:  # fmt: skip
    """The sentence and the numbers: the setting, what it reached, at what cost, and what there is to compare."""
    here = {point.method: point for point in points.where(samples=samples, ratio=ratio)}
    mine = here.get(method, Point(method, ratio, samples, [], [], [], None))
    means = {name: point.mean for name, point in here.items() if point.accuracies}
    ones = {name: point.of(draw) for name, point in here.items() if draw is not None}
    levels = [*points.where(method="none", ratio=ratio), *points.where(method="teacher")]
    levels = {point.method: point.mean for point in levels if point.accuracies}
    numbers = means | {f"{name} sd": here[name].sd for name in means if here[name].sd is not None} | levels
    numbers |= {f"{name} draw": one for name, one in ones.items() if one is not None}
    numbers |= {"draws": len(mine.accuracies), "failed": len(mine.errors)}
    numbers["frontier"] = [(point.method, point.ratio) for point in frontier(costed)]

    which = "" if draw is None else f" (draw {draw:.0f})"
    parts = [f"{styles[method][0]}, {_images(samples)}{which}, {taken}: "]
    if method in means:
        several = "" if mine.sd is None else f" ± {100 * mine.sd:.1f}"
        many = f"{numbers['draws']} draw{'s' * (numbers['draws'] > 1)}"
        if draw is None:
            parts += [f"{percent(mine.mean)}{several} ({many})"]
        else:
            its = "this draw not measured" if ones[method] is None else percent(ones[method])
            parts += [f"{its} (all {many}: {percent(mine.mean)}{several})"]
    else:
        parts += ["not measured", _elsewhere(points.where(method=method))]
    if mine.errors:
        why = f" ({mine.errors[0]})" * bool(mine.errors[0])
        parts += [f", {len(mine.errors)} of {len(mine.errors) + len(mine.accuracies)} runs failed{why}"]
    if mine in costed:
        numbers[points.against] = mine.cost[0]
        parts += [f", at {_cost(mine, points.against)}, {'on' if mine in frontier(costed) else 'below'} the frontier"]
    rest = {name: mean for name, mean in means.items() if name != method}
    if rest:
        best = max(rest, key=rest.get)
        named = f"{styles[best][0]} {percent(rest[best])}"
        if method in means:
            named = "the best" if means[method] >= rest[best] else f"best {named}"
            named += f" of {len(means)} methods here"
        parts += [f"; {named}"]
    parts += [f"; {NAMES[name]} {percent(level)}" for name, level in levels.items()]
    for row in live:
        numbers[f"{row['method']} live"] = float(row["accuracy"])
        parts += [f"; live: {styles[row['method']][0]} {percent(row['accuracy'])} (draw {row['seed']:.0f})"]
    return "".join(parts) + ".", numbers


def _cost(point: Point, against: str) -> str:
    x, low, high = point.cost
    if against == "latency_ratio":
        return f"{percent(x, 0)} of the teacher's latency ({100 * low:.0f} to {percent(high, 0)})"
    return f"{f'{x:.3g} s' if x >= QUICKEST else f'less than {QUICKEST} s'} of repair"


def _elsewhere(points: Sequence[Point]) -> str:
    """Where else a method was measured: its numbers of images at each ratio."""
    there: dict[float, list[int]] = {}
    for point in sorted(points, key=lambda point: (point.ratio, point.samples)):
        if point.accuracies:
            there.setdefault(point.ratio, []).append(point.samples)
    said = [f"{short_percent(r)} with {', '.join(map(str, ns))} images" for r, ns in there.items()]
    return f" (it is at {'; '.join(said)})" * bool(said)


def _images(samples: int) -> str:
    return f"{samples} image{'s' * (samples != 1)}"
