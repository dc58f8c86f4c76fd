"""Panels: knobs over stored results, a picture, the result in one sentence; nothing is computed before Recompute."""

import functools
import html
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import ipywidgets
from matplotlib import rc_context

from fsc.plots.drawing import Picture
from fsc.runtime import Progress
from fsc.widgets.work import Work, new_button

State = dict[str, Any]
"""Each knob's value, and "draw": the seed of the draw that stands out, or None for the band over all draws."""

LINE = "font-size: 15px; line-height: 1.4; padding: 4px 0; white-space: pre-wrap"
RED = "color: #8C0014; background: #FFF1F1; border-left: 4px solid #8C0014; padding-left: 10px"

SHARP = {"text.hinting": "no_hinting"}  # glyphs fitted to pixels so small cost a tenth of the time, for nothing seen

_drawing = threading.RLock()  # one figure at a time, over all panels: matplotlib does not promise to be thread-safe


class Panel:
    """Discrete knobs, the stored result they choose as a picture, and one sentence that says it in words.

    Moving a knob looks up and draws; it never computes. What fails is shown in the panel and kept in `error`; `set` and
    `recompute` raise it as well. As the last line of a cell the panel shows itself.

    Args:
        knobs: the values each knob can take, by name.
        look_up: state -> the stored result; pure, its results are kept. The state is {knob: value, ..., "draw": seed}.
        draw: (result, live=None) -> `Picture`; `live` is what `recompute` returned, to be shown beside what was stored.
        recompute: (state, progress) -> a live result, the real work. It calls progress(done, total) after each step,
            which raises `Stopped` when Stop was pressed. None: no Recompute button.
        cost: state -> what recomputing costs, in words ("about 20 s on this CPU").
        draws: the seeds that "Draw other samples" steps through; empty: no such button.
        labels: what to call a knob, where its name will not do.
        format: how to write a knob's value, where str will not do: {"ratio": "{:.0%}".format}.

    Raises:
        ValueError: a knob has no values, or is called "draw".

    >>> panel = Panel({"samples": (10, 50), "ratio": (0.25, 0.5)}, look_up=dict, draw=draw_one)
    >>> panel.set(samples=50, ratio=0.25)
    >>> panel.sentence
    '50 images, 25 % of filters removed: ...'
    """

    def __init__(
        self,
        knobs: Mapping[str, Sequence[Hashable]],
        *,
        look_up: Callable[[State], Any],
        draw: Callable[..., Picture],
        recompute: Callable[[State, Progress], Any] | None = None,
        cost: Callable[[State], str] | None = None,
        draws: Sequence[int] = (),
        labels: Mapping[str, str] | None = None,
        format: Mapping[str, Callable[[Any], str]] | None = None,
    ):
        if not knobs or "draw" in knobs or any(len(values) == 0 for values in knobs.values()):
            raise ValueError(
                f"Panel: asked for the knobs {dict(knobs)}.\n"
                f'  There must be one, each with at least one value, and none called "draw", which is the panel\'s own.'
            )
        self.knobs = {name: tuple(values) for name, values in knobs.items()}
        self.draws = tuple(draws)
        self.state: State = {name: values[0] for name, values in self.knobs.items()} | {"draw": None}
        self.sentence, self.numbers = "", {}
        self.live: Any = None
        self.error: BaseException | None = None
        self._draw, self._recompute, self._cost = draw, recompute, cost
        self._look_up = functools.lru_cache(maxsize=None)(lambda key: look_up(dict(key)))
        self._stored = functools.lru_cache(maxsize=256)(self._render)
        self._placing = False
        self._build(labels or {}, format or {})
        self._show()

    def set(self, **state) -> None:
        """Move knobs and draw; all has happened when it returns. `draw=SEED` chooses a draw, `draw=None` the band.

        Raises:
            ValueError: no such knob, or the knob has no such value; says what there is.
            RuntimeError: a recomputation is running.
            Exception: whatever `look_up` or `draw` raised.
        """
        state = {name: self._on_grid(name, value) for name, value in state.items()}
        if self._work.running:
            raise RuntimeError("Panel.set: a recomputation is running.\n  Use panel.stop(), or panel.wait(), first.")
        self.state |= state
        self._show()

    def recompute(self) -> Any:
        """Do the work for the knobs as they stand, here and now; draw it beside the stored result, and return it.

        Raises:
            RuntimeError: the panel has nothing to recompute with, or is at it already.
            Stopped: `stop` was called.
            Exception: whatever `recompute` or `draw` raised.
        """
        if self._recompute is None:
            raise RuntimeError("Panel.recompute: there is nothing to do.\n  Pass recompute= when making the panel.")
        return self._work.run()

    def stop(self) -> None:
        """End the running recomputation at its next step."""
        self._work.stop()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the recomputation that the button started."""
        self._work.wait(timeout)

    def __repr__(self) -> str:
        return f"<Panel: {self.sentence}>"

    def _repr_mimebundle_(self, **_) -> dict:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        return {"text/plain": repr(self), "application/vnd.jupyter.widget-view+json": view}

    def _build(self, labels: Mapping, formats: Mapping) -> None:
        self.sliders, rules = {}, []
        for name, values in self.knobs.items():
            options = [(formats.get(name, str)(value), value) for value in values]
            label, longest = labels.get(name, name), max(len(text) for text, _ in options)
            slider = self.sliders[name] = ipywidgets.SelectionSlider(
                options=options,
                description=label,
                continuous_update=False,
                style={"description_width": "initial"},
                layout={"width": f"calc(140px + {len(label) + longest}ch)", "margin": "2px 16px 2px 2px"},
            )
            # By itself a slider cuts off a value longer than a number; and its handle must not move with the value.
            rules.append(f".fsc-readout-{longest} .widget-readout {{ width: {longest}ch; max-width: none }}")
            slider.add_class(f"fsc-readout-{longest}")
            slider.observe(functools.partial(self._moved, name), names="value")
        self.draw_button = new_button("Draw other samples", self._draw_another)
        self._work = Work(self._recompute_and_show, lock=self._lock, fail=self._fail)
        self.message, self.image, self.line = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        buttons = [self.draw_button] * bool(self.draws) + [*self._work.widgets] * bool(self._recompute)
        rows = [ipywidgets.HBox(row, layout={"flex_flow": "row wrap"}) for row in ([*self.sliders.values()], buttons)]
        looks = ipywidgets.HTML(f"<style>{' '.join(rules)}</style>", layout={"display": "none"})
        self.box = ipywidgets.VBox([*rows, self.message, self.image, self.line, looks])

    def _moved(self, name: str, change: Mapping) -> None:
        if self._placing:
            return
        if self._work.running:  # the knobs are locked, but a move may have been on its way
            self._place_knobs()
            return
        self.state[name] = change["new"]
        self._show_or_say()

    def _draw_another(self, _) -> None:
        order = (None, *self.draws)
        self.state["draw"] = order[(order.index(self.state["draw"]) + 1) % len(order)]
        self._show_or_say()

    def _place_knobs(self) -> None:
        self._placing = True
        try:
            for name, slider in self.sliders.items():
                slider.value = self.state[name]
        finally:
            self._placing = False

    def _lock(self, running: bool) -> None:
        """While the work runs the knobs stay where they are: what comes back belongs to them."""
        for widget in (*self.sliders.values(), self.draw_button):
            widget.disabled = running

    def _on_grid(self, name: str, value: Any) -> Any:
        choices = self.knobs | {"draw": (None, *self.draws)}
        if name not in choices:
            raise ValueError(f"Panel.set: there is no knob {name!r}.\n  There are: {', '.join(choices)}.")
        if value not in choices[name]:
            there = ", ".join(map(repr, choices[name]))
            raise ValueError(f"Panel.set: the knob {name} has no value {value!r}.\n  It can be {there}.")
        return choices[name][choices[name].index(value)]

    def _show(self, live: Any = None) -> None:
        self._place_knobs()
        key = tuple(self.state.items())
        try:
            image, sentence, numbers = self._stored(key) if live is None else self._render(key, live)
            cost = self._cost(dict(self.state)) if self._cost else ""
        except BaseException as error:
            if live is None:
                self._put("", "", {})  # the old picture belongs to other knobs
            self._fail(error)
            raise
        self.live, self.error, self.message.value = live, None, ""
        self._work.say(cost)
        self._put(image, sentence, numbers)

    def _show_or_say(self) -> None:
        """For callbacks, whose exceptions Jupyter drops: `_show` has shown and kept it."""
        try:
            self._show()
        except Exception:
            pass

    def _recompute_and_show(self, progress: Progress) -> Any:
        live = self._recompute(dict(self.state), progress)
        self._show(live)
        return live

    def _render(self, key: tuple, live: Any = None) -> tuple[str, str, dict]:
        result = self._look_up(key)
        with _drawing, rc_context(SHARP):
            picture = self._draw(result) if live is None else self._draw(result, live=live)
            return picture.html(), picture.sentence, picture.numbers

    def _put(self, image: str, sentence: str, numbers: dict) -> None:
        self.sentence, self.numbers, self.image.value = sentence, numbers, image
        self.line.value = f'<div aria-live="polite" style="{LINE}">{html.escape(sentence)}</div>'

    def _fail(self, error: BaseException) -> None:
        self.error = error
        message = html.escape(f"{type(error).__name__}: {error}")
        self.message.value = f'<div role="alert" style="{LINE}; {RED}">{message}</div>'
