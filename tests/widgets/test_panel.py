"""The panel: each knob value is looked up and drawn once; an error is shown until the next success."""

import html
import itertools
import time

import ipywidgets
import matplotlib.pyplot
import numpy as np
import pytest
from helpers.toy_panel import RATIOS, SAMPLES, SEEDS, Toy, press, shown, stored_accuracy

from fsc.widgets import Panel


@pytest.fixture
def toy() -> Toy:
    return Toy()


def test_every_knob_value_shows_what_the_table_holds(toy):
    panel = toy.panel()
    for samples, ratio, seed in itertools.product(SAMPLES, RATIOS, (None, *SEEDS)):
        panel.set(samples=samples, ratio=ratio, seed=seed)
        assert panel.state == {"samples": samples, "ratio": ratio, "seed": seed}
        middle = stored_accuracy(samples, ratio, 1)
        assert panel.numbers["finetune"] == pytest.approx(middle)
        one = None if seed is None else stored_accuracy(samples, ratio, seed)
        assert panel.numbers.get("finetune draw") == one
        which = "" if seed is None else f" (draw {seed})"
        setting = f"{samples} images{which}, {100 * ratio:.0f} % of filters removed"
        assert panel.sentence.startswith(f"{setting}: fine-tuned")
        assert panel.sentence in html.unescape(panel.line.value) and 'aria-live="polite"' in panel.line.value
        assert panel.image.value.startswith('<img alt="') and panel.error is None and shown(panel) == ""
        assert (panel.sliders["samples"].value, panel.sliders["ratio"].value) == (samples, ratio)
    assert matplotlib.pyplot.get_fignums() == []


def test_several_knobs_at_once_are_drawn_once_and_a_state_seen_before_not_again(toy):
    panel = toy.panel()
    assert len(toy.drawn) == 1
    panel.set(samples=500, ratio=0.75)
    assert len(toy.drawn) == len(toy.looked_up) == 2
    panel.set(samples=10, ratio=0.25)
    panel.sliders["samples"].value = 500
    panel.sliders["ratio"].value = 0.75
    assert [state for state, _ in toy.drawn[2:]] == [{"samples": 500, "ratio": 0.25, "seed": None}]


def test_a_slider_does_what_set_does(toy):
    panel, other = toy.panel(), toy.panel()
    panel.sliders["samples"].value = 100
    other.set(samples=100)
    assert panel.state == other.state and panel.sentence == other.sentence
    assert panel.image.value == other.image.value


def test_sliders_are_discrete_named_in_words_and_wait_until_they_are_let_go(toy):
    slider = toy.panel().sliders["ratio"]
    assert isinstance(slider, ipywidgets.SelectionSlider) and slider.continuous_update is False
    assert [text for text, _ in slider.options] == ["25%", "50%", "75%"]
    assert toy.panel().sliders["samples"].description == "images"


def test_draw_other_samples_steps_through_the_draws_and_back_to_the_band(toy):
    panel, seen = toy.panel(), []
    for _ in range(4):
        press(panel, "Draw other samples")
        seen.append(panel.state["seed"])
    assert seen == [0, 1, 2, None]
    assert "(draw" not in panel.sentence


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"images": 50}, "Panel.set: there is no knob 'images'.\n  There are: samples, ratio, seed."),
        ({"samples": 51}, "Panel.set: the knob samples has no value 51.\n  It can be 10, 50, 100, 500."),
        ({"samples": 50, "seed": 7}, "Panel.set: the knob seed has no value 7.\n  It can be None, 0, 1, 2."),
    ],
)
def test_what_is_not_on_the_grid_is_refused_and_changes_nothing(toy, asked, words):
    panel = toy.panel()
    before = (panel.state.copy(), panel.sentence, panel.sliders["samples"].value)
    with pytest.raises(ValueError) as caught:
        panel.set(**asked)
    assert str(caught.value) == words
    assert (panel.state, panel.sentence, panel.sliders["samples"].value) == before and panel.error is None


def test_old_names_of_the_seed_still_work_and_name_their_successors(toy):
    with pytest.warns(FutureWarning, match="^Panel: draws= is now called seeds=") as warned:
        panel = Panel({"samples": SAMPLES, "ratio": RATIOS}, look_up=toy.look_up, draw=toy.draw, draws=SEEDS)
    assert warned[0].filename == __file__, "the warning points at the line that called"
    with pytest.warns(FutureWarning, match="^Panel.set: draw= is now called seed="):
        panel.set(draw=2)
    with pytest.warns(FutureWarning, match="Panel.draws is now called Panel.seeds"):
        assert panel.draws == panel.seeds == SEEDS
    with pytest.warns(FutureWarning, match=r'state\["draw"\] is now state\["seed"\]'):
        assert panel.state["draw"] == panel.state["seed"] == 2
    with pytest.raises(KeyError, match="images"):
        panel.state["images"]


@pytest.mark.parametrize("knobs", [{}, {"samples": ()}, {"seed": (1, 2)}, {"draw": (1, 2)}])
def test_a_panel_without_knobs_is_refused(knobs):
    with pytest.raises(ValueError, match="Panel: asked for the knobs"):
        Panel(knobs, look_up=dict, draw=None)


def test_a_failure_is_raised_by_set_shown_kept_and_cleared_by_the_next_success(toy):
    panel = toy.panel()
    toy.fail_at = 100
    with pytest.raises(KeyError, match="no <stored> result for 100 images"):
        panel.set(samples=100)
    assert isinstance(panel.error, KeyError)
    assert "no <stored> result for 100 images" in shown(panel) and 'role="alert"' in panel.message.value
    assert "<stored>" not in panel.message.value, "the message is escaped"
    there = (panel.image.value, panel.sentence, panel.numbers)
    assert there == ("", "", {}), "the picture of other knobs is gone"
    panel.set(samples=50)
    assert panel.error is None and shown(panel) == "" and panel.sentence.startswith("50 images")


def test_a_failure_in_a_callback_is_shown_and_kept_and_tried_again(toy):
    panel = toy.panel()
    toy.fail_at = 100
    panel.sliders["samples"].value = 100
    assert isinstance(panel.error, KeyError) and "for 100 images" in shown(panel)
    toy.fail_at = None
    panel.set(samples=100)
    assert panel.error is None and panel.sentence.startswith("100 images")


def test_a_panel_that_fails_at_once_raises():
    with pytest.raises(ZeroDivisionError):
        Panel({"samples": (1,)}, look_up=lambda state: 1 / 0, draw=None)


def test_the_panel_shows_its_box_and_without_a_kernel_its_sentence(toy):
    panel = toy.panel()
    bundle = panel._repr_mimebundle_()
    assert bundle["text/plain"] == f"<Panel: {panel.sentence}>"
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.box.model_id


def test_a_knob_takes_under_a_fifth_of_a_second_the_first_time(toy):
    panel, spent = toy.panel(), []
    for samples, ratio in itertools.product(SAMPLES[1:], RATIOS):
        start = time.process_time()  # CPU time of this process: what else the machine does hardly enters
        panel.set(samples=samples, ratio=ratio)
        spent.append(time.process_time() - start)
    assert np.quantile(spent, 0.9) < 0.2, f"{np.median(spent):.3f} s as median, at most {max(spent):.3f} s"
