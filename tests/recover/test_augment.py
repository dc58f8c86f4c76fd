"""Random crop and flip, held against every crop and flip that a plain loop can make."""

import torch

from fsc.recover.augment import crop_and_flip


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
    """For each image, the one shift and flip that a loop needs to get the moved image. Fails if there is none."""
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
