"""Panels as a reader sees them: in JupyterLab in Chromium, with keys and clicks."""

import base64
import re
from pathlib import Path

import nbformat
import pytest
from helpers.lab import save_notebook

pytest.importorskip("playwright")
from helpers.lab import open_notebook  # noqa: E402
from playwright.sync_api import expect  # noqa: E402

pytestmark = pytest.mark.browser

START_HERE = Path(__file__).resolve().parents[2] / "notebooks" / "00_start_here.ipynb"
MAKE_PANEL = """
    import time
    import numpy as np, pandas as pd
    from fsc import plots, widgets

    rows = [("teacher", np.nan, np.nan, 0, 0.921)]
    for ratio in (0.25, 0.5):
        rows.append(("none", np.nan, ratio, 0, 0.8 - ratio))
        for n in (10, 50, 100):
            rows += [("finetune", n, ratio, seed, 0.9 - ratio / n**0.3 + 0.02 * seed) for seed in range(3)]
    table = pd.DataFrame(rows, columns=["method", "samples", "ratio", "seed", "accuracy"])

    def look_up(state):
        if state["samples"] == 500:
            raise KeyError("no stored result for 500 images")
        return state

    def draw(state, live=None):
        return plots.accuracy_by_samples(table, **state, live=live)

    def recompute(state, progress):
        steps = 10 if state["samples"] == 100 else 3000
        for step in range(steps):
            time.sleep(0.02)
            progress(step + 1, steps)
        return pd.DataFrame([("finetune", state["samples"], state["ratio"], 9, 0.5)], columns=table.columns)

    panel = widgets.Panel(
        {"samples": (10, 50, 100, 500), "ratio": (0.25, 0.5)},
        look_up=look_up, draw=draw, recompute=recompute,
        cost=lambda state: "about 60 s on this CPU", seeds=(0, 1, 2),
        labels={"samples": "images", "ratio": "filters removed"}, format={"ratio": "{:.0%}".format},
    )
    panel
"""


def test_a_panel_answers_to_keys_and_clicks(tmp_path, chromium):
    path = save_notebook(tmp_path / "panel.ipynb", MAKE_PANEL, "plots.accuracy_by_ratio(table, samples=50)")
    (tmp_path / "lab").mkdir()
    with open_notebook(path, tmp_path / "lab", chromium) as notebook:
        notebook.run_all()
        panel = notebook.panel
        expect(notebook.sentence).to_contain_text("10 images, 25 % of filters removed: fine-tuned")
        notebook.shot("1-start")

        images = notebook.knob("images")
        images.focus()
        images.press("ArrowRight")
        expect(notebook.sentence).to_contain_text("50 images, 25 % of filters removed: fine-tuned")
        notebook.knob("filters removed").press("ArrowRight")
        expect(notebook.sentence).to_contain_text("50 images, 50 % of filters removed: fine-tuned")
        picture = panel.locator("img")
        alt = re.compile("^Line chart of .* 50 images, 50 % of filters removed")
        expect(picture).to_have_attribute("alt", alt)
        notebook.shot("2-knobs-moved")

        notebook.button("Draw other samples").press("Enter")
        expect(notebook.sentence).to_contain_text("50 images (draw 0), 50 % of filters removed")
        notebook.shot("3-one-draw")

        expect(panel).to_contain_text("about 60 s on this CPU")
        notebook.button("Recompute").click()
        expect(panel).to_contain_text(re.compile(r"\d+ of 3000"))
        expect(panel.locator(".noUi-target[disabled]")).to_have_count(2)
        images.press("ArrowRight")
        notebook.shot("4-running")
        notebook.button("Stop").click()
        expect(panel).to_contain_text("stopped; nothing has changed")
        expect(panel.locator(".noUi-target[disabled]")).to_have_count(0)
        expect(notebook.sentence).to_contain_text("50 images (draw 0)")  # the arrow moved nothing
        expect(notebook.sentence).not_to_contain_text("live")

        images.press("ArrowRight")
        expect(notebook.sentence).to_contain_text("100 images (draw 0)")
        notebook.button("Recompute").click()
        expect(notebook.sentence).to_contain_text("; live: fine-tuned 50.0 %.")
        notebook.shot("5-live")

        images.press("ArrowRight")
        expect(panel.get_by_role("alert")).to_contain_text("no stored result for 500 images")
        expect(picture).to_have_count(0)
        notebook.shot("6-error")
        images.press("ArrowLeft")
        expect(notebook.sentence).to_contain_text("100 images (draw 0)")
        expect(panel.get_by_role("alert")).to_have_count(0)
        expect(notebook.sentence).not_to_contain_text("live")

        alt = "Line chart of top-1 accuracy against filters"
        still = notebook.page.locator(f'.jp-OutputArea-output img[alt^="{alt}"]')
        still.scroll_into_view_if_needed()
        assert still.bounding_box()["width"] == 720
        notebook.shot("7-picture")


def test_a_picture_stored_in_a_notebook_that_nobody_ran_here_is_shown_with_its_alt_text(tmp_path, chromium):
    from fsc.plots.drawing import Picture, new_figure

    picture = Picture(new_figure(2, 1), 'A "blank" <sheet>', "Nothing is drawn.", {})
    png = base64.b64encode(picture.png()).decode()
    data = {"text/html": picture.html(), "image/png": png, "text/plain": picture.alt}
    path = save_notebook(tmp_path / "stored.ipynb", "picture")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].outputs = [nbformat.v4.new_output("display_data", data=data)]
    nbformat.write(notebook, path)
    (tmp_path / "lab").mkdir()
    with open_notebook(path, tmp_path / "lab", chromium) as notebook:
        image = notebook.page.locator(".jp-OutputArea-output img")
        expect(image).to_have_attribute("alt", 'A "blank" <sheet>')
        assert image.evaluate("image => image.naturalWidth") == 384
        assert image.bounding_box()["width"] == 192


@pytest.mark.skipif(not START_HERE.exists(), reason="the first notebook is not there yet")
def test_the_first_notebook_runs_and_its_knobs_change_the_sentence(tmp_path, chromium):
    with open_notebook(START_HERE, tmp_path, chromium) as notebook:
        notebook.run_all(seconds=300)
        handles = notebook.panel.locator(".widget-slider").get_by_role("slider")
        assert handles.count() == 2, "two knobs: the number of images and the ratio"
        for i in range(2):
            before = notebook.sentence.inner_text()
            handles.nth(i).scroll_into_view_if_needed()
            notebook.shot(f"{i}-before")
            value, largest = (handles.nth(i).get_attribute(f"aria-value{which}") for which in ("now", "max"))
            handles.nth(i).press("ArrowLeft" if value == largest else "ArrowRight")
            expect(notebook.sentence).not_to_have_text(before)
            expect(notebook.sentence).to_contain_text("teacher")
            notebook.shot(f"{i}-after")
