"""Pictures have escaped alt text, are deleted with their last reference, and have colours to tell apart."""

import base64
import gc
import itertools
import weakref

import IPython.display
import nbformat
import numpy as np
import pandas as pd
import pytest

from fsc import plots
from fsc.plots.drawing import OTHERS


def chart(method: str = "finetune") -> plots.Picture:
    rows = [(method, samples, 0.5, 0, 0.5) for samples in (10, 50)]
    table = pd.DataFrame(rows, columns=["method", "samples", "ratio", "seed", "accuracy"])
    return plots.accuracy_by_samples(table, ratio=0.5, samples=50)


def test_alt_text_is_escaped():
    page = chart("\"><script>alert(1)</script>").html()
    assert "<script>" not in page and "&lt;script&gt;" in page and "&quot;&gt;" in page
    assert page.count("<") == 1
    assert page.startswith('<img alt="Line chart of top-1 accuracy against number of images.')


@pytest.fixture
def shown(monkeypatch) -> list:
    """What is displayed, as the outputs of a cell."""
    outputs = []

    def display(data, *, metadata=None, raw):
        outputs.append(nbformat.v4.new_output("display_data", data=data, metadata=metadata or {}))

    monkeypatch.setattr(IPython.display, "display", display)
    return outputs


def test_a_picture_shows_itself_with_alt_text_and_the_sentence_under_it(shown):
    picture = chart()
    picture._ipython_display_()
    image, line = shown
    assert image.data["text/html"] == picture.html() and image.data["text/plain"] == picture.alt
    assert base64.b64decode(image.data["image/png"]) == picture.png()
    assert image.metadata["image/png"] == {"alt": picture.alt, "width": 720, "height": 384}
    assert line.data == {"text/plain": picture.sentence, "text/html": f"<p>{picture.sentence}</p>"}
    assert repr(picture) == f"<Picture: {picture.sentence}>"


def test_the_page_made_by_nbconvert_has_the_alt_text(shown):
    nbconvert = pytest.importorskip("nbconvert")
    picture = chart()
    picture._ipython_display_()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=shown)])
    nbformat.validate(notebook)
    page, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    assert f'alt="{picture.alt}"' in page


def test_a_figure_is_gone_when_its_picture_is():
    picture = chart()
    picture.png()
    figure = weakref.ref(picture.figure)
    del picture
    gc.collect()
    assert figure() is None


# The simulations of Viénot and Brettel, refitted by Machado, Oliveira and Fernandes (2009), on linear sRGB.
SIGHT = {
    "all cones": np.eye(3),
    "no red cones": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998],
    ],
    "no green cones": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881],
    ],
    "no blue cones": [
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039],
    ],
}
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175],
          [0.0193339, 0.119192, 0.9503041]]


def linear(colour: str) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = np.array(TO_XYZ) @ rgb.clip(0, 1) / [0.95047, 1, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SIGHT)
def test_no_two_methods_look_alike_whatever_cones_one_has(sight):
    colours = plots.COLOURS | {f"own {i}": colour for i, (colour, _) in enumerate(OTHERS)}
    seen = {method: lab(np.array(SIGHT[sight]) @ linear(colour)) for method, colour in colours.items()}
    for (a, x), (b, y) in itertools.combinations(seen.items(), 2):
        assert np.linalg.norm(x - y) > 10, f"{a} and {b}"  # 2.3 is a difference one can just see
    markers = [*plots.MARKERS.values(), *(marker for _, marker in OTHERS)]
    assert len(set(markers)) == len(markers), "the marker tells them apart without any colour"
