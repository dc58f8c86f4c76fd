"""Folders of pictures: the two layouts, the labels, sizes, and every way in which a folder can be wrong."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets, transforms
from torchvision.models import ResNet18_Weights

from fsc.inputs.builtin_tasks import CIFAR10
from fsc.inputs.tasks import load_task


def picture(path: Path, size=(32, 32), seed: int = 0, mode: str = "RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def labelled(root: Path, train=("cat", "dog", "ship"), test=None, n: int = 2) -> Path:
    for side, names in (("train", train), ("test", train if test is None else test)):
        for k, name in enumerate(names):
            for i in range(n):
                picture(root / side / name / f"{i}.png", seed=100 * k + 10 * i + len(side))
    return root


def test_class_folders_equal_torchvisions_imagefolder(tmp_path):
    task = load_task("folder", labelled(tmp_path, CIFAR10, n=3), like="cifar10")
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    prepare = transforms.Compose([transforms.ToTensor(), normalise])
    for split in ("train", "test"):
        reference = datasets.ImageFolder(str(tmp_path / split), transform=prepare)
        images = getattr(task, split)
        assert images.labels.tolist() == reference.targets and images.labels.dtype == torch.int64
        expected = torch.stack([image for image, _ in reference])
        torch.testing.assert_close(images.images, expected, atol=1e-6, rtol=0)
    assert (task.name, task.like, task.classes, task.skipped) == ("folder", "cifar10", CIFAR10, ())


def test_some_classes_of_like_keep_their_labels(tmp_path):
    task = load_task("folder", labelled(tmp_path), like="cifar10")
    assert task.classes == CIFAR10 and task.train.labels.tolist() == [3, 3, 5, 5, 8, 8]


def test_folders_that_like_does_not_know_are_classes_of_their_own(tmp_path):
    task = load_task("folder", labelled(tmp_path, ("zebra", "apple")), like="cifar10")
    assert task.classes == ("apple", "zebra") and task.test.labels.tolist() == [0, 0, 1, 1]


def test_a_flat_folder_has_no_labels_and_nothing_held_out(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.png", seed=i)
    task = load_task("folder", str(tmp_path), like="shapes")
    assert task.train.labels is None and task.held_out is None and len(task.train) == 3
    assert task.sample(2).images.shape == (2, 3, 32, 32) and task.like == "shapes"


@pytest.mark.parametrize("extension", "png jpg jpeg JPG bmp webp gif ppm tif tiff".split())
def test_every_usual_format_is_a_picture(tmp_path, extension):
    picture(tmp_path / f"a.{extension}")
    assert load_task("folder", tmp_path, like="cifar10").example.shape == (1, 3, 32, 32)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = picture(tmp_path / "a.png", mode=mode)
    task = load_task("folder", tmp_path, like="cifar10")
    pixels = np.array(Image.open(path).convert("RGB")).transpose(2, 0, 1)[None] / 255
    mean, std = (np.reshape(three, (3, 1, 1)) for three in (task.mean, task.std))
    np.testing.assert_allclose(task.example.numpy() * std + mean, pixels, atol=1e-6)


def test_hidden_files_and_other_extensions_are_no_pictures(tmp_path):
    picture(tmp_path / "a.png")
    for name in (".hidden.png", "notes.txt", "Thumbs.db", "._a.png"):
        (tmp_path / name).write_bytes(b"no picture")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_task("folder", tmp_path, like="cifar10").train) == 1


@pytest.mark.parametrize("size", [(500, 375), (300, 640), (256, 256), (90, 120), (224, 300)])
def test_imagenet_like_pictures_are_prepared_as_torchvision_does(tmp_path, size):
    path = picture(tmp_path / "a.png", size)
    reference = ResNet18_Weights.IMAGENET1K_V1.transforms()(Image.open(path))
    image = load_task("folder", tmp_path, like="imagenet").example[0]
    torch.testing.assert_close(image, reference, atol=1e-5, rtol=0)


def test_a_picture_of_the_right_size_is_taken_as_it_is(tmp_path):
    path = picture(tmp_path / "a.png", (224, 224))
    task = load_task("folder", tmp_path, like="imagenette")
    reference = transforms.Normalize(task.mean, task.std)(transforms.ToTensor()(Image.open(path)))
    torch.testing.assert_close(task.example[0], reference, atol=1e-6, rtol=0)


def test_other_sizes_are_resized_and_cut_to_those_of_like(tmp_path):
    path = picture(tmp_path / "a.png", (100, 64))
    task = load_task("folder", tmp_path, like="cifar10")
    by_hand = Image.open(path).resize((50, 32), Image.Resampling.BILINEAR).crop((9, 0, 41, 32))
    reference = transforms.Normalize(task.mean, task.std)(transforms.ToTensor()(by_hand))
    torch.testing.assert_close(task.example[0], reference, atol=1e-6, rtol=0)


BREAK = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<html>404</html>"),
    "16 bit": lambda path: Image.fromarray(np.full((32, 32), 40_000, dtype=np.uint16)).save(path),
}


@pytest.mark.parametrize("how", BREAK)
def test_a_broken_picture_is_left_out_and_named(tmp_path, how):
    labelled(tmp_path)
    path = tmp_path / "train" / "dog" / "1.png"
    BREAK[how](path)
    words = rf"load_task: 1 picture cannot be read and is left out: {re.escape(str(path))} \(.+\)\."
    with pytest.warns(UserWarning, match=words) as caught:
        task = load_task("folder", tmp_path, like="cifar10")
    assert caught[0].filename == __file__                            # the warning points at the caller's line
    assert task.skipped == (path,) and task.train.labels.tolist() == [3, 3, 5, 8, 8] and len(task.test) == 6
    assert task.train.images.shape == (5, 3, 32, 32)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "gif", "bmp", "ppm"])
def test_a_truncated_picture_of_another_format_is_found(tmp_path, suffix):
    picture(tmp_path / "good.png")
    BREAK["truncated"](picture(tmp_path / f"bad.{suffix}"))
    with pytest.warns(UserWarning, match=rf"1 picture cannot be read.*bad\.{suffix}"):
        assert len(load_task("folder", tmp_path, like="cifar10").train) == 1


def test_many_broken_pictures_are_counted_and_kept_in_a_list(tmp_path):
    picture(tmp_path / "good.png")
    for i in range(12):
        (tmp_path / f"{i:02d}.png").write_text("no")
    with pytest.warns(UserWarning, match="12 pictures cannot be read.*09.png.*, and more: see task.skipped"):
        task = load_task("folder", tmp_path, like="cifar10")
    assert [path.name for path in task.skipped] == [f"{i:02d}.png" for i in range(12)]


def test_a_picture_that_breaks_later_is_named(tmp_path):
    task = load_task("folder", picture(tmp_path / "a.png").parent, like="cifar10")
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(OSError, match="cannot read the picture .*a.png"):
        _ = task.train.images


def only_broken(root):
    for side in ("train", "test"):
        for path in (labelled(root) / side).rglob("*.png"):
            if side == "test":
                path.write_text("no")


WRONG = {
    "nowhere": (lambda root: root.rmdir(), FileNotFoundError, "there is no folder {root}."),
    "empty": (lambda root: None, ValueError, "0 pictures and 0 folders (none).\n  Understood: DIR/train/"),
    "no pictures": (lambda root: (root / "a.txt").touch(), ValueError, "0 pictures and 0 folders (none)."),
    "classes, no splits": (
        lambda root: [picture(root / c / "a.png") for c in ("cat", "dog")],
        ValueError,
        "{root} is neither of the two layouts that are understood.\n  Found: 0 pictures and 2 folders (cat,",
    ),
    "only train": (lambda root: picture(root / "train/cat/a.png"), ValueError, "and 1 folders (train)"),
    "flat and folders": (
        lambda root: [picture(root / "a.png"), picture(root / "more/b.png")],
        ValueError,
        "Found: 1 pictures and 1 folders (more).",
    ),
    "classes differ": (
        lambda root: labelled(root, ("cat", "dog", "ship"), ("cat", "truck")),
        ValueError,
        "the classes in {root} differ between train and test.\n  Only in train: dog, ship. Only in test: t",
    ),
    "mixed classes": (
        lambda root: labelled(root, ("cat", "dog", "automobil", "zzz")),
        ValueError,
        "of the 4 class folders in {root}, 2 are no classes of cifar10.\n"
        '  Unknown: "automobil". Did you mean "automobile"?\n  Unknown: "zzz".\n',
    ),
    "an empty class": (
        lambda root: (labelled(root) / "train" / "frog").mkdir(),
        ValueError,
        "{root}/train has no pictures in frog.\n  Asked for: train/CLASS/*.png, at least one picture in",
    ),
    "pictures beside the classes": (
        lambda root: picture(labelled(root) / "test" / "a.png"),
        ValueError,
        "{root}/test has 1 pictures beside the class folders.",
    ),
    "no classes": (
        lambda root: [(root / side).mkdir() for side in ("train", "test")],
        ValueError,
        "{root}/train has no class folders.",
    ),
    "all broken": (
        only_broken,
        ValueError,
        "none of the pictures in {root}/test can be read.\n  The first: {root}/test/cat/0.png (cannot",
    ),
    "all broken, flat": (
        lambda root: (root / "a.png").write_text("no"),
        ValueError,
        "none of the pictures in {root} can be read.\n  The first: {root}/a.png (cannot identify",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_folder_that_cannot_be_understood_is_refused(tmp_path, case):
    make, error, words = WRONG[case]
    make(tmp_path)
    with pytest.raises(error, match=re.escape(words.format(root=tmp_path))) as caught:
        load_task("folder", tmp_path, like="cifar10")
    assert str(caught.value).startswith("load_task: ")


@pytest.mark.parametrize(
    "options, words",
    [
        ({"like": "cifar10"}, "got root=None, like=cifar10."),
        ({"root": "."}, "got root=., like=None."),
        ({"root": ".", "like": "cifar"}, 'got root=., like=cifar. Did you mean "cifar10"?\n  TASK is one of'),
    ],
)
def test_a_folder_needs_a_root_and_a_task_it_is_like(options, words):
    words = 'load_task: "folder" needs root=DIR and like=TASK; ' + words
    with pytest.raises(ValueError, match=re.escape(words)):
        load_task("folder", **options)


@pytest.mark.real
def test_the_cifar10_subset_loads_with_cifar10s_labels(real_data):
    task = load_task("folder", real_data / "cifar10-subset", like="cifar10")
    assert (len(task.train), len(task.test), task.classes, task.skipped) == (2500, 446, CIFAR10, ())
    reference = datasets.ImageFolder(str(real_data / "cifar10-subset" / "train"))
    assert task.train.labels.tolist() == reference.targets
    assert task.train.images.shape == (2500, 3, 32, 32)
    assert sorted(task.sample(103, balanced=True).labels.bincount().tolist()) == [10] * 7 + [11] * 3


@pytest.mark.real
def test_photographs_without_labels_load_small_and_large(real_data):
    small = load_task("folder", real_data / "natural-32" / "images", like="cifar10")
    assert len(small.train) == 1000 and small.example.shape == (1, 3, 32, 32) and small.train.labels is None
    large = load_task("folder", real_data / "natural-224" / "images", like="imagenet")
    assert len(large.train) == 250 and large.sample(4).images.shape == (4, 3, 224, 224)
    first = min((real_data / "natural-224" / "images").iterdir())
    reference = ResNet18_Weights.IMAGENET1K_V1.transforms()(Image.open(first).convert("RGB"))
    torch.testing.assert_close(large.example[0], reference, atol=1e-5, rtol=0)
