"""The root of the package: names in errors and warnings, device, budget, progress, checks of images."""

import copy
import importlib.metadata
import inspect
import re
import time
import warnings

import pytest
import torch
from torch import nn

from fsc import runtime
from fsc.arguments import check_fits, check_images, renamed
from fsc.runtime import data_dir, device_of, evaluating, fingerprint, public, setup, track, warn

OURS = {"__name__": "fsc.a_room_of_this_test", "public": public, "warn": warn, "torch": torch}
exec(
    """
def refuse(text):
    raise ValueError(text)

@public
def prune(what=lambda: refuse("too much")):
    return what()

@public
def practise(what):
    return prune(what)

@public
def hint():
    warn("slow")

class Explorer:
    @public
    def __init__(self, what):
        what()

    @public
    def show(self, what):
        what()
""",
    OURS,
)
"""Functions that count as the package's own, since an error is ours only if a module of `fsc` raised it."""


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda refuse: OURS["prune"](), "prune: too much"),
        (lambda refuse: OURS["practise"](lambda: refuse("too much")), "prune: too much"),
        (lambda refuse: OURS["Explorer"](lambda: refuse("no rows")), "Explorer: no rows"),
        (lambda refuse: OURS["Explorer"](int).show(lambda: refuse("no rows")), "Explorer.show: no rows"),
    ],
    ids=["plain", "the inner of two", "__init__", "method"],
)
def test_an_error_of_ours_is_named_once_by_the_innermost_public_function(call, words):
    with pytest.raises(ValueError) as caught:
        call(OURS["refuse"])
    assert str(caught.value) == words


def users_callback():
    raise ValueError("of the user")


@pytest.mark.parametrize(
    "what, words",
    [
        (users_callback, "of the user"),
        (lambda: torch.zeros(2).view(3), "shape '[3]' is invalid for input of size 2"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "in_channels must be divisible by groups"),
        (eval("lambda: {}['layer1']", OURS), "'layer1'"),
    ],
    ids=["callback", "torch", "torch, written in Python", "lookup"],
)
def test_an_error_of_torch_or_of_a_users_function_goes_through_as_it_is(what, words):
    with pytest.raises((ValueError, RuntimeError, KeyError)) as caught:
        OURS["practise"](what)
    assert str(caught.value) == words


def test_a_warning_is_named_and_points_at_the_line_that_called():
    with pytest.warns(UserWarning) as caught:
        OURS["practise"](OURS["hint"]); here = inspect.currentframe().f_lineno  # noqa: E702
    assert (str(caught[0].message), caught[0].filename, caught[0].lineno) == ("hint: slow", __file__, here)


@pytest.mark.parametrize("order", [(renamed(blocks="count"), public), (public, renamed(blocks="count"))])
def test_an_old_keyword_is_accepted_with_a_warning_that_names_its_successor(order):
    def practise(teacher, *, count=1):
        """Drop blocks."""
        return teacher, count

    function = order[0](order[1](practise))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert function("net", count=2) == ("net", 2)
    with pytest.warns(FutureWarning, match=r"practise: blocks= is now called count=; the next") as caught:
        assert function("net", blocks=3) == ("net", 3)
    assert len(caught) == 1 and caught[0].filename == __file__
    with pytest.raises(TypeError, match=r"practise: got blocks= and count=, two names of one argument"):
        function("net", blocks=3, count=3)
    assert list(inspect.signature(function).parameters) == ["teacher", "count"]
    assert inspect.getsource(function) == inspect.getsource(practise)
    assert function.__doc__ == "Drop blocks."


FOUND = {"fsc": "1.2", "torch": "3.4", "torchvision": "5.6"}


@pytest.fixture
def machine(monkeypatch):
    """A CPU machine with known versions and no FSC_BUDGET."""
    monkeypatch.setattr(importlib.metadata, "version", FOUND.__getitem__)
    monkeypatch.setattr(runtime, "best_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(runtime.platform, "python_version", lambda: "3.11.2")
    monkeypatch.delenv("FSC_BUDGET", raising=False)
    state = torch.get_rng_state()
    yield monkeypatch
    torch.set_rng_state(state)


def test_setup_prints_device_versions_and_budget_and_returns_them(machine, capsys):
    found = setup(seed=7)
    assert capsys.readouterr().out == (
        "device   cpu (CPU, 4 threads)\n"
        "versions python 3.11.2, fsc 1.2, torch 3.4, torchvision 5.6\n"
        "budget   quick; seed 7\n"
    )
    assert (found.device, found.budget, found.full, found.seed) == (torch.device("cpu"), "quick", False, 7)
    assert found.versions == {"python": "3.11.2"} | FOUND


def test_setup_seeds_torch(machine):
    setup(seed=7)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(7)))


def test_the_budget_variable_overrides_the_machine(machine):
    machine.setenv("FSC_BUDGET", "full")
    assert setup().full


def test_an_unknown_budget_is_refused(machine):
    machine.setenv("FSC_BUDGET", "fast")
    words = r'setup: unknown budget "fast"\.\n.*FSC_BUDGET; it is "quick" or "full"\.\n  Unset it'
    with pytest.raises(ValueError, match=words):
        setup()


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Dropout(), nn.ReLU()))


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("fails", [False, True])
def test_evaluating_gives_every_submodule_its_own_mode_back(fails):
    one, two = net(), net().eval()
    one[1].eval()                                                   # a frozen BatchNorm in a net that trains
    two[2][0].train()
    before = modes(one), modes(two)
    try:
        with evaluating(one, two):
            assert not any(modes(one) + modes(two))
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert (modes(one), modes(two)) == before


def test_track_reports_after_every_step():
    seen = []
    for step in track(3, lambda done, total: seen.append((done, total))):
        assert seen == [(i, 3) for i in range(1, step + 1)]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_what_progress_raises_stops_the_work():
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    steps = []
    with pytest.raises(KeyboardInterrupt):
        for step in track(5, stop):
            steps.append(step)
    assert steps == [0, 1]


def test_track_without_a_callable_shows_a_bar_once_it_takes_long(capsys):
    @public
    def count(seconds):
        return [(step, time.sleep(seconds))[0] for step in track(3, None)]

    assert count(0) == [0, 1, 2] and capsys.readouterr().err == ""
    count(0.3)
    assert "count:" in capsys.readouterr().err


GOOD = torch.zeros(2, 3, 8, 8)


@pytest.mark.parametrize(
    "images, error, words",
    [
        ([[1.0]], TypeError, "images must be a tensor (N, C, H, W), got list.\n  Pass few = task.sample"),
        (GOOD.byte(), TypeError, "images are torch.uint8, shape (2, 3, 8, 8); networks take normalised"),
        (GOOD[0], ValueError, "images have shape (3, 8, 8); asked for (N, C, H, W) with N at least 1.\n  A"),
        (GOOD[:0], ValueError, "images have shape (0, 3, 8, 8); asked for (N, C, H, W) with N at least 1."),
        (GOOD / 0, ValueError, "2 of 2 images hold NaN or infinity; the first is image 0."),
        (GOOD + 255, ValueError, "the largest value in the images is 255; normalised images stay within"),
    ],
)
def test_images_no_network_can_take_are_refused_with_the_reason(images, error, words):
    with pytest.raises(error, match=re.escape(words)):
        check_images(images)


def test_one_infinite_pixel_is_found_and_its_image_named():
    images = torch.zeros(5, 3, 8, 8)
    images[3, 1, 2, 2] = float("inf")
    with pytest.raises(ValueError, match="1 of 5 images hold NaN or infinity; the first is image 3"):
        check_images(images)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_normalised_images_of_any_float_pass(dtype):
    check_images(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype) * 3)


def test_the_device_is_that_of_the_first_tensor_and_the_cpu_without_any():
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
    assert device_of(nn.BatchNorm2d(2, affine=False, device="meta")) == torch.device("meta")
    assert device_of(nn.ReLU()) == torch.device("cpu")


def test_the_data_folder_is_beside_the_package_or_inside_it():
    assert data_dir().name in ("data", "_data") and data_dir().is_dir()


def test_a_fingerprint_tells_networks_and_weights_apart():
    one = net()
    assert fingerprint(one) == fingerprint(copy.deepcopy(one).eval())
    touched = copy.deepcopy(one)
    touched[1].running_mean[2] += 1e-7
    renamed = nn.Sequential(one[0], nn.Identity(), one[1])
    reshaped = copy.deepcopy(one)
    reshaped[0].weight.data = reshaped[0].weight.data.reshape(4, 9, 3, 1)
    prints = {fingerprint(model) for model in (one, touched, renamed, reshaped)}
    assert len(prints) == 4


def test_images_that_a_network_does_not_take_are_refused_with_what_it_said():
    net = torch.nn.Conv2d(3, 4, 3).train()
    with pytest.raises(ValueError, match=r"Conv2d does not take images of shape \(2, 1, 8, 8\)") as caught:
        check_fits(torch.zeros(2, 1, 8, 8), net)
    assert "expected input" in str(caught.value) and net.training


def test_a_file_is_replaced_whole_or_not_at_all_and_keeps_its_permissions(tmp_path):
    path = tmp_path / "table.csv"
    with runtime.written_whole(path) as unfinished:
        unfinished.write_text("first")
        assert not path.exists() and unfinished.parent == tmp_path
    (tmp_path / "any").touch()
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode
    path.chmod(0o640)
    with pytest.raises(ZeroDivisionError), runtime.written_whole(path) as unfinished:
        unfinished.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "first"
    with runtime.written_whole(path) as unfinished:
        unfinished.unlink()  # some writers put a file of their own in its place
        unfinished.touch(0o600)
        unfinished.write_text("second")
    assert path.read_text() == "second" and path.stat().st_mode & 0o777 == 0o640
    assert sorted(file.name for file in tmp_path.iterdir()) == ["any", "table.csv"]
