"""Accuracy against measured latency, where no other network is both faster and better, beside accuracy by samples."""

from collections.abc import Iterable, Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fsc.drawing import (
    COLOURS,
    INK,
    NAMES,
    TEXT,
    WIDE,
    Picture,
    check_columns,
    label_lines,
    new_axes,
    new_figure,
    percent,
    short_percent,
    styles_of,
)

LEFT, RIGHT = (0.075, 0.16, 0.31, 0.74), (0.61, 0.16, 0.37, 0.74)  # the labels stand between, and serve both
AGAINST = {  # what accuracy is weighed against, the first that was measured
    "latency_ratio": "measured latency (% of the teacher's)",
    "seconds": "time of the repair (s)",
}
QUICKEST = 0.05  # seconds, on a logarithmic axis: a stored 0.0 is less
ALONE = ("teacher", "none")


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
    left of it.

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
        (method, ratio) from the fastest to the most accurate.

    Raises:
        ValueError: a column is missing, or rows are mixed that no mean may mix; says how to choose.

    >>> overview(table, method="fskd", samples=50, ratio=0.5)
    """
    check_study("overview", table)
    styles = styles_of(in_order(table.method))
    against, live = measured_against(table), table[:0] if live is None else live
    points = points_of(table, against, samples=samples, ratio=ratio)
    taken = f"{short_percent(ratio)} of {removed} removed"
    drawn = f"lines: draw {draw:.0f}" if draw is not None else "band: ± sd"

    figure = new_figure(10.2, 3.8) if against else new_figure()
    axes = _axes(figure, LEFT if against else WIDE, "number of images", f"{taken}; {drawn}")
    axes.set_ylabel("top-1 accuracy (%)", fontsize=TEXT + 1, color=INK)
    ends = _draw_lines(axes, table[(table.ratio == ratio) | (table.method == "teacher")], styles, method, draw)
    axes.axvline(samples, color=INK, linewidth=1, linestyle=":")
    ticks = sorted(table.samples.dropna().unique())
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
    _draw_live(axes, live, "samples", 1, styles)
    if against:
        each = "method and ratio" if against == "latency_ratio" else "method"
        right = _axes(figure, RIGHT, AGAINST[against], f"{_images(samples)}: a point a {each}")
        _draw_frontier(right, points, against, styles, method, ratio)
        _draw_live(right, live, against, 100 if against == "latency_ratio" else 1, styles)
        if against == "seconds" and "teacher" in ends:
            right.axhline(100 * ends["teacher"], color=COLOURS["teacher"], linewidth=1.5, linestyle="--")
        for name, rows in points.groupby("method"):  # measured, but not at this ratio: no line, yet a marker to name
            ends.setdefault(name, float(rows.accuracy.mean()))
    label_lines(axes, [(100 * y, *styles[name]) for name, y in ends.items()], leaders=not against)
    for text in axes.texts:
        text.set_fontweight("bold" if text.get_text() == styles[method][0] else "normal")

    sentence, numbers = _words(table, points, against, styles, method, samples, ratio, draw, live, taken)
    alt = f"Line chart of top-1 accuracy against the number of images{', and of accuracy against ' * bool(against)}"
    alt += f"{AGAINST.get(against, '')}. {sentence}"
    return Picture(figure, alt, sentence, numbers)


def check_study(who: str, table: pd.DataFrame) -> None:
    """Refuse what is no study of one task, network and code a method: no mean may mix these.

    Raises:
        ValueError: says which column is missing, or which rows to choose and how.
    """
    check_columns(who, table, "method", "samples", "ratio", "seed", "accuracy")
    for column in ("task", "arch", "teacher", "data"):
        _check_one(who, table, column, "the study")
    for method, rows in table.groupby("method"):
        for column in ("steps", "function"):
            _check_one(who, rows, column, f"the method {method}")


def measured_against(table: pd.DataFrame) -> str | None:
    """The column of costs that accuracy can be weighed against: latency before seconds; None: neither was measured."""
    fitted = table[table.samples.notna()]
    return next((column for column in AGAINST if column in table and fitted[column].notna().any()), None)


def points_of(table: pd.DataFrame, against: str | None, *, samples: int, ratio: float) -> pd.DataFrame:
    """A row a method and ratio with so many images: accuracy and sd over its draws, x, low and high, and `on`.

    `on`: on the frontier; no other point has at most its x and at least its accuracy. Teacher and unrepaired students
    have points of latency, but none of seconds; and of seconds there are only those at this ratio, for how long a
    repair takes is a matter between methods.
    """
    columns = ["method", "ratio", "accuracy", "sd", "x", "low", "high", "on"]
    if against is None:
        return pd.DataFrame(columns=columns).astype({"on": bool})
    alone = table.method.isin(ALONE) & (against == "latency_ratio")
    rows = table[((table.samples == samples) | alone) & table.accuracy.notna() & table[against].notna()]
    rows = rows if against == "latency_ratio" else rows[rows.ratio == ratio]
    names = {"low": "latency_low", "high": "latency_high"} if against == "latency_ratio" else {}
    spread = {end: (name if name in table else against, "median") for end, name in names.items()}
    found = rows.groupby(["method", "ratio"], dropna=False, sort=False).agg(
        accuracy=("accuracy", "mean"), sd=("accuracy", "std"), x=(against, "median"),
        **{"low": (against, "min"), "high": (against, "max")} | spread,
    )  # fmt: skip
    found = found.reset_index().sort_values(["x", "accuracy"], ascending=[True, False], ignore_index=True)
    found["on"] = found.accuracy > found.accuracy.cummax().shift(fill_value=-1.0)
    return found[columns]


def in_order(methods: Iterable[str]) -> list[str]:
    """The methods of the series in their own order, then those of the reader's own."""
    methods = list(dict.fromkeys(methods))
    return [m for m in NAMES if m in methods] + [m for m in methods if m not in NAMES]


def _check_one(who: str, rows: pd.DataFrame, column: str, whose: str) -> None:
    if column in rows and rows[column].nunique() > 1:
        several = rows[column].dropna().unique()
        value = f'"{several[0]}"' if isinstance(several[0], str) else f"{several[0]:g}"
        alone = f" | study.{column}.isna()" if column in ("steps", "function") else ""
        raise ValueError(
            f'{who}: {whose} has rows of several values of "{column}": {", ".join(map(str, several))}.\n'
            f"  Pass the rows of one, as study[(study.{column} == {value}){alone}]."
        )


def _axes(figure: Figure, box: tuple, xlabel: str, title: str) -> Axes:
    axes = new_axes(figure, box, xlabel, "")
    axes.set_title(title, fontsize=TEXT + 1, color=INK, loc="left", y=1.03)  # a search for its place takes time
    axes.set_ylim(0, 102)
    axes.set_yticks(range(0, 101, 20))
    return axes


def _draw_lines(axes: Axes, rows: pd.DataFrame, styles: Mapping, chosen: str, draw: int | None) -> dict[str, float]:
    """Draw each method's accuracies, the chosen one bold and last; return where each line ends."""
    ends, groups = {}, dict(list(rows[rows.accuracy.notna()].groupby("method")))
    for method in sorted(groups, key=lambda m: (m == chosen, [*styles].index(m))):
        mine, (_, colour, marker) = groups[method], styles[method]
        if method in ALONE:
            ends[method] = float(mine.accuracy.mean())
            axes.axhline(100 * ends[method], color=colour, linewidth=1.5, linestyle="--")
            continue
        by, bold = mine.groupby("samples").accuracy, method == chosen
        mean, half = by.mean(), by.std().fillna(0)
        one = mine[mine.seed == draw].set_index("samples").accuracy.sort_index()
        shown = mean if one.empty else one
        band = dict(color=colour, alpha=0.25 if bold else 0.1, linewidth=0)
        axes.fill_between(mean.index, 100 * (mean - half), 100 * (mean + half), **band)
        look = dict(linewidth=3.5, markersize=10) if bold else dict(linewidth=1.3, markersize=6, alpha=0.65)
        axes.plot(shown.index, 100 * shown, color=colour, marker=marker, **look)
        if bold and not one.empty:
            axes.plot(mean.index, 100 * mean, ":", color=colour, linewidth=1.5)
        ends[method] = float(shown.iloc[-1])
    return ends


def _draw_frontier(
    axes: Axes, points: pd.DataFrame, against: str, styles: Mapping, chosen: str, ratio: float
) -> None:
    axes.set_yticks(range(0, 101, 20), [])  # those on the left serve both
    scale = 100 if against == "latency_ratio" else 1
    places = (scale * points[["x", "low", "high"]]).clip(lower=QUICKEST if scale == 1 else 0)
    on = points.on
    axes.step(places.x[on], 100 * points.accuracy[on], where="post", color=INK, linewidth=1.2, zorder=1)
    bars = dict(colors=[styles[method][1] for method in points.method], linewidth=1, zorder=2)  # one artist for all
    half = points.sd.fillna(0)
    axes.vlines(places.x, 100 * (points.accuracy - half), 100 * (points.accuracy + half), **bars)
    axes.hlines(100 * points.accuracy, places.low, places.high, **bars)
    for method, mine in points.groupby("method"):
        (_, colour, marker), bold, at = styles[method], method == chosen, places.loc[mine.index]
        look = dict(markersize=11) if bold else dict(markersize=7, alpha=0.65)
        axes.plot(at.x, 100 * mine.accuracy, marker, color=colour, zorder=3 + bold, **look)
        if not bold:
            continue
        for x, y, its in zip(at.x, 100 * mine.accuracy, mine.ratio, strict=True):
            beside = dict(xytext=(9, -15), textcoords="offset points", fontsize=TEXT, color=INK, zorder=6)
            axes.annotate(short_percent(its), (x, y), **beside)
            if its == ratio:
                axes.plot(x, y, "o", markersize=20, markerfacecolor="none", markeredgecolor=INK, zorder=6)
    if scale == 1:  # from a tenth of a second to a hundred there are always powers of ten to read the scale by
        low, high = min(0.04, 0.8 * places.low.min()), max(110, 1.3 * places.high.max())
        axes.set_xscale("log")
        axes.minorticks_off()
        ticks = [10.0**e for e in range(-1, 7) if 10.0**e <= high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xlim(low, high)


def _draw_live(axes: Axes, live: pd.DataFrame, x: str, scale: float, styles: Mapping) -> None:
    for row in live.itertuples():
        place = (scale * getattr(row, x, float("nan")), 100 * row.accuracy)
        if pd.notna(place[0]):
            look = dict(markersize=20, color=styles[row.method][1], markeredgecolor=INK, zorder=7)
            axes.plot(max(place[0], QUICKEST), place[1], "*", **look)


def _words(
    table: pd.DataFrame, points: pd.DataFrame, against: str | None, styles: Mapping, method: str, samples: int,
    ratio: float, draw: int | None, live: pd.DataFrame, taken: str,
) -> tuple[str, dict]:  # fmt: skip
    """The sentence and the numbers: the setting, what it reached, at what cost, and what there is to compare."""
    here = table[(table.samples == samples) & (table.ratio == ratio)]
    fitted = here[here.accuracy.notna()]
    by = fitted.groupby("method").accuracy
    means, sds = by.mean(), by.std().dropna()
    levels = table[(table.method == "teacher") | ((table.method == "none") & (table.ratio == ratio))]
    levels = levels.groupby("method").accuracy.mean().dropna()
    numbers = {m: float(v) for m, v in means.items()} | {f"{m} sd": float(v) for m, v in sds.items()}
    numbers |= {m: float(v) for m, v in levels.items()}
    one = fitted[fitted.seed == draw].groupby("method").accuracy.mean()
    numbers |= {f"{m} draw": float(v) for m, v in one.items()}
    mine = here[here.method == method]
    numbers |= {"draws": int(mine.accuracy.notna().sum()), "failed": int(mine.accuracy.isna().sum())}
    numbers["frontier"] = list(points[points.on][["method", "ratio"]].itertuples(index=False, name=None))

    which = "" if draw is None else f" (draw {draw:.0f})"
    parts = [f"{styles[method][0]}, {_images(samples)}{which}, {taken}: "]
    if method in means:
        several = f" ± {100 * sds[method]:.1f}" if method in sds else ""
        many = f"{numbers['draws']} draw{'s' * (numbers['draws'] > 1)}"
        parts += [f"{percent(means[method])}{several} ({many})"]
        if draw is not None:
            its = percent(one[method]) if method in one else "this draw not measured"
            parts[-1] = f"{its} (all {many}: {percent(means[method])}{several})"
    else:
        others = table[(table.method == method) & table.accuracy.notna()][["samples", "ratio"]].drop_duplicates()
        there = "; ".join(
            f"{short_percent(r)} with {', '.join(f'{n:.0f}' for n in sorted(g.samples))} images"
            for r, g in others.groupby("ratio")
        )
        parts += ["not measured", f" (it is at {there})" * bool(there)]
    if numbers["failed"]:
        why = f" ({mine.error.dropna().iloc[0]})" if "error" in mine and mine.error.notna().any() else ""
        parts += [f", {numbers['failed']} of {len(mine)} runs failed{why}"]
    at = points[(points.method == method) & (points.ratio == ratio)]
    if len(at):
        at = at.iloc[0]
        numbers[against] = float(at.x)
        share = f"{percent(at.x, 0)} of the teacher's latency ({100 * at.low:.0f} to {percent(at.high, 0)})"
        took = f"{at.x:.3g} s" if at.x >= QUICKEST else f"less than {QUICKEST} s"
        spent = share if against == "latency_ratio" else f"{took} of repair"
        parts += [f", at {spent}, {'on' if at.on else 'below'} the frontier"]
    if method in means and len(means) > 1:
        rest = means.drop(method)
        best = "the best" if means[method] >= rest.max() else f"best {styles[rest.idxmax()][0]} {percent(rest.max())}"
        parts += [f"; {best} of {len(means)} methods here"]
    elif len(means):
        parts += [f"; {styles[means.idxmax()][0]} {percent(means.max())}"] * (method not in means)
    parts += [f"; {NAMES[m]} {percent(levels[m])}" for m in ("none", "teacher") if m in levels]
    for row in live.itertuples():
        numbers[f"{row.method} live"] = float(row.accuracy)
        parts += [f"; live: {styles[row.method][0]} {percent(row.accuracy)} (draw {row.seed:.0f})"]
    return "".join(parts) + ".", numbers


def _images(samples: float) -> str:
    return f"{samples:.0f} image{'s' * (samples != 1)}"
