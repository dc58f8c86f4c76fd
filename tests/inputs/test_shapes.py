"""The drawn images: the same each time, outlines of the right area, colours that do not tell the class."""

import math

import pytest
import torch

from fsc.inputs import shapes


def test_a_drawing_is_uint8_of_32_pixels_with_one_of_ten_labels():
    images, labels = shapes.draw(1100, seed=3)
    assert images.shape == (1100, 3, 32, 32) and images.dtype == torch.uint8
    assert labels.shape == (1100,) and labels.dtype == torch.int64
    assert labels.unique().tolist() == list(range(10)) and len(shapes.CLASSES) == 10


def test_the_same_seed_draws_the_same_and_another_seed_others():
    images, labels = shapes.draw(64, seed=0)
    again, labels_again = shapes.draw(64, seed=0)
    assert torch.equal(images, again) and torch.equal(labels, labels_again)
    assert not torch.equal(images, shapes.draw(64, seed=1)[0])


def test_drawing_leaves_torchs_own_random_state_alone():
    state = torch.get_rng_state()
    shapes.draw(8, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_thread_draws_what_two_draw():
    threads = torch.get_num_threads()
    drawn = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            drawn.append(shapes.draw(200, seed=5)[0].int())
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*drawn)


def test_classes_are_about_equally_frequent():
    labels = shapes.draw(5000, seed=2)[1]
    assert (labels.bincount() - 500).abs().max() < 5 * (5000 * 0.1 * 0.9) ** 0.5  # five standard deviations


def test_no_two_pictures_of_train_and_test_are_the_same():
    pictures = torch.cat([shapes.draw(1000, seed=seed)[0] for seed in (0, 1)])
    assert len(pictures.flatten(1).unique(dim=0)) == 2000


def test_mean_and_standard_deviation_normalise_the_drawings():
    pixels = shapes.draw(1000, seed=0)[0] / 255
    normal = (pixels - torch.tensor(shapes.MEAN)[:, None, None]) / torch.tensor(shapes.STD)[:, None, None]
    assert normal.mean((0, 2, 3)).abs().max() < 0.1
    assert (normal.std((0, 2, 3)) - 1).abs().max() < 0.25


def segment(radius: float, distance: float) -> float:
    """Area of the part of a disc that lies beyond a chord at `distance` from its centre."""
    return radius**2 * math.acos(distance / radius) - distance * (radius**2 - distance**2) ** 0.5


def lens(r: float, s: float, d: float) -> float:
    """Area common to two discs of radii r and s with centres d apart."""
    chord = (d * d + r * r - s * s) / (2 * d)
    return segment(r, chord) + segment(s, d - chord)


def polygon(corners: int, inner: float) -> float:
    return corners * inner**2 * math.tan(math.pi / corners)


AREAS = {
    "disc": math.pi * 0.92**2,
    "ring": math.pi * (0.92**2 - 0.5**2),
    "half disc": segment(0.92, -0.12),
    "crescent": math.pi * 0.92**2 - lens(0.92, 0.72, 0.45),
    "triangle": polygon(3, math.cos(math.pi / 3) + 0.02),
    "square": 1.52**2,
    "pentagon": polygon(5, math.cos(math.pi / 5) + 0.06),
    "star": 5 * 1.05 * 0.45 * math.sin(math.pi / 5),
    "cross": 2 * 1.9 * 0.66 - 0.66**2,
    "bar": 1.96 * 0.84,
}


@pytest.mark.parametrize("name", shapes.CLASSES)
def test_an_outline_encloses_the_area_that_geometry_says(name):
    line = (torch.arange(1200) + 0.5) / 1200 * 3 - 1.5
    v, u = torch.meshgrid(line, line, indexing="ij")
    inside = (shapes._OUTLINES[name](u, v) < 0).double().mean() * 9
    assert inside == pytest.approx(AREAS[name], rel=5e-3)


def test_colours_alone_do_not_tell_the_class():
    """The nearest class mean of the raw pixels is right little more often than by chance (0.1)."""
    train, train_labels = shapes.draw(4000, seed=0)
    test, test_labels = shapes.draw(1000, seed=1)
    means = torch.stack([train[train_labels == c].float().mean(0).flatten() for c in range(10)])
    guess = torch.cdist(test.float().flatten(1), means).argmin(1)
    assert (guess == test_labels).double().mean() < 0.25
