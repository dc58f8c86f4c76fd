"""`Picture`, which every figure function returns, and the look that all figures share."""

import base64
import html
import io
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

STYLES = {  # method: (name in words, colour, marker); colours of Okabe and Ito, and some dark ones
    "finetune": ("fine-tuned", "#D55E00", "o"),
    "kd": ("distilled", "#CC79A7", "s"),
    "fskd": ("FSKD", "#0072B2", "^"),
    "fskd-published": ("FSKD as published", "#332288", ">"),
    "fskd-sgd": ("FSKD-SGD", "#56B4E9", "v"),
    "mir": ("MiR", "#009E73", "D"),
    "fskd+mir": ("FSKD + MiR", "#882255", "P"),
    "practise-closed": ("PRACTISE without MiR", "#999933", "H"),
    "practise": ("PRACTISE", "#E69F00", "h"),
    "bn": ("BN re-estimated", "#775533", "p"),
    "none": ("unrepaired", "#767676", "X"),
    "teacher": ("teacher", "#000000", "*"),
}
NAMES = {method: name for method, (name, _, _) in STYLES.items()}
COLOURS = {method: colour for method, (_, colour, _) in STYLES.items()}
MARKERS = {method: marker for method, (_, _, marker) in STYLES.items()}
OTHERS = (("#9922EE", "<"), ("#5B7083", "d"), ("#880000", "8"))  # for the reader's own methods, in turn

INCH = 96  # CSS pixels; figures are drawn with twice as many, for sharp screens and projectors
TEXT = 11  # points: legible from the back of a room
INK, GRID = "#222222", "#DDDDDD"
PAPER = dict(facecolor="white", edgecolor="none", alpha=0.8)  # behind text that may lie on a line
WIDE = (0.095, 0.15, 0.6, 0.75)  # axes that leave the right of the figure for the names of the lines


class Picture(NamedTuple):
    """A figure with what it says: as alt text, as one sentence, as numbers.

    As the last line of a cell it shows itself, with the sentence under it. pyplot does not know the figure.
    """

    figure: Figure
    alt: str
    sentence: str
    numbers: dict

    def __repr__(self) -> str:
        return f"<Picture: {self.sentence}>"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height on the page, in CSS pixels."""
        width, height = self.figure.get_size_inches()
        return round(width * INCH), round(height * INCH)

    def png(self) -> bytes:
        """The picture as the bytes of a PNG file, with two pixels per CSS pixel."""
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        image, out = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"), io.BytesIO()
        if not any(axes.images for axes in self.figure.axes):
            # A chart has few colours: with a palette it takes a quarter of the bytes, in half the time.
            image = image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        image.save(out, "png")
        return out.getvalue()

    def html(self) -> str:
        """An <img> that carries the picture and its alt text."""
        width, height = self.size
        return (
            f'<img alt="{html.escape(self.alt)}" width="{width}" height="{height}" '
            f'style="max-width: 100%; height: auto" src="data:image/png;base64,{self._base64()}">'
        )

    def _base64(self) -> str:
        return base64.b64encode(self.png()).decode()

    def _ipython_display_(self) -> None:
        # HTML, because neither JupyterLab nor nbconvert shows the alt text of a PNG; and a PNG, because some
        # programs show no <img> of an HTML output. The sentence is a second output, so that both have it.
        from IPython.display import display

        width, height = self.size
        metadata = {"image/png": {"alt": self.alt, "width": width, "height": height}}
        image = {"text/html": self.html(), "image/png": self._base64(), "text/plain": self.alt}
        display(image, metadata=metadata, raw=True)
        display({"text/html": f"<p>{html.escape(self.sentence)}</p>", "text/plain": self.sentence}, raw=True)


def new_figure(width: float = 7.5, height: float = 4.0) -> Figure:
    """An empty figure, in inches. pyplot does not keep it: it is deleted with its last reference."""
    return Figure(figsize=(width, height), dpi=2 * INCH)


def new_axes(figure: Figure, box: Sequence[float], xlabel: str, ylabel: str, title: str = "") -> Axes:
    """Axes with a grid and large text, at (left, bottom, width, height) as shares of the figure."""
    axes = figure.add_axes(box)
    axes.set_xlabel(xlabel, fontsize=TEXT + 1, color=INK)
    axes.set_ylabel(ylabel, fontsize=TEXT + 1, color=INK)
    axes.set_title(title, fontsize=TEXT + 1, color=INK, loc="left")
    axes.tick_params(labelsize=TEXT, labelcolor=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def accuracy_axes(figure: Figure, box: Sequence[float], xlabel: str, title: str) -> Axes:
    """`new_axes` for accuracies in percent."""
    axes = new_axes(figure, box, xlabel, "top-1 accuracy (%)", title)
    axes.set_ylim(0, 102)
    return axes


def draw_level(axes: Axes, share: float, colour: str = COLOURS["teacher"], **more) -> None:
    """Draw a dashed line over the whole width: a share that does not depend on x, such as the teacher's."""
    axes.axhline(100 * share, color=colour, linewidth=1.5, linestyle="--", **more)


def draw_band(axes: Axes, x: Sequence, mean: Sequence, sd: Sequence, colour: str, alpha: float) -> None:
    """Shade mean ± sd along x; a single draw, with sd NaN, has no band."""
    mean, sd = 100 * np.asarray(mean), 100 * np.nan_to_num(np.asarray(sd, dtype=float))
    axes.fill_between(x, mean - sd, mean + sd, facecolor=colour, alpha=alpha, linewidth=0)


def draw_points(axes: Axes, x, accuracy, sd, colour: str, marker: str, *, xerr=None) -> None:
    """Draw markers with error bars: ± sd vertically, `xerr` horizontally."""
    sd = 100 * np.nan_to_num(np.asarray(sd, dtype=float))
    look = dict(color=colour, marker=marker, markersize=9, linewidth=2, elinewidth=1, capsize=3)
    axes.errorbar(x, 100 * accuracy, sd, xerr, **look)


def draw_star(axes: Axes, x: float, accuracy: float, colour: str) -> None:
    """Draw a result that was computed just now."""
    axes.plot(x, 100 * accuracy, "*", markersize=20, color=colour, markeredgecolor=INK, zorder=7)
    above = dict(textcoords="offset points", fontsize=TEXT, color=INK, zorder=8)
    axes.annotate("live", (x, 100 * accuracy), (11, -14), **above).set_bbox(dict(PAPER, pad=1))


def log_ticks(low: float, high: float, *steps: Sequence[float]) -> list[float]:
    """Round numbers for a log scale: of the first of `steps` that gives at most 8 of them, or of the last."""
    for each in steps:
        ticks = [t for t in (step * 10.0**e for e in range(-9, 10) for step in each) if low <= t <= high]
        if len(ticks) <= 8:
            break
    return ticks


def log_scale(axis: Axis, ticks: Sequence[float], words: Sequence[str] | None = None) -> None:
    """Put a log scale on an axis, with ticks at these places alone."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_ticks(ticks, words or [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()


def styles_of(methods: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Method -> (name in words, colour, marker); the reader's own methods get the looks of OTHERS."""
    own = itertools.cycle(OTHERS)
    return {m: STYLES[m] if m in STYLES else (str(m), *next(own)) for m in dict.fromkeys(methods)}


def label_lines(axes: Axes, labels: Iterable[tuple[float, str, str, str]], *, leaders: bool = True) -> None:
    """Name lines at their right end: (y, text, colour, marker) each, moved apart where they would overlap.

    The marker has the line's colour, but the text is dark, so that it can be read where the colour is light.
    With `leaders`, a short line leads from a moved label to its height.
    """
    right = axes.get_xlim()[1]  # asking for the limits makes them final, before heights are measured by them
    axes.get_ylim()
    to_axes = axes.transData + axes.transAxes.inverted()
    apart = 1.28 * TEXT / (72 * axes.get_position().height * axes.figure.get_figheight())
    labels = sorted((to_axes.transform((right, y))[1], *rest) for y, *rest in labels)
    places, low, high = [], 0.0, 1.0
    for height, *_ in labels:  # from below: each one above the one before
        places.append(max(height, low))
        low = places[-1] + apart
    for i in reversed(range(len(places))):  # from above: labels beyond the top come down again
        places[i] = min(places[i], high)
        high = places[i] - apart
    whole = dict(transform=axes.transAxes, clip_on=False)
    for place, (height, text, colour, marker) in zip(places, labels, strict=True):
        if leaders and abs(place - height) > 0.01:
            axes.plot((1.0, 1.025), (height, place), color=colour, linewidth=1, **whole)
        axes.plot(1.045, place, marker=marker, markersize=8, color=colour, **whole)
        text = text if len(text) <= 20 else f"…{text[-19:]}"  # the end of a module's long name says more
        axes.text(1.075, place, text, fontsize=TEXT, color=INK, va="center", transform=axes.transAxes)


def in_order(methods: Iterable[str]) -> list[str]:
    """The methods of STYLES in that order, then the reader's own."""
    return sorted(dict.fromkeys(methods), key=lambda method: [*NAMES, method].index(method))
