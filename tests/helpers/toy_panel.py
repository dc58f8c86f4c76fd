"""A small panel for tests over a table with known numbers, and functions that press its buttons."""

import html
import itertools
import re

import ipywidgets
import numpy as np
import pandas as pd

from fsc import plots
from fsc.widgets import Panel

SAMPLES, RATIOS, SEEDS = (10, 50, 100, 500), (0.25, 0.5, 0.75), (0, 1, 2)
COLUMNS = ["method", "samples", "ratio", "seed", "accuracy"]


def stored_accuracy(samples: int, ratio: float, seed: int) -> float:
    return round(0.9 - ratio / (1 + np.log10(samples)) + 0.01 * seed, 6)


SETTINGS = itertools.product(SAMPLES, RATIOS, SEEDS)
ROWS = [("finetune", *setting, stored_accuracy(*setting)) for setting in SETTINGS]
ROWS += [("none", np.nan, r, 0, 0.8 - r) for r in RATIOS] + [("teacher", np.nan, np.nan, 0, 0.921)]
TABLE = pd.DataFrame(ROWS, columns=COLUMNS)


class Toy:
    """A panel over TABLE that counts what it does, and fails where it is told to."""

    def __init__(self):
        self.looked_up, self.drawn, self.fail_at = [], [], None

    def panel(self, **more) -> Panel:
        knobs = {"samples": SAMPLES, "ratio": RATIOS}
        looks = dict(labels={"samples": "images"}, format={"ratio": "{:.0%}".format})
        return Panel(knobs, look_up=self.look_up, draw=self.draw, seeds=SEEDS, **looks | more)

    def look_up(self, state):
        self.looked_up.append(dict(state))
        if state["samples"] == self.fail_at:
            raise KeyError(f"no <stored> result for {state['samples']} images")
        return state

    def draw(self, result, live=None):
        self.drawn.append((dict(result), live is not None))
        return plots.accuracy_by_samples(TABLE, **result, live=live)


def live_row(state, accuracy=0.5) -> pd.DataFrame:
    return pd.DataFrame([("finetune", state["samples"], state["ratio"], 9, accuracy)], columns=COLUMNS)


def shown(panel) -> str:
    """The message in the red box as plain text; empty where there is none."""
    return html.unescape(re.sub("<[^>]*>", "", panel.message.value))


def press(panel, text: str) -> None:
    button = next(w for w in every_widget(panel.box) if getattr(w, "description", None) == text)
    assert isinstance(button, ipywidgets.Button) and not button.disabled, f"{text} cannot be pressed"
    button.click()


def every_widget(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from every_widget(child)
