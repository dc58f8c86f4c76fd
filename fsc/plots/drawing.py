"""What every figure function returns, a `Picture`, and the looks that all figures share."""

import base64
import html
import io
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

STYLES = {  # method: (name in words, colour, marker); the colours are those of Okabe and Ito, and some dark ones
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
OTHERS = (("#9922EE", "<"), ("#5B7083", "d"), ("#880000", "8"))  # methods of the reader's own, in turn

INCH = 96  # CSS pixels; figures are drawn with twice as many, for sharp screens and projectors
TEXT = 11  # points: legible from the back of a room
INK, GRID = "#222222", "#DDDDDD"
WIDE = (0.095, 0.15, 0.6, 0.75)  # axes that leave the right of the figure for the names of the lines


class Picture(NamedTuple):
    """A figure that pyplot does not know of, and what it says: as alt text, as one sentence, as numbers.

    As the last line of a cell it shows itself, with the sentence under it.
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
            f'style="max-width: 100%; height: auto" src="data:image/png;base64,{_base64(self.png())}">'
        )

    def _ipython_display_(self) -> None:
        # HTML, because neither JupyterLab nor nbconvert shows the alt text of a PNG; a PNG as well, for what shows no
        # <img> of an HTML output. The sentence is an output of its own, so that it is there in either case.
        from IPython.display import display

        width, height = self.size
        metadata = {"image/png": {"alt": self.alt, "width": width, "height": height}}
        page, png = self.html(), _base64(self.png())
        display({"text/html": page, "image/png": png, "text/plain": self.alt}, metadata=metadata, raw=True)
        display({"text/html": f"<p>{html.escape(self.sentence)}</p>", "text/plain": self.sentence}, raw=True)


def new_figure(width: float = 7.5, height: float = 4.0) -> Figure:
    """A figure of so many inches that no pyplot knows of: when nothing refers to it any more, it is gone."""
    return Figure(figsize=(width, height), dpi=2 * INCH)


def new_axes(figure: Figure, box: Sequence[float], xlabel: str, ylabel: str, title: str = "") -> Axes:
    """Axes at (left, bottom, width, height), in parts of the figure, with a grid and text that can be projected."""
    axes = figure.add_axes(box)
    axes.set_xlabel(xlabel, fontsize=TEXT + 1, color=INK)
    axes.set_ylabel(ylabel, fontsize=TEXT + 1, color=INK)
    axes.set_title(title, fontsize=TEXT + 1, color=INK, loc="left")
    axes.tick_params(labelsize=TEXT, labelcolor=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def styles_of(methods: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Method -> (name in words, colour, marker), for methods of the reader's own too."""
    own = itertools.cycle(OTHERS)
    return {m: STYLES[m] if m in STYLES else (str(m), *next(own)) for m in dict.fromkeys(methods)}


def label_lines(axes: Axes, labels: Iterable[tuple[float, str, str, str]], *, leaders: bool = True) -> None:
    """Name lines where they end, right of the axes: (y, text, colour, marker), moved apart where they would overlap.

    The marker bears the line's colour and the text is dark, so that light colours do not cost legibility. A label that
    was moved has a leader to the height it belongs to, unless told otherwise.
    """
    axes.get_xlim(), axes.get_ylim()  # the limits have to be final before anything is measured by them
    to_axes = axes.transData + axes.transAxes.inverted()
    apart = 1.28 * TEXT / (72 * axes.get_position().height * axes.figure.get_figheight())
    labels = sorted((to_axes.transform((axes.get_xlim()[1], y))[1], *rest) for y, *rest in labels)
    places = []
    for height, *_ in labels:
        places.append(max(height, places[-1] + apart if places else 0.0))
    for i in range(len(places) - 1, -1, -1):  # what was pushed out at the top comes down again
        places[i] = min(places[i], places[i + 1] - apart if i + 1 < len(places) else 1.0)
    whole = dict(transform=axes.transAxes, clip_on=False)
    for place, (height, text, colour, marker) in zip(places, labels, strict=True):
        if leaders and abs(place - height) > 0.01:
            axes.plot((1.0, 1.025), (height, place), color=colour, linewidth=1, **whole)
        axes.plot(1.045, place, marker=marker, markersize=8, color=colour, **whole)
        text = text if len(text) <= 20 else f"…{text[-19:]}"  # of a long name of a module the end says more
        axes.text(1.075, place, text, fontsize=TEXT, color=INK, va="center", transform=axes.transAxes)


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def short_percent(share: float) -> str:
    """A ratio as a reader would write it: 50 %, 12.5 %."""
    return f"{100 * share:.4g} %"


def in_order(methods: Iterable[str]) -> list[str]:
    """The methods of the series in their own order, then those of the reader's own."""
    methods = list(dict.fromkeys(methods))
    return [m for m in NAMES if m in methods] + [m for m in methods if m not in NAMES]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
