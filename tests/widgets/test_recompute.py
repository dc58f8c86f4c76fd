"""Recompute: it says its cost, shows its result beside the stored one, can be stopped, and shows errors."""

import itertools
import threading
import time

import matplotlib.pyplot
import pytest
from helpers.toy_panel import RATIOS, SAMPLES, Toy, every_widget, live_row, press, shown

from fsc.widgets import Stopped

WAIT = 30  # seconds: longer than any thread here needs on the busiest machine


@pytest.fixture
def toy() -> Toy:
    return Toy()


def test_without_recompute_there_is_no_such_button(toy):
    panel = toy.panel()
    texts = [getattr(widget, "description", "") for widget in every_widget(panel.box)]
    assert "Recompute" not in texts and "Stop" not in texts
    with pytest.raises(RuntimeError, match="Panel.recompute: there is nothing to do"):
        panel.recompute()


def test_the_cost_is_said_first_for_the_knobs_as_they_stand(toy):
    cost = "about {samples} s on this CPU".format_map
    panel = toy.panel(recompute=lambda state, progress: None, cost=cost)
    assert panel._work.note.value == "about 10 s on this CPU"
    panel.set(samples=500)
    assert panel._work.note.value == "about 500 s on this CPU"


def test_a_live_result_stands_beside_the_stored_one_until_a_knob_moves(toy):
    panel = toy.panel(recompute=lambda state, progress: live_row(state))
    panel.set(samples=50, ratio=0.5)
    stored = panel.sentence
    assert panel.recompute().accuracy.item() == 0.5
    assert panel.sentence == stored.removesuffix(".") + "; live: fine-tuned 50.0 %."
    assert panel.numbers["finetune live"] == 0.5 and toy.drawn[-1][1]
    panel.set(ratio=0.75)
    assert panel.live is None and "live" not in panel.sentence
    panel.set(ratio=0.5)
    assert panel.sentence == stored, "the live result is not taken for a stored one"


def test_recompute_raises_what_the_work_raises_and_keeps_the_stored_picture(toy):
    def fail(state, progress):
        raise MemoryError("out of memory")

    panel = toy.panel(recompute=fail)
    stored = panel.sentence
    with pytest.raises(MemoryError):
        panel.recompute()
    assert isinstance(panel.error, MemoryError) and "out of memory" in shown(panel)
    assert panel.sentence == stored
    assert not panel._work.running and not panel.sliders["ratio"].disabled
    panel.set(ratio=0.5)
    assert panel.error is None and shown(panel) == ""


def test_an_error_in_the_thread_is_shown_and_kept(toy):
    def fail(state, progress):
        raise RuntimeError("the loss is NaN")

    panel = toy.panel(recompute=fail)
    press(panel, "Recompute")
    panel.wait(WAIT)
    assert isinstance(panel.error, RuntimeError) and shown(panel) == "RuntimeError: the loss is NaN"
    assert not panel._work.running


class Slow:
    """Work of endless steps: `began` is set after the first; it goes on as the panel's `progress` lets it."""

    def __init__(self):
        self.began, self.steps, self.thread = threading.Event(), 0, None

    def __call__(self, state, progress):
        self.thread = threading.current_thread()
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline:
            self.steps += 1
            progress(self.steps, 1000)
            self.began.set()
            time.sleep(0.002)
        raise TimeoutError("nobody pressed Stop")


def test_stop_ends_the_work_and_leaves_all_as_it_was(toy):
    slow = Slow()
    panel = toy.panel(recompute=slow, cost=lambda state: "about a minute")
    stored = (panel.sentence, panel.image.value, panel.state.copy())
    press(panel, "Recompute")
    assert slow.began.wait(WAIT) and slow.thread is not threading.main_thread()
    bar = panel._work.bar
    assert panel._work.running and bar.value >= 1 and bar.max == 1000 and bar.layout.display is None
    assert all(slider.disabled for slider in panel.sliders.values())
    with pytest.raises(RuntimeError, match="Panel.set: a recomputation is running"):
        panel.set(samples=50)
    with pytest.raises(RuntimeError, match="recompute: it is running already"):
        panel.recompute()
    panel.sliders["samples"].value = 500  # a move that was on its way when the knobs were locked
    assert panel.state == stored[2] and panel.sliders["samples"].value == 10
    press(panel, "Stop")
    panel.wait(WAIT)
    assert not slow.thread.is_alive() and not panel._work.running
    assert (panel.sentence, panel.image.value, panel.state) == stored and panel.error is None
    assert panel._work.note.value == "stopped; nothing has changed" and bar.layout.display == "none"
    assert not any(slider.disabled for slider in panel.sliders.values())


def test_stopped_work_can_be_done_again(toy):
    slow, turns = Slow(), []

    def work(state, progress):
        turns.append(state)
        return live_row(state) if len(turns) > 1 else slow(state, progress)

    panel = toy.panel(recompute=work)
    press(panel, "Recompute")
    assert slow.began.wait(WAIT)
    press(panel, "Stop")
    panel.wait(WAIT)
    press(panel, "Recompute")
    panel.wait(WAIT)
    assert panel.live is not None and panel.sentence.endswith("live: fine-tuned 50.0 %.")
    assert matplotlib.pyplot.get_fignums() == []


def test_work_done_here_and_now_raises_when_it_is_stopped(toy):
    slow = Slow()
    panel = toy.panel(recompute=slow)
    threading.Thread(target=lambda: slow.began.wait(WAIT) and panel.stop()).start()
    with pytest.raises(Stopped):
        panel.recompute()
    assert panel.error is None and slow.thread is threading.main_thread()


def test_two_panels_can_work_and_draw_at_once(toy):
    def work(state, progress):
        for step in range(20):
            progress(step + 1, 20)
        return live_row(state)

    panels = [toy.panel(recompute=work) for _ in range(2)]
    third = toy.panel()
    for panel in panels:
        press(panel, "Recompute")
    for samples, ratio in itertools.product(SAMPLES, RATIOS):
        third.set(samples=samples, ratio=ratio)
    for panel in panels:
        panel.wait(WAIT)
        assert panel.error is None and panel.live is not None
    assert panels[0].image.value == panels[1].image.value
