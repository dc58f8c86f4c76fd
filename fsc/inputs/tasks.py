"""Images in: a task is a set of training images, held-out images and class names; a few samples of it are an index."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from numbers import Integral
from pathlib import Path

import torch
from torch import Tensor

from fsc.arguments import nearest
from fsc.inputs import datasets, shapes
from fsc.inputs.builtin_tasks import NAMES, Kind, kind_of
from fsc.inputs.picture_folders import LAYOUTS, read_all, read_folder
from fsc.runtime import public, warn


@dataclass(frozen=True, eq=False)
class Images:
    """Some images of a split, decoded only when asked for.

    `fetch` makes normalised float32 images (n, 3, H, W) from indices into the split (n,); `indices` (N,) says which
    images of the split these are; `labels` (N,) int64 belong to them, or are None.
    """

    fetch: Callable[[Tensor], Tensor]
    labels: Tensor | None
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"{len(self):,} {'unlabelled ' if self.labels is None else ''}images"

    @cached_property
    def images(self) -> Tensor:
        """All of them at once, kept: (N, 3, H, W) float32, normalised. For many images use `batches`."""
        return self.fetch(self.indices)

    def batches(self, size: int = 256) -> Iterator[tuple[Tensor, Tensor | None]]:
        """In order and without keeping them: images (at most `size`, 3, H, W) and their labels, or None."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            images = self.images[part] if "images" in self.__dict__ else self.fetch(self.indices[part])
            yield images, None if self.labels is None else self.labels[part]

    def subset(self, positions: Sequence[int] | Tensor) -> "Images":
        """Those at `positions`, which count within these images; `indices` go on counting within the split."""
        positions = torch.as_tensor(positions)
        return Images(self.fetch, None if self.labels is None else self.labels[positions], self.indices[positions])


@dataclass(frozen=True, eq=False)
class Task:
    """What to classify, and how the images are prepared.

    `classes` are what the labels count through; `like` is the built-in task whose size, normalisation and networks go
    with these images (for a built-in task its own name); `skipped` are the picture files that could not be read.
    """

    name: str
    classes: tuple[str, ...]
    like: str
    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    train: Images
    held_out: Images | None
    skipped: tuple[Path, ...] = ()

    def __repr__(self) -> str:
        shape = "x".join(map(str, (3, *self.size)))
        test = "nothing held out" if self.held_out is None else f"{len(self.held_out):,} test images"
        return f"Task {self.name}: {self.train!r} to train, {test}, {shape}, {len(self.classes)} classes"

    @property
    def test(self) -> Images:
        """The held-out images with their labels.

        Raises:
            ValueError: the task has none.
        """
        if self.held_out is None:
            raise ValueError(
                f'task.test: the task "{self.name}" holds no labelled images back; it was loaded from a flat folder.\n'
                f'  Measure on another task (load_task("{self.like}").test), or arrange the pictures as {LAYOUTS[0]}.'
            )
        return self.held_out

    @property
    def example(self) -> Tensor:
        """The first training image: (1, 3, H, W), normalised."""
        return self.train.subset([0]).images

    def sample(self, n: int, *, seed: int = 0, balanced: bool = False) -> Images:
        """Draw `n` training images without replacement; the same seed draws the same, and 50 are the first 50 of 100.

        Args:
            n: from 1 to the number of training images.
            seed: of a generator of its own; torch's global state is not touched.
            balanced: as many of each class as of any other; where `n` is no multiple, some classes give one more.

        Raises:
            TypeError: `n` is not a whole number.
            ValueError: `n` is below 1 or above what there is (balanced: in some class), or balanced without labels.
        """
        there = len(self.train)
        if isinstance(n, bool) or not isinstance(n, Integral):
            raise TypeError(f"sample: n must be a whole number of images, got {n!r}.\n  Pass n from 1 to {there}.")
        if not 1 <= n <= there:
            raise ValueError(
                f"sample: asked for {n} images; there are {there} to draw from, without replacement.\n"
                f"  Pass n from 1 to {there}."
            )
        rng = torch.Generator().manual_seed(seed)
        order = torch.randperm(there, generator=rng)
        if balanced:
            order = order[self._turns(order, int(n), rng).argsort()]
        return self.train.subset(order[:n])

    def _turns(self, order: Tensor, n: int, rng: torch.Generator) -> Tensor:
        """When each image of `order` has its turn: classes, in random order, give one image each, round by round."""
        if self.train.labels is None:
            raise ValueError(
                f'sample: balanced=True needs labels, and the images of the task "{self.name}" have none.\n'
                f"  Leave balanced out."
            )
        labels = self.train.labels[order]
        present, counts = labels.unique(return_counts=True)
        rounds = -(-n // len(present))
        if counts.min() < rounds:
            scarce = self.classes[present[counts.argmin()]]
            raise ValueError(
                f'sample: asked for {n} images balanced over {len(present)} classes, {rounds} of each; '
                f'"{scarce}" has {int(counts.min())}.\n'
                f"  Pass n up to {int(counts.min()) * len(present)}, or balanced=False."
            )
        turns = torch.empty_like(order)
        for place, label in enumerate(present[torch.randperm(len(present), generator=rng)]):
            mine = labels == label
            turns[mine] = torch.arange(int(mine.sum())) * len(present) + place
        return turns


@public
def load_task(name: str, root: str | Path | None = None, *, like: str | None = None) -> Task:
    """Images to work with.

    - `"shapes"`: drawn by the package in seconds, 10,000 to train and 1,000 held out; no files.
    - `"cifar10"`, `"cifar100"`, `"imagenette"`: torchvision's data sets in `root` (`~/.cache/fsc` if left out),
      downloaded if not there. Imagenette's labels are ImageNet's, so that ImageNet's networks can be scored on it.
    - `"imagenet"`: torchvision's `ImageNet` in `root`; never downloaded.
    - `"folder"`: your pictures in `root`, prepared for the networks of the built-in task `like`: either
      `train/CLASS/*.png` and `test/CLASS/*.png`, or a flat folder of unlabelled pictures. If all class folders have
      names that `like` knows, the labels are those of `like`, even if only some of its classes are there; if it knows
      none, the folders are the classes, by name. Pictures are png, jpg, bmp, webp, gif, ppm, pgm and tif; hidden files
      and other extensions are ignored. A picture of `like`'s size is taken as it is; any other has its shorter side
      resized and its centre cut out. Pictures that cannot be read are left out, with a warning: see `task.skipped`.

    Raises:
        FileNotFoundError: the data are not there and could not be downloaded; says which file is expected where.
        ValueError: unknown name; `root` or `like` missing or out of place; an empty, broken or contradictory folder.
    """
    if name == "folder":
        return _load_folder(root, like)
    if name not in NAMES:
        raise ValueError(
            f'load_task: unknown task "{name}".{nearest(name, (*NAMES, "folder"))}\n'
            f'  Known: {", ".join(NAMES)}; for your own pictures: load_task("folder", root=DIR, like="cifar10").'
        )
    if like is not None:
        raise ValueError(f'load_task: like="{like}" goes with "folder" only, not with "{name}".\n  Leave it out.')
    if name == "imagenet" and root is None:
        raise ValueError(
            "load_task: imagenet needs root=DIR, the folder of your copy; it is never downloaded.\n"
            '  ImageNet asks for a registration at https://image-net.org; "imagenette" is a free part, ten classes.'
        )
    if name == "shapes" and root is not None:
        raise ValueError(f'load_task: shapes are drawn, not read from files; got root="{root}".\n  Leave it out.')
    kind = kind_of(name)
    root = Path.home() / ".cache" / "fsc" if root is None else Path(root).expanduser()
    if name == "shapes":
        train, test = (_stored(*_drawn(n, seed), kind) for n, seed in ((10_000, 0), (1_000, 1)))
    elif name in ("cifar10", "cifar100"):
        train, test = (_stored(*split, kind) for split in datasets.cifar(name, root))
    else:
        load = datasets.imagenette if name == "imagenette" else datasets.imagenet
        train, test = (_filed(*split, kind) for split in load(root))
    return Task(name, kind.classes, name, kind.size, kind.mean, kind.std, train, test)


@lru_cache
def _drawn(n: int, seed: int) -> tuple[Tensor, Tensor]:
    return shapes.draw(n, seed=seed)


def _stored(pixels: Tensor, labels: Tensor, kind: Kind) -> Images:
    """A split that is held in memory: pixels (N, 3, H, W) uint8."""
    return Images(partial(_look_up, pixels, kind), labels, torch.arange(len(labels)))


def _look_up(pixels: Tensor, kind: Kind, indices: Tensor) -> Tensor:
    return kind.normalise(pixels[indices])


def _filed(paths: Sequence[str | Path], labels: list[int] | None, kind: Kind) -> Images:
    """A split that stays in its picture files."""
    labels = None if labels is None else torch.tensor(labels, dtype=torch.int64)
    return Images(partial(_decode, paths, kind), labels, torch.arange(len(paths)))


def _decode(paths: Sequence[str | Path], kind: Kind, indices: Tensor) -> Tensor:
    return kind.normalise(read_all([paths[i] for i in indices.tolist()], kind.size, kind.shorter))


def _load_folder(root: str | Path | None, like: str | None) -> Task:
    if root is None or like not in NAMES:
        raise ValueError(
            f'load_task: "folder" needs root=DIR and like=TASK; got root={root}, like={like}.{nearest(like, NAMES)}\n'
            f"  TASK is one of {', '.join(NAMES)}: whose size, normalisation and networks go with your pictures."
        )
    kind = kind_of(like)
    found = read_folder(Path(root).expanduser(), like)
    if found.broken:
        names = ", ".join(f"{path} ({why})" for path, why in list(found.broken.items())[:10])
        more = ", and more: see task.skipped" if len(found.broken) > 10 else ""
        many, are = ("s", "are") if len(found.broken) > 1 else ("", "is")
        said = f"load_task: {len(found.broken)} picture{many} cannot be read and {are} left out: {names}{more}."
        warn(said)
    train, test = (None if split is None else _filed(*split, kind) for split in (found.train, found.test))
    return Task("folder", found.classes, like, kind.size, kind.mean, kind.std, train, test, tuple(found.broken))
