"""Folders of your pictures: classes, labels, the pictures as tensors, and those that cannot be read."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fsc.arguments import nearest
from fsc.inputs.builtin_tasks import builtin_task

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
LAYOUTS = ("DIR/train/CLASS/*.png and DIR/test/CLASS/*.png", "DIR/*.png, without labels")


class Folder(NamedTuple):
    """The content of a folder of pictures."""

    classes: tuple[str, ...]
    splits: list[dict[Path, int | None]]  # the label of each picture: train and test, or one unlabelled split
    broken: dict[Path, str]               # the pictures that cannot be read, each with the reason


def read_folder(root: Path, like: str) -> Folder:
    """Find the layout of `root`, the labels, and the pictures that cannot be read.

    Args:
        root: a folder with one of the `LAYOUTS`.
        like: the built-in task whose labels are used if it has a class of every class folder's name.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}.\n  Pass your pictures' folder as root=DIR.")
    sides = [root / "train", root / "test"]
    if all(side.is_dir() for side in sides):
        files = [_class_files(side) for side in sides]
        classes = _class_names(root, files, like)
        label_of = {name: label for label, name in enumerate(classes)}
        splits = [{path: label_of[name] for name in side for path in side[name]} for side in files]
    else:
        sides, classes, splits = [root], builtin_task(like).classes, [dict.fromkeys(_flat_files(root))]

    broken = find_broken([path for split in splits for path in split])
    for side, split in zip(sides, splits, strict=True):
        if split.keys() <= broken.keys():
            first = next(iter(split))
            first = f"The first: {first} ({broken[first]})."
            remedy = "Replace them by pictures that other programs open."
            raise ValueError(f"none of the pictures in {side} can be read.\n  {first}\n  {remedy}")
    splits = [{path: label for path, label in split.items() if path not in broken} for split in splits]
    return Folder(classes, splits, broken)


def _class_files(side: Path) -> dict[str, list[Path]]:
    """The pictures of each class folder in `side`."""
    loose, files = pictures_in(side), {folder.name: pictures_in(folder) for folder in folders_in(side)}
    empty = [name for name, paths in files.items() if not paths]
    if loose or not files or empty:
        found = f"no pictures in {_listed(empty)}" if empty else "no class folders"
        found = f"{len(loose)} pictures beside the class folders" if loose else found
        asked = f"{side.name}/CLASS/*.png, at least one picture in every class folder, none outside."
        raise ValueError(f"{side} has {found}.\n  Asked for: {asked}")
    return files


def _class_names(root: Path, files: list[dict[str, list[Path]]], like: str) -> tuple[str, ...]:
    """The classes of `like` if every class folder has the name of one, the class folders if none has."""
    train, test = files
    if train.keys() != test.keys():
        only = [_listed(sorted(a.keys() - b.keys())) for a, b in ((train, test), (test, train))]
        found = f"Only in train: {only[0]}. Only in test: {only[1]}.\n  Give both the same class folders."
        raise ValueError(f"the classes in {root} differ between train and test.\n  {found}")
    known = builtin_task(like).classes
    unknown = [name for name in train if name not in known]
    if unknown and len(unknown) < len(train):
        raise ValueError(
            f"of the {len(train)} class folders in {root}, {len(unknown)} are no classes of {like}.\n"
            + "".join(f'  Unknown: "{name}".{nearest(name, known)}\n' for name in unknown[:10])
            + f"  Rename these, or all folders: if {like} knows no name, the folders are the classes."
        )
    return tuple(train) if unknown else known


def _flat_files(root: Path) -> list[Path]:
    paths, folders = pictures_in(root), folders_in(root)
    if folders or not paths:
        names = _listed([folder.name for folder in folders])
        raise ValueError(
            f"{root} is neither of the two layouts that are understood.\n"
            f"  Found: {len(paths)} pictures and {len(folders)} folders ({names}).\n"
            f"  Understood: {LAYOUTS[0]}; or {LAYOUTS[1]} and without folders.\n"
            f"  Pictures end in {', '.join(EXTENSIONS)}."
        )
    return paths


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more if names else "none"


def pictures_in(folder: Path) -> list[Path]:
    """The picture files directly in `folder`, by name; no hidden files, no other extensions."""
    files = (p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and not p.name.startswith("."))
    return sorted(p for p in files if p.is_file())


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in `folder`, by name, without hidden ones."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def read_all(paths: Sequence[str | Path], size: tuple[int, int], shorter: int) -> Tensor:
    """Pictures as (N, 3, H, W) uint8, decoded by several threads.

    A picture of this size is taken as it is. Any other is resized (bilinear, antialiased) so that its shorter
    side is `shorter`, and its centre is cut out: torchvision's preparation for ImageNet.
    """
    from torchvision.transforms.functional import center_crop, resize

    def read(path: str | Path) -> Tensor:
        picture = _decode(path)
        if picture.size != size[::-1]:
            picture = center_crop(resize(picture, shorter), size)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)

    if not paths:
        return torch.empty(0, 3, *size, dtype=torch.uint8)
    with ThreadPoolExecutor() as pool:
        return torch.stack(list(pool.map(read, paths)))


def find_broken(paths: Sequence[Path]) -> dict[Path, str]:
    """Decode every picture once, and return those that cannot be read, each with the reason."""
    from tqdm.auto import tqdm

    def reason(path: Path) -> str | None:
        try:
            _decode(path)
        except OSError as err:
            return str(err.__cause__ or err)

    with ThreadPoolExecutor() as pool:
        found = pool.map(reason, paths)
        reasons = list(tqdm(found, desc="checking pictures", total=len(paths), leave=False, delay=2))
    return {path: why for path, why in zip(paths, reasons, strict=True) if why is not None}


def _decode(path: str | Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith(("I", "F")):  # PIL would make it white
                raise ValueError("more than 8 bits per channel")
            return picture.convert("RGB")
    except Exception as err:  # a damaged file raises SyntaxError, struct.error, DecompressionBombError, ...
        raise OSError(f"cannot read the picture {path}: {err}") from err
