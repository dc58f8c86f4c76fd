"""Training: random crops, batches, held-out images, the history, and what Ctrl-C leaves."""

import json
import re
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from helpers.small_net import feature_loss, few_images, small_net

import fsc
from fsc.recover.training import Training, _positions, crop_and_flip, descend, mean_loss, split
from fsc.runtime import fingerprint, quiet

# -- random crops and flips, against every crop and flip that a plain loop can make --------------------------


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crop_by_hand(image: torch.Tensor, dy: int, dx: int, flip: bool) -> torch.Tensor:
    """Pixel by pixel: shift by (dy, dx), black where the shifted picture has ended, then mirror."""
    channels, height, width = image.shape
    out = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            from_y, from_x = y + dy, x + dx
            if 0 <= from_y < height and 0 <= from_x < width:
                out[:, y, width - 1 - x if flip else x] = image[:, from_y, from_x]
    return out


def moves(images: torch.Tensor, moved: torch.Tensor) -> list[tuple[int, int, bool]]:
    """For each image the one shift and flip that gives the moved image. Fails if there is none."""
    pad_y, pad_x = images.shape[2] // 8, images.shape[3] // 8
    found = []
    for image, after in zip(images, moved, strict=True):
        fitting = [
            (dy, dx, flip)
            for dy in range(-pad_y, pad_y + 1)
            for dx in range(-pad_x, pad_x + 1)
            for flip in (False, True)
            if torch.equal(crop_by_hand(image, dy, dx, flip), after)
        ]
        assert len(fitting) == 1
        found += fitting
    return found


def test_every_image_is_a_crop_of_itself_by_at_most_an_eighth():
    images = torch.rand(12, 3, 16, 8, generator=generator())
    assert len(set(moves(images, crop_and_flip(images, generator(1))))) > 6     # each in its own way


def test_all_places_occur_equally_often_and_half_are_flipped():
    images = torch.rand(1, 1, 8, 8, generator=generator()).expand(9000, -1, -1, -1)
    moved = crop_and_flip(images, generator(1))
    kinds, counts = moved.flatten(1).unique(dim=0, return_counts=True)
    assert len(kinds) == 3 * 3 * 2
    assert (counts - 500).abs().max() < 5 * 500**0.5                            # five standard deviations
    assert len(set(moves(images[:18], kinds.reshape(18, 1, 8, 8)))) == 18


def test_the_same_state_gives_the_same_crops_whatever_is_in_the_images():
    images = torch.rand(20, 3, 16, 16, generator=generator())
    rng = generator(3)
    first, second = crop_and_flip(images, rng), crop_and_flip(images, rng)
    assert not torch.equal(first, second)
    assert torch.equal(crop_and_flip(images, generator(3)), first)
    # What the teacher sees of an image is what the student sees: another tensor moves just as this one did.
    assert torch.equal(crop_and_flip(2 * images, generator(3)), 2 * first)


def test_the_images_and_torchs_own_random_state_stay_as_they_are():
    images = torch.rand(4, 3, 16, 16, generator=generator())
    before, state = images.clone(), torch.get_rng_state()
    moved = crop_and_flip(images, generator())
    assert torch.equal(images, before) and torch.equal(torch.get_rng_state(), state)
    assert moved.shape == images.shape and moved.dtype == images.dtype


def test_images_smaller_than_eight_pixels_are_only_flipped():
    images = torch.rand(50, 1, 4, 4, generator=generator())
    assert {(dy, dx) for dy, dx, _ in moves(images, crop_and_flip(images, generator()))} == {(0, 0)}


# -- batches -------------------------------------------------------------------------------------------------


def test_an_epoch_draws_without_replacement_and_drops_what_fills_no_batch():
    batches = list(islice(_positions(10, 4, generator()), 20))
    assert {len(rows) for rows in batches} == {4}
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        assert len({*first.tolist(), *second.tolist()}) == 8
    assert {i for rows in batches for i in rows.tolist()} == set(range(10))


@pytest.mark.parametrize("n, size", [(3, 64), (4, 4), (1, 8)])
def test_fewer_images_than_a_batch_make_one_batch_of_all(n, size):
    for rows in islice(_positions(n, size, torch.Generator()), 5):
        assert sorted(rows.tolist()) == list(range(n))


# -- held-out images -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("held_out, count", [(0.3, 3), (0.1, 1), (0.24, 2), (0.9, 9), (0, 0)])
def test_the_fitted_images_keep_their_order_and_the_seed_draws_the_others(held_out, count):
    images = torch.arange(10.0)
    fitted, out = split(images, held_out, seed=5)
    assert len(out) == count and sorted([*fitted.tolist(), *out.tolist()]) == images.tolist()
    assert fitted.tolist() == sorted(fitted.tolist()) and out.tolist() == sorted(out.tolist())
    drawn = torch.randperm(10, generator=generator(5))[:count]
    assert set(out.long().tolist()) == set(drawn.tolist())


def test_images_and_labels_are_split_alike():
    images, labels = few_images()
    wanted = {float(image.sum()): int(label) for image, label in zip(images, labels, strict=True)}
    for part, its_labels in zip(split(images, 0.4, 3), split(labels, 0.4, 3), strict=True):
        assert [wanted[float(image.sum())] for image in part] == its_labels.tolist()


@pytest.mark.parametrize(
    "n, held_out, words",
    [
        (10, 1, "held_out=1 is no share in [0, 1)."),
        (10, -0.1, "held_out=-0.1 is no share in [0, 1)."),
        (10, 0.99, "held_out=0.99 leaves none of 10 images to fit.\n  Here shares from 1/10 to 9/10 work;"),
        (10, 0.04, "held_out=0.04 holds out none of 10 images.\n  Here shares from 1/10 to 9/10 work;"),
        (1, 0.2, "held_out=0.2 holds out none of 1 images.\n  Here no share of one image works; held"),
    ],
)
def test_a_share_that_holds_out_nothing_or_everything_is_refused(n, held_out, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        split(torch.zeros(n), held_out, seed=0)


@pytest.mark.parametrize("n", [2, 3, 7, 50, 333])
def test_the_shares_that_are_said_to_work_do(n):
    for share in (1 / n, (n - 1) / n):
        assert all(map(len, split(torch.zeros(n), share, seed=0)))


def test_the_mean_loss_is_that_of_all_images_at_once_whatever_the_batches():
    images, labels = few_images()
    net = small_net(seed=0)
    found = mean_loss(lambda x, y: F.cross_entropy(net(x).detach(), y), 4, images, labels)()
    assert found == pytest.approx(float(F.cross_entropy(net(images), labels)), rel=1e-6)
    assert mean_loss(lambda x: x.sum(), 4, images[:0]) is None


# -- the history and Ctrl-C, of every method that trains -----------------------------------------------------


def finetune(teacher, student, images, **asked):
    return fsc.finetune(teacher, student, images, few_images()[1], **asked)


@pytest.fixture
def images():
    return few_images()[0]


@pytest.fixture
def teacher():
    net = small_net(seed=0)
    net[8].weight.data *= 20  # its probabilities are far from the student's
    return net


@pytest.fixture
def student():
    return small_net(4, seed=1)


def history(net):
    return fsc.recipe_of(net)[-1]["report"]


METHODS = pytest.mark.parametrize("method", [fsc.mir, finetune, fsc.distill], ids=lambda m: m.__name__)


@METHODS
def test_the_history_is_about_a_hundred_rows_of_plain_numbers(method, teacher, student, images):
    found = method(teacher, student, images, steps=250, held_out=0.2, batch_size=4, progress=quiet)
    rows = history(found)
    assert [row["step"] for row in rows] == [1, *range(2, 251, 2)]
    assert list(rows[0]) == ["step", "loss", "held_out_loss", "lr", "images_per_second"]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert all(row["held_out_loss"] > 0 and row["images_per_second"] > 0 for row in rows)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert fsc.report_of(found).step.tolist() == [row["step"] for row in rows]


@METHODS
def test_held_out_images_are_not_fitted_but_looked_at(method, teacher, student, images):
    _, out = split(images, 0.3, seed=5)
    is_out = torch.tensor([any(torch.equal(image, other) for other in out) for image in images])
    asked = {"steps": 4, "held_out": 0.3, "seed": 5, "progress": quiet}
    one = method(teacher, student, images, **asked)
    changed = torch.where(is_out[:, None, None, None], images.flip(0), images)
    other = method(teacher, student, changed, **asked)
    assert fingerprint(one) == fingerprint(other)
    assert history(one)[-1]["held_out_loss"] != history(other)[-1]["held_out_loss"]
    assert "held_out_loss" not in history(method(teacher, student, images, steps=1, progress=quiet))[0]


def same_loss(method, expected):
    """Equal but for rounding: distillation multiplies log-probabilities, exact to 1e-7, by T^2 = 16."""
    return pytest.approx(expected, rel=1e-5, abs=2e-6 if method is fsc.distill else 0)


def held_out_loss(method, teacher, net, held_out):
    """What the held-out loss of the finished network is, written out."""
    out, labels = (split(part, held_out, seed=0)[1] for part in few_images())
    with torch.no_grad():
        if method is fsc.mir:
            return feature_loss(net, teacher, out)
        if method is finetune:
            return float(F.cross_entropy(net(out), labels))
        p, q = ((model(out) / 4).softmax(1) for model in (teacher, net))
        return float(16 * (p * (p / q).log()).sum(1).mean())


@METHODS
def test_the_held_out_loss_is_that_of_the_student_in_eval_mode(method, teacher, student, images):
    found = method(teacher, student, images, steps=4, held_out=0.3, batch_size=2, progress=quiet)
    expected = held_out_loss(method, teacher, found, 0.3)
    assert history(found)[-1]["held_out_loss"] == same_loss(method, expected)


def interrupted_after(steps, with_what=KeyboardInterrupt):
    def progress(done, total):
        if done == steps:
            raise with_what

    return progress


@METHODS
def test_ctrl_c_gives_back_the_best_student_so_far(method, teacher, student, images):
    words = rf"{method.__name__}: stopped after 30 of 60 steps; this is the student of step \d+, the best"
    with pytest.warns(UserWarning, match=words):
        stop = interrupted_after(30)
        found = method(teacher, student, images, steps=60, lr=0.5, held_out=0.5, progress=stop)
    losses = [row["held_out_loss"] for row in history(found)]
    assert len(losses) == 30 and min(losses) < losses[-1]
    assert held_out_loss(method, teacher, found, 0.5) == same_loss(method, min(losses))
    assert torch.equal(found[8].weight, teacher[8].weight) == (method is fsc.mir)
    assert all(p.grad is None and p.is_contiguous() for p in found.parameters()) and not found.training


@METHODS
def test_ctrl_c_before_the_first_step_gives_the_student(method, teacher, student, images, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("fsc.recover.training.crop_and_flip", interrupt)
    with pytest.warns(UserWarning, match="stopped after 0 of 9 steps; this is the student of step 0"):
        found = method(teacher, student, images, steps=9, progress=quiet)
    assert history(found) == [] and torch.equal(found[0].weight, student[0].weight)


@METHODS
def test_what_else_progress_raises_stops_the_work(method, teacher, student, images):
    class Stopped(Exception):
        pass

    before = fingerprint(student)
    with pytest.raises(Stopped):
        method(teacher, student, images, steps=9, progress=interrupted_after(2, Stopped))
    assert fingerprint(student) == before


def test_without_keep_best_ctrl_c_is_raised_and_leaves_no_gradients(student, images):
    seen = []

    def stop(done, total):
        seen.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        descend(student, lambda batch: student(batch).square().mean(), images, Training(5, progress=stop))
    assert seen == [(1, 5), (2, 5)]
    assert all(p.grad is None and p.is_contiguous() for p in student.parameters())


@METHODS
def test_what_the_task_samples_is_as_good_as_its_images(method, teacher, student):
    few = fsc.load_task("shapes").sample(10)
    found = [method(teacher, student, given, steps=2, progress=quiet) for given in (few, few.images)]
    assert fingerprint(found[0]) == fingerprint(found[1])


@METHODS
def test_a_diverging_loss_names_step_and_learning_rate(method, teacher, student, images):
    before = fingerprint(student)
    words = rf"{method.__name__}: the loss is (nan|inf) at step \d+ of 50 \(lr=1e\+20\)\.\n"
    rest = "  Training has diverged: use a smaller lr.* passed in is unch"
    with pytest.raises(FloatingPointError, match=words + rest):
        method(teacher, student, images, steps=50, lr=1e20, progress=quiet)
    assert fingerprint(student) == before


@METHODS
def test_the_seed_alone_decides_and_the_global_generator_is_left_alone(method, teacher, images):
    student = small_net(dropout=0.5, seed=0)
    asked = {"steps": 4, "batch_size": 4, "held_out": 0.2, "progress": quiet}

    def trained(seed, state):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        found = fingerprint(method(teacher, student, images, seed=seed, **asked))
        assert torch.equal(torch.get_rng_state(), before)
        return found

    assert trained(seed=5, state=1) == trained(seed=5, state=2) != trained(seed=6, state=1)
