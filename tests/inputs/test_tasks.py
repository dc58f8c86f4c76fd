"""Tasks: what the built-in ones hold, how a few samples are drawn, what is said when data are missing."""

import math
import pickle
import re
import urllib.request
from collections import Counter
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from fsc.inputs import shapes
from fsc.inputs.tasks import Images, Task, load_task


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("shapes")


@pytest.fixture
def offline(monkeypatch):
    def fail(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", fail)


def small_task(labels: list[int] | None) -> Task:
    """Image i is filled with the number i."""
    n = 30 if labels is None else len(labels)
    tensor = None if labels is None else torch.tensor(labels)

    def filled(indices):
        return indices.float().reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2)

    images = Images(filled, tensor, torch.arange(n))
    return Task("small", ("a", "b", "c"), "shapes", (2, 2), (0.0,) * 3, (1.0,) * 3, images, None)


def test_shapes_holds_ten_thousand_to_train_and_a_thousand_to_test(task):
    assert (len(task.train), len(task.test)) == (10_000, 1_000)
    assert (task.name, task.like, task.classes, task.size) == ("shapes", "shapes", shapes.CLASSES, (32, 32))
    assert task.example.shape == (1, 3, 32, 32) and task.skipped == ()
    pixels, labels = shapes.draw(1_000, seed=1)
    assert torch.equal(task.test.labels, labels) and labels.dtype == torch.int64
    mean, std = (np.reshape(three, (3, 1, 1)) for three in (shapes.MEAN, shapes.STD))
    expected = (pixels.numpy().astype(np.float64) / 255 - mean) / std
    assert task.test.images.dtype == torch.float32
    np.testing.assert_allclose(task.test.images, expected, atol=1e-5)
    assert torch.equal(task.example, task.train.subset([0]).images)


def test_shapes_are_drawn_once_in_a_process(task):
    again = load_task("shapes")
    assert again.train.labels.data_ptr() == task.train.labels.data_ptr()


def test_a_task_and_its_images_say_what_they_are(task):
    assert repr(task) == "Task shapes: 10,000 images to train, 1,000 test images, 3x32x32, 10 classes"
    assert repr(task.sample(50)) == "50 images"
    words = "Task small: 30 unlabelled images to train, nothing held out, 3x2x2, 3 classes"
    assert repr(small_task(None)) == words


@pytest.mark.parametrize("n", [1, 2, 50, 10_000])
def test_a_sample_has_n_different_images_with_their_own_labels(task, n):
    few = task.sample(n, seed=3)
    assert len(few) == n and few.indices.unique().numel() == n and few.indices.dtype == torch.int64
    assert torch.equal(few.labels, task.train.labels[few.indices])
    assert torch.equal(few.images[:5], task.train.fetch(few.indices[:5]))
    assert few.images.shape == (n, 3, 32, 32) and few.images.dtype == torch.float32


def test_the_seed_decides_the_sample_and_nothing_else_does(task):
    state = torch.get_rng_state()
    few = task.sample(50, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(task.sample(50, seed=1).indices, few.indices)
    assert not torch.equal(task.sample(50, seed=2).indices, few.indices)


@pytest.mark.parametrize("balanced", [False, True])
def test_fifty_are_the_first_fifty_of_a_hundred(task, balanced):
    fifty, hundred = (task.sample(n, seed=4, balanced=balanced).indices for n in (50, 100))
    assert torch.equal(fifty, hundred[:50])


def test_every_image_is_drawn_equally_often():
    small = small_task(None)
    drawn = Counter(i for seed in range(600) for i in small.sample(10, seed=seed).indices.tolist())
    expected = 600 * 10 / 30
    assert max(abs(drawn[i] - expected) for i in range(30)) < 5 * math.sqrt(expected * 2 / 3)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 12])
def test_balanced_classes_differ_by_at_most_one(n):
    few = small_task([0] * 20 + [1] * 5 + [2] * 4).sample(n, seed=n, balanced=True)
    counts = few.labels.bincount(minlength=3)
    assert counts.sum() == n and counts.max() - counts.min() <= 1
    assert few.indices.unique().numel() == n


def test_the_classes_that_give_one_more_and_the_images_are_drawn_at_random():
    labels = [0] * 9 + [1] * 9 + [2] * 9
    draws = [small_task(labels).sample(4, seed=seed, balanced=True) for seed in range(300)]
    more = Counter(int(few.labels.bincount().argmax()) for few in draws)
    assert all(abs(more[c] - 100) < 5 * math.sqrt(300 * 2 / 9) for c in range(3))
    images = Counter(i for few in draws for i in few.indices.tolist())
    assert all(abs(images[i] - 1200 / 27) < 5 * math.sqrt(1200 / 27) for i in range(27))


def test_balance_is_over_the_classes_that_are_there():
    few = small_task([0] * 9 + [2] * 9).sample(6, balanced=True)
    assert few.labels.bincount().tolist() == [3, 0, 3]


@pytest.mark.parametrize(
    "n, error, words",
    [
        (0, ValueError, "sample: asked for 0 images; there are 29 to draw from, without replacement.\n"),
        (-3, ValueError, "sample: asked for -3 images; there are 29"),
        (30, ValueError, "sample: asked for 30 images; there are 29"),
        (2.0, TypeError, "sample: n must be a whole number of images, got 2.0.\n  Pass n from 1 to 29."),
        ("5", TypeError, "sample: n must be a whole number of images, got '5'."),
        (True, TypeError, "sample: n must be a whole number of images, got True."),
    ],
)
def test_a_number_that_cannot_be_drawn_is_refused(n, error, words):
    with pytest.raises(error, match=re.escape(words)):
        small_task([0] * 20 + [1] * 5 + [2] * 4).sample(n)


def test_a_whole_number_of_numpy_is_a_number():
    assert len(small_task(None).sample(np.int64(3))) == 3


def test_a_class_too_small_for_balance_is_named():
    words = '13 images balanced over 3 classes, 5 of each; "c" has 4.\n  Pass n up to 12, or balanced=False.'
    with pytest.raises(ValueError, match=re.escape(words)):
        small_task([0] * 20 + [1] * 5 + [2] * 4).sample(13, balanced=True)


def test_balance_without_labels_is_refused():
    with pytest.raises(ValueError, match='balanced=True needs labels, and the images of the task "small"'):
        small_task(None).sample(3, balanced=True)


@pytest.mark.parametrize("kept", [False, True])
def test_batches_are_all_images_in_order(kept):
    few = small_task([0, 1, 2] * 7).sample(11)
    if kept:
        _ = few.images
    images, labels = zip(*few.batches(4), strict=True)
    assert [len(b) for b in images] == [4, 4, 3] == [len(b) for b in labels]
    assert torch.equal(torch.cat(images)[:, 0, 0, 0].long(), few.indices)
    assert torch.equal(torch.cat(labels), few.labels)
    assert ("images" in few.__dict__) == kept                       # batches keep nothing themselves
    assert [labels for _, labels in small_task(None).train.batches(20)] == [None, None]


def test_a_subset_of_a_subset_counts_within_the_split():
    part = small_task([0, 1, 2] * 7).train.subset([20, 5, 6]).subset(torch.tensor([2, 0]))
    assert part.indices.tolist() == [6, 20] and part.labels.tolist() == [0, 2]
    assert part.images[:, 0, 0, 0].tolist() == [6, 20]


def test_a_task_without_held_out_images_says_so():
    words = r'test: the task "small" holds no labelled images back.*\n  Measure on another task \(load_task'
    with pytest.raises(ValueError, match=words):
        _ = small_task(None).test


def test_a_task_travels_to_another_process(task):
    few = pickle.loads(pickle.dumps(task.test.subset([3, 4])))
    assert torch.equal(few.images, task.test.images[3:5])


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("cifar", {}, 'unknown task "cifar". Did you mean "cifar10"?\n  Known: shapes, cifar10, cifar100, '),
        ("mnist", {}, 'unknown task "mnist".\n  Known: shapes'),
        ("cifar10", {"like": "shapes"}, 'like="shapes" goes with "folder" only, not with "cifar10"'),
        ("shapes", {"root": "x"}, 'shapes are drawn, not read from files; got root="x".'),
        ("imagenet", {}, "imagenet needs root=DIR, the folder of your copy; it is never downloaded."),
    ],
)
def test_a_request_that_fits_no_task_is_refused(name, options, words):
    with pytest.raises(ValueError, match=re.escape(f"load_task: {words}")):
        load_task(name, **options)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_from_its_own_files(name, tmp_path, monkeypatch):
    """Batches written here as the originals are: rows of 3072 bytes, all red ones first."""
    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    key = "labels" if name == "cifar10" else "fine_labels"
    rng = np.random.default_rng(0)
    folder = tmp_path / source.base_folder
    folder.mkdir()
    lists = {"train_list": [["one", None], ["two", None]], "test_list": [["three", None]]}
    for attribute, files in lists.items():
        monkeypatch.setattr(source, attribute, files)
    written = {}
    for file in ("one", "two", "three"):
        written[file] = rng.integers(0, 256, (4, 3072), dtype=np.uint8), rng.integers(0, 10, 4).tolist()
        (folder / file).write_bytes(pickle.dumps({"data": written[file][0], key: written[file][1]}))
    (folder / "meta").write_bytes(pickle.dumps({"names": []}))
    monkeypatch.setattr(source, "meta", {"filename": "meta", "key": "names", "md5": None})

    task = load_task(name, tmp_path)
    assert (len(task.train), len(task.test), len(task.classes)) == (8, 4, int(name[5:]))
    assert list(task.classes) == sorted(task.classes) and task.like == name
    assert task.train.labels.tolist() == written["one"][1] + written["two"][1]
    pixels = written["three"][0].reshape(4, 3, 32, 32) / 255
    mean, std = (np.reshape(three, (3, 1, 1)) for three in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    expected = (pixels - mean) / std
    np.testing.assert_allclose(task.test.images, expected, atol=1e-5)


def write_class(folder, n: int = 1):
    folder.mkdir(parents=True)
    for i in range(n):
        Image.new("RGB", (40 + i, 300), (200, 10, 10)).save(folder / f"{folder.name}_{i}.JPEG")


IMAGENETTE = {
    "n01440764": "tench", "n02102040": "English springer", "n02979186": "cassette player",
    "n03000684": "chain saw", "n03028079": "church", "n03394916": "French horn", "n03417042": "garbage truck",
    "n03425413": "gas pump", "n03445777": "golf ball", "n03888257": "parachute",
}  # fmt: skip


def test_imagenette_keeps_the_labels_of_imagenet(tmp_path):
    for split in ("train", "val"):
        for wnid in IMAGENETTE:
            write_class(tmp_path / "imagenette2-320" / split / wnid)
    task = load_task("imagenette", tmp_path)
    assert [task.classes[label] for label in task.train.labels] == list(IMAGENETTE.values())
    assert len(task.classes) == 1000 and task.size == (224, 224) and task.like == "imagenette"
    assert task.test.images.shape == (10, 3, 224, 224)

    (tmp_path / "imagenette2-320" / "val" / "n01440764").rename(tmp_path / "lost")
    with pytest.raises(ValueError, match="val holds 9 of Imagenette's 10 class folders.\n  It was not"):
        load_task("imagenette", tmp_path)


def test_imagenet_with_fewer_than_its_thousand_classes_is_refused(tmp_path):
    wnids = [f"n{i:08d}" for i in range(3)]
    for split in ("train", "val"):
        for wnid in wnids:
            write_class(tmp_path / split / wnid)
    torch.save(({wnid: ("name",) for wnid in wnids}, []), tmp_path / "meta.bin")
    with pytest.raises(ValueError, match="train holds 3 class folders; ImageNet has 1000.\n.* labels would"):
        load_task("imagenet", tmp_path)


def test_imagenet_says_which_archives_it_expects(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected in .*: ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012"):
        load_task("imagenet", tmp_path / "nothing")


@pytest.mark.parametrize(
    "name, file",
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("cifar100", "cifar-100-python.tar.gz"),
        ("imagenette", "imagenette2-320.tgz"),
    ],
)
def test_without_a_network_the_expected_file_is_named(name, file, tmp_path, offline):
    words = rf"load_task: {name} is not in {tmp_path}.*Name or service.*\n  Expected: {tmp_path / file}\n"
    with pytest.raises(FileNotFoundError, match=words) as caught:
        load_task(name, tmp_path)
    assert isinstance(caught.value.__cause__, URLError)
    assert list(tmp_path.iterdir()) == []


def test_a_download_goes_into_the_users_cache_by_default(tmp_path, offline, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = str(tmp_path / ".cache" / "fsc" / "cifar-10-python.tar.gz")
    with pytest.raises(FileNotFoundError, match=re.escape(expected)):
        load_task("cifar10")
