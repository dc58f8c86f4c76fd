"""MiR tells how it went, holds images out when asked, and keeps the best student when Ctrl-C ends it."""

import json

import pytest
import torch
from torch import nn

from fsc.recover.mir import _split, mir
from fsc.runtime import fingerprint
from fsc.surgery.recipe import recipe_of

QUIET = {"progress": lambda done, total: None}


def small(hidden, seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(), nn.Conv2d(hidden, 8, 1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    ).eval()  # fmt: skip


@pytest.fixture
def images():
    return torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def teacher():
    return small(6, seed=0)


@pytest.fixture
def student():
    return small(4, seed=1)


def history(net):
    return recipe_of(net)[-1]["report"]


def loss_between(one, other, images):
    with torch.no_grad():
        return float((one[:5](images) - other[:5](images)).square().mean())


def test_the_history_is_about_a_hundred_rows_of_plain_numbers(teacher, student, images):
    rows = history(mir(teacher, student, images, steps=250, held_out=0.2, batch_size=4, **QUIET))
    assert [row["step"] for row in rows] == [1, *range(2, 251, 2)]
    assert list(rows[0]) == ["step", "loss", "held_out_loss", "lr", "images_per_second"]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert all(row["held_out_loss"] > 0 and row["images_per_second"] > 0 for row in rows)
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_held_out_images_are_not_fitted_but_looked_at(teacher, student, images):
    fitted, out = _split(images, 0.3, seed=5)
    is_out = torch.tensor([any(torch.equal(image, other) for other in out) for image in images])
    assert is_out.sum() == len(out) == 3 and torch.equal(fitted, images[~is_out])
    asked = {"steps": 4, "held_out": 0.3, "seed": 5, **QUIET}
    one = mir(teacher, student, images, **asked)
    other = mir(teacher, student, torch.where(is_out[:, None, None, None], images.flip(0), images), **asked)
    assert fingerprint(one) == fingerprint(other)
    assert history(one)[-1]["held_out_loss"] == pytest.approx(loss_between(one, teacher, out), rel=1e-5)
    assert history(one)[-1]["held_out_loss"] != history(other)[-1]["held_out_loss"]
    assert "held_out_loss" not in history(mir(teacher, student, images, steps=1, **QUIET))[0]


def interrupted_after(steps, with_what=KeyboardInterrupt):
    def progress(done, total):
        if done == steps:
            raise with_what

    return progress


def test_ctrl_c_gives_back_the_best_student_so_far(teacher, student, images):
    _, out = _split(images, 0.5, seed=0)
    with pytest.warns(UserWarning, match=r"mir: stopped after 30 of 60 steps; this is the student of step \d+, the be"):
        found = mir(teacher, student, images, steps=60, lr=0.5, held_out=0.5, progress=interrupted_after(30))
    losses = [row["held_out_loss"] for row in history(found)]
    assert len(losses) == 30 and min(losses) < losses[-1]
    assert loss_between(found, teacher, out) == pytest.approx(min(losses), rel=1e-5)
    assert torch.equal(found[7].weight, teacher[7].weight)
    assert all(p.grad is None and p.is_contiguous() for p in found.parameters()) and not found.training


def test_ctrl_c_before_the_first_step_gives_the_student_with_the_teachers_head(teacher, student, images, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("fsc.recover.training.crop_and_flip", interrupt)
    with pytest.warns(UserWarning, match="stopped after 0 of 9 steps; this is the student of step 0"):
        found = mir(teacher, student, images, steps=9, **QUIET)
    assert history(found) == [] and torch.equal(found[0].weight, student[0].weight)


def test_what_else_progress_raises_stops_the_work(teacher, student, images):
    class Stopped(Exception):
        pass

    before = fingerprint(student)
    with pytest.raises(Stopped):
        mir(teacher, student, images, steps=9, progress=interrupted_after(2, Stopped))
    assert fingerprint(student) == before
