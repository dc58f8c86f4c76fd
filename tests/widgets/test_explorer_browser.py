"""The explorer in JupyterLab: knobs by keyboard; Recompute by mouse is stopped, ends, or fails in words."""

import itertools
import re

import pytest

pytest.importorskip("playwright")
from helpers.lab import ROOT, open_notebook, save_notebook  # noqa: E402
from playwright.sync_api import expect  # noqa: E402

pytestmark = pytest.mark.browser

MAKE_EXPLORER = f"""
    import sys
    sys.path.insert(0, {str(ROOT / "tests")!r})
    import warnings
    warnings.simplefilter("ignore")
    from helpers.toy_study import mine, toy_net, toy_study, toy_task
    from fsc.widgets import Explorer

    asked = dict(methods=["kd", "bn", mine], samples=[6, 12], ratios=[0.3, 0.5], seeds=[0, 1], steps=2)
    study = toy_study("study.csv", **asked)
    study.loc[study.method == "kd", "steps"] = 100_000
    explorer = Explorer(study, toy_task(), toy_net())
    explorer
"""


def test_the_explorer_answers_to_keys_stops_recomputes_and_says_what_fails(tmp_path, chromium):
    path = save_notebook(tmp_path / "explorer.ipynb", MAKE_EXPLORER)
    (tmp_path / "lab").mkdir()
    with open_notebook(path, tmp_path / "lab", chromium) as notebook:
        notebook.run_all()
        assert_nothing_is_cut_off_or_overlaps(notebook)
        expect(notebook.sentence).to_contain_text("distilled, 6 images, 30 % of MACs removed: ")
        notebook.knob("images").press("ArrowRight")
        expect(notebook.sentence).to_contain_text("distilled, 12 images, 30 % of MACs removed: ")
        notebook.knob("MACs removed").press("ArrowRight")
        expect(notebook.sentence).to_contain_text("distilled, 12 images, 50 % of MACs removed: ")
        notebook.button("Draw other samples").press("Enter")
        expect(notebook.sentence).to_contain_text("distilled, 12 images (draw 0), 50 % of MACs removed: ")
        notebook.shot("1-knobs")

        notebook.button("Recompute").click()
        expect(notebook.panel).to_contain_text(re.compile(r"\d+ of 100000"))
        notebook.button("Stop").click()
        expect(notebook.panel).to_contain_text("stopped; nothing has changed")
        expect(notebook.sentence).not_to_contain_text("live")

        notebook.knob("method").press("ArrowRight")
        expect(notebook.sentence).to_contain_text("BN re-estimated, 12 images (draw 0)")
        assert_nothing_is_cut_off_or_overlaps(notebook)
        expect(notebook.panel).to_contain_text("and the test on 20 images")
        notebook.button("Recompute").click()
        live = re.compile(r"; live: BN re-estimated [\d.]+ % \(draw 0\)\.")
        expect(notebook.sentence).to_contain_text(live)
        notebook.shot("2-live")

        notebook.knob("method").press("ArrowRight")
        expect(notebook.sentence).to_contain_text("mine, 12 images (draw 0)")
        notebook.button("Recompute").click()
        expect(notebook.panel.get_by_role("alert")).to_contain_text("'mine' is a function of your own")
        notebook.shot("3-error")


def assert_nothing_is_cut_off_or_overlaps(notebook):
    readouts = notebook.panel.locator(".widget-readout")
    whole = readouts.evaluate_all("all => all.map(e => e.scrollWidth <= e.clientWidth)")
    assert whole == [True] * 3, "a knob's value is cut off"
    boxes = [slider.bounding_box() for slider in notebook.panel.locator(".widget-slider").all()]
    for box, follower in itertools.pairwise(boxes):
        gap = follower["x"] - (box["x"] + box["width"])
        assert follower["y"] > box["y"] or gap >= 10, "knobs without a gap"
