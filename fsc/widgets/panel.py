"""Panels: knobs over stored results, a picture and the result in one sentence. Only Recompute computes."""

import functools
import html
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import ipywidgets
from matplotlib import rc_context

from fsc.arguments import renamed
from fsc.plots.drawing import Picture
from fsc.runtime import Progress, public, warn
from fsc.widgets.work import Work, new_button

LINE = "font-size: 15px; line-height: 1.4; padding: 4px 0; white-space: pre-wrap"
RED = "color: #8C0014; background: #FFF1F1; border-left: 4px solid #8C0014; padding-left: 10px"

SHARP = {"text.hinting": "no_hinting"}  # fitting glyphs to pixels takes a tenth of the time; nobody sees it

_drawing = threading.RLock()  # one figure at a time, over all panels: matplotlib is not thread-safe


class State(dict[str, Any]):
    """Each knob's value, and "seed": that of the draw that stands out, or None for the band of all draws."""

    def __missing__(self, key: str) -> Any:
        if key != "draw":
            raise KeyError(key)
        warn('state["draw"] is now state["seed"]; the old name goes with the next release.', FutureWarning)
        return self["seed"]


class Panel:
    """Discrete knobs, a picture of the stored result that they choose, and a sentence that reads it.

    Moving a knob looks up and draws; it never computes. An error is shown in the panel and kept in `error`;
    `set` and `recompute` raise it as well. As the last line of a cell the panel shows itself.

    Args:
        knobs: the values of each knob, by name.
        look_up: state -> the stored result. Each state, {knob: value, ..., "seed": seed}, is looked up once.
        draw: (result, live=None) -> `Picture`; `live` is what `recompute` returned, to be drawn as well.
        recompute: (state, progress) -> a live result. This is the long work: it calls progress(done, total)
            after each step, which raises `Stopped` once Stop was pressed. None: no Recompute button.
        cost: state -> what recomputing costs, in words ("about 20 s on this CPU").
        seeds: the draws that "Draw other samples" steps through; empty: no such button.
        labels: words for a knob, where its name is not clear enough.
        format: how to write a knob's value, where str is not enough: {"ratio": "{:.0%}".format}.

    Raises:
        ValueError: there are no knobs; a knob has no values; a knob is called "seed" or "draw".

    >>> panel = Panel({"samples": (10, 50), "ratio": (0.25, 0.5)}, look_up=dict, draw=draw_one)
    >>> panel.set(samples=50, ratio=0.25)
    >>> panel.sentence
    '50 images, 25 % of filters removed: ...'
    """

    @renamed(draws="seeds")
    @public
    def __init__(
        self, knobs: Mapping[str, Sequence[Hashable]], *, look_up: Callable[[State], Any],
        draw: Callable[..., Picture], recompute: Callable[[State, Progress], Any] | None = None,
        cost: Callable[[State], str] | None = None, seeds: Sequence[int] = (),
        labels: Mapping[str, str] | None = None, format: Mapping[str, Callable[[Any], str]] | None = None,
    ):
        if not knobs or {"seed", "draw"} & {*knobs} or any(len(values) == 0 for values in knobs.values()):
            raise ValueError(
                f"asked for the knobs {dict(knobs)}.\n"
                f"  Pass at least one, each with at least one value; none may be called seed or draw."
            )
        self.knobs = {name: tuple(values) for name, values in knobs.items()}
        self.seeds = tuple(seeds)
        self.state = State({name: values[0] for name, values in self.knobs.items()}, seed=None)
        self.sentence, self.numbers = "", {}
        self.live: Any = None
        self.error: BaseException | None = None
        self._draw, self._recompute, self._cost = draw, recompute, cost
        self._look_up = functools.lru_cache(maxsize=None)(lambda key: look_up(State(key)))
        self._render_stored = functools.lru_cache(maxsize=256)(self._render)
        self._placing_knobs = False
        self._build(labels or {}, format or {})
        self._show()

    @property
    def draws(self) -> tuple[int, ...]:
        """The old name of `seeds`."""
        warn("Panel.draws is now called Panel.seeds; the old name goes with the next release.", FutureWarning)
        return self.seeds

    @renamed(draw="seed")
    @public
    def set(self, **state) -> None:
        """Move knobs and draw. `seed=3` chooses a draw of the few images, `seed=None` the band over all.

        Raises:
            ValueError: no such knob, or the knob has no such value; says what there is.
            RuntimeError: a recomputation is running.
            Exception: whatever `look_up` or `draw` raised.
        """
        state = {name: self._on_grid(name, value) for name, value in state.items()}
        if self._work.running:
            raise RuntimeError("a recomputation is running.\n  Use panel.stop(), or panel.wait(), first.")
        self.state |= state
        self._show()

    @public
    def recompute(self) -> Any:
        """Recompute the result for the present knobs, draw it beside the stored one, and return it.

        Raises:
            RuntimeError: the panel has no `recompute`, or a recomputation is running.
            Stopped: `stop` was called.
            Exception: whatever `recompute` or `draw` raised.
        """
        if self._recompute is None:
            raise RuntimeError("there is nothing to do.\n  Pass recompute= when making the panel.")
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
            layout = {"width": f"calc(140px + {len(label) + longest}ch)", "margin": "2px 16px 2px 2px"}
            slider = self.sliders[name] = ipywidgets.SelectionSlider(
                options=options, description=label, continuous_update=False, layout=layout,
                style={"description_width": "initial"},
            )
            # Without a rule a slider cuts off long values, and its handle moves with the width of the value.
            rules.append(f".fsc-readout-{longest} .widget-readout {{ width: {longest}ch; max-width: none }}")
            slider.add_class(f"fsc-readout-{longest}")
            slider.observe(functools.partial(self._moved, name), names="value")
        self.draw_button = new_button("Draw other samples", self._choose_next_draw)
        self._work = Work(self._recompute_and_show, lock=self._lock, fail=self._fail)
        self.message, self.image, self.line = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        buttons = [self.draw_button] if self.seeds else []
        buttons += self._work.widgets if self._recompute else []
        both = [*self.sliders.values()], buttons
        rows = [ipywidgets.HBox(row, layout={"flex_flow": "row wrap"}) for row in both]
        looks = ipywidgets.HTML(f"<style>{' '.join(rules)}</style>", layout={"display": "none"})
        self.box = ipywidgets.VBox([*rows, self.message, self.image, self.line, looks])

    def _moved(self, name: str, change: Mapping) -> None:
        if self._placing_knobs:
            return
        if self._work.running:  # the knobs are locked, but this move was already on its way
            self._place_knobs()
        else:
            self.state[name] = change["new"]
            self._show_or_say()

    def _choose_next_draw(self, _) -> None:
        order = (None, *self.seeds)
        self.state["seed"] = order[(order.index(self.state["seed"]) + 1) % len(order)]
        self._show_or_say()

    def _place_knobs(self) -> None:
        self._placing_knobs = True
        try:
            for name, slider in self.sliders.items():
                slider.value = self.state[name]
        finally:
            self._placing_knobs = False

    def _lock(self, running: bool) -> None:
        for widget in (*self.sliders.values(), self.draw_button):
            widget.disabled = running  # the result belongs to their present values

    def _on_grid(self, name: str, value: Any) -> Any:
        choices = self.knobs | {"seed": (None, *self.seeds)}
        if name not in choices:
            raise ValueError(f"there is no knob {name!r}.\n  There are: {', '.join(choices)}.")
        if value not in choices[name]:
            there = ", ".join(map(repr, choices[name]))
            raise ValueError(f"the knob {name} has no value {value!r}.\n  It can be {there}.")
        return choices[name][choices[name].index(value)]

    def _show(self, live: Any = None) -> None:
        self._place_knobs()
        key = tuple(self.state.items())
        try:
            image, sentence, numbers = self._render_stored(key) if live is None else self._render(key, live)
            cost = self._cost(State(self.state)) if self._cost else ""
        except BaseException as error:
            if live is None:
                self._put("", "", {})  # the old picture belongs to other knobs
            self._fail(error)
            raise
        self.live, self.error, self.message.value = live, None, ""
        self._work.say(cost)
        self._put(image, sentence, numbers)

    def _show_or_say(self) -> None:
        with suppress(Exception):  # Jupyter drops exceptions of callbacks; `_show` has shown and kept it
            self._show()

    def _recompute_and_show(self, progress: Progress) -> Any:
        live = self._recompute(State(self.state), progress)
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
