"""A task: training images, held-out images and class names; `sample` draws a few of the training images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from numbers import Integral
from pathlib import Path

import torch
from torch import Tensor

from fsc.arguments import nearest
from fsc.inputs import builtin_tasks
from fsc.inputs.builtin_tasks import NAMES, BuiltinTask, builtin_task
from fsc.inputs.picture_folders import LAYOUTS, read_all, read_folder
from fsc.runtime import generator, public, warn


@dataclass(frozen=True, eq=False)
class Images:
    """Some images of a split, with or without labels; a file is decoded only when its image is asked for."""

    fetch: Callable[[Tensor], Tensor]   # indices into the split (n,) -> normalised (n, 3, H, W) float32
    labels: Tensor | None               # (N,) int64
    indices: Tensor                     # (N,), the places of these images in the split

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"{len(self):,} {'unlabelled ' if self.labels is None else ''}images"

    @cached_property
    def images(self) -> Tensor:
        """All of them, (N, 3, H, W) float32, normalised, kept in memory. For many images use `batches`."""
        return self.fetch(self.indices)

    def batches(self, size: int = 256) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Images (at most `size`, 3, H, W) with their labels or None, in order. Nothing stays in memory."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            images = self.images[part] if "images" in self.__dict__ else self.fetch(self.indices[part])
            yield images, None if self.labels is None else self.labels[part]

    def subset(self, positions: Sequence[int] | Tensor) -> "Images":
        """The images at `positions` among these; their `indices` still say where they are in the split."""
        positions = torch.as_tensor(positions)
        labels = None if self.labels is None else self.labels[positions]
        return Images(self.fetch, labels, self.indices[positions])


@dataclass(frozen=True, eq=False)
class Task:
    """Images to classify, their classes, and the way in which they were prepared."""

    name: str
    classes: tuple[str, ...]            # in the order of the labels
    like: str                           # the built-in task whose size, normalisation and networks fit
    size: tuple[int, int]               # (H, W)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    train: Images
    held_out: Images | None
    skipped: tuple[Path, ...] = ()      # picture files that could not be read

    def __repr__(self) -> str:
        shape = "x".join(map(str, (3, *self.size)))
        test = "nothing held out" if self.held_out is None else f"{len(self.held_out):,} test images"
        return f"Task {self.name}: {self.train!r} to train, {test}, {shape}, {len(self.classes)} classes"

    @property
    @public
    def test(self) -> Images:
        """The held-out images with their labels; a ValueError if the task has none."""
        if self.held_out is None:
            other = f'Measure on another task (load_task("{self.like}").test)'
            raise ValueError(
                f'the task "{self.name}" holds no labelled images back; it was loaded from a flat folder.\n'
                f"  {other}, or arrange the pictures as {LAYOUTS[0]}."
            )
        return self.held_out

    @property
    def example(self) -> Tensor:
        """The first training image: (1, 3, H, W), normalised."""
        return self.train.subset([0]).images

    @public
    def sample(self, n: int, *, seed: int = 0, balanced: bool = False) -> Images:
        """Draw `n` training images without replacement.

        The same seed draws the same images, and a sample of 50 is the first half of a sample of 100.

        Args:
            n: from 1 to the number of training images.
            seed: of a generator of its own; torch's global state is not touched.
            balanced: as many images of each class as of any other, give or take one.

        Raises:
            TypeError: `n` is not a whole number.
            ValueError: `n` below 1; fewer images (balanced: in some class); `balanced` without labels.

        >>> few = task.sample(50, seed=0)
        >>> few.images.shape
        torch.Size([50, 3, 32, 32])
        """
        there = len(self.train)
        if isinstance(n, bool) or not isinstance(n, Integral):
            raise TypeError(f"n must be a whole number of images, got {n!r}.\n  Pass n from 1 to {there}.")
        if not 1 <= n <= there:
            found = f"there are {there} to draw from, without replacement."
            raise ValueError(f"asked for {n} images; {found}\n  Pass n from 1 to {there}.")
        rng = generator(seed)
        order = torch.randperm(there, generator=rng)
        if balanced:
            order = order[self._turns(order, int(n), rng).argsort()]
        return self.train.subset(order[:n])

    def _turns(self, order: Tensor, n: int, rng: torch.Generator) -> Tensor:
        """The turn of each image of `order`. In every round each class gives one image, in a random order."""
        if self.train.labels is None:
            found = f'the images of the task "{self.name}" have none.'
            raise ValueError(f"balanced=True needs labels, and {found}\n  Leave balanced out.")
        labels = self.train.labels[order]
        present, counts = labels.unique(return_counts=True)
        rounds = -(-n // len(present))
        if counts.min() < rounds:
            scarce = self.classes[present[counts.argmin()]]
            raise ValueError(
                f'asked for {n} images balanced over {len(present)} classes, {rounds} of each; '
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
    """Images to work with: a built-in task, or a folder of your pictures.

    - `"shapes"`: drawn by the package in seconds, 10,000 images to train and 1,000 held out; no files.
    - `"cifar10"`, `"cifar100"`, `"imagenette"`: data sets of torchvision in `root` (default: `~/.cache/fsc`).
      They are downloaded if they are not there. Imagenette keeps the labels of ImageNet, so that networks for
      ImageNet can be scored on it.
    - `"imagenet"`: torchvision's `ImageNet` in `root`; it is never downloaded.
    - `"folder"`: your pictures in `root`, prepared for the networks of the built-in task `like`. The folder
      holds either `train/CLASS/*.png` and `test/CLASS/*.png`, or unlabelled pictures only. If `like` has a
      class of every class folder's name, the labels are those of `like`. If it knows none of the names, the
      folders are the classes, by name. Hidden files and files that are no pictures are ignored. A picture of
      `like`'s size is taken as it is. Any other picture has its shorter side resized and its centre cut out.
      Pictures that cannot be read are left out, with a warning; `task.skipped` lists them.

    Raises:
        FileNotFoundError: the data are not there and could not be downloaded; says which file is expected.
        ValueError: unknown name; `root` or `like` missing or out of place; an unusable folder.

    >>> task = fsc.load_task("shapes")
    >>> task
    Task shapes: 10,000 images to train, 1,000 test images, 3x32x32, 10 classes
    """
    if name == "folder":
        return _load_folder(root, like)
    if name not in NAMES:
        raise ValueError(
            f'unknown task "{name}".{nearest(name, (*NAMES, "folder"))}\n'
            f'  Known: {", ".join(NAMES)}; your own pictures: load_task("folder", root=DIR, like="cifar10").'
        )
    if like is not None:
        raise ValueError(f'like="{like}" goes with "folder" only, not with "{name}".\n  Leave it out.')
    if name == "imagenet" and root is None:
        raise ValueError(
            "imagenet needs root=DIR, the folder of your copy; it is never downloaded.\n"
            '  ImageNet asks for a registration at https://image-net.org; "imagenette" is a free part of it.'
        )
    if name == "shapes" and root is not None:
        raise ValueError(f'shapes are drawn, not read from files; got root="{root}".\n  Leave it out.')
    root = Path.home() / ".cache" / "fsc" if root is None else Path(root).expanduser()
    kind = builtin_task(name)
    if name in ("shapes", "cifar10", "cifar100"):
        splits = builtin_tasks.drawn_shapes() if name == "shapes" else builtin_tasks.cifar(name, root)
        train, test = (
            Images(partial(_look_up, pixels, kind), labels, torch.arange(len(labels)))
            for pixels, labels in splits
        )
    else:
        load = builtin_tasks.imagenette if name == "imagenette" else builtin_tasks.imagenet
        train, test = (_in_files(split, kind) for split in load(root))
    return Task(name, kind.classes, name, kind.size, kind.mean, kind.std, train, test)


def _load_folder(root: str | Path | None, like: str | None) -> Task:
    if root is None or like not in NAMES:
        raise ValueError(
            f'"folder" needs root=DIR and like=TASK; got root={root}, like={like}.{nearest(like, NAMES)}\n'
            f"  TASK is one of {', '.join(NAMES)}: its size, normalisation and networks fit your pictures."
        )
    kind = builtin_task(like)
    found = read_folder(Path(root).expanduser(), like)
    if found.broken:
        names = ", ".join(f"{path} ({why})" for path, why in list(found.broken.items())[:10])
        more = ", and more: see task.skipped" if len(found.broken) > 10 else ""
        count = len(found.broken)
        what, verb = ("picture", "is") if count == 1 else ("pictures", "are")
        warn(f"{count} {what} cannot be read and {verb} left out: {names}{more}.")
    train, test = [*(_in_files(split, kind) for split in found.splits), None][:2]
    skipped = tuple(found.broken)
    return Task("folder", found.classes, like, kind.size, kind.mean, kind.std, train, test, skipped)


def _look_up(pixels: Tensor, kind: BuiltinTask, indices: Tensor) -> Tensor:
    return kind.normalise(pixels[indices])


def _in_files(label_of: dict[str | Path, int | None], kind: BuiltinTask) -> Images:
    """A split of picture files, each with its label or None."""
    paths, labels = list(label_of), list(label_of.values())
    labels = None if None in labels else torch.tensor(labels, dtype=torch.int64)
    return Images(partial(_decode, paths, kind), labels, torch.arange(len(paths)))


def _decode(paths: list[str | Path], kind: BuiltinTask, indices: Tensor) -> Tensor:
    return kind.normalise(read_all([paths[i] for i in indices.tolist()], kind.size, kind.shorter))
