"""Picture files: which a folder holds, what is in them as tensors, and which cannot be read."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fsc.arguments import nearest
from fsc.inputs.builtin_tasks import kind_of

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
LAYOUTS = ("DIR/train/CLASS/*.png and DIR/test/CLASS/*.png", "DIR/*.png, without labels")


class Folder(NamedTuple):
    """A folder of pictures as a task: (paths, labels) of each split; the labels of a flat folder are None."""

    classes: tuple[str, ...]
    train: tuple[list[Path], list[int] | None]
    test: tuple[list[Path], list[int]] | None
    broken: dict[Path, str]


def read_folder(root: Path, like: str) -> Folder:
    """Find out the layout of `root`, the labels, and which pictures cannot be read.

    Args:
        root: laid out as one of `LAYOUTS`.
        like: the built-in task whose labels are used if it has a class of every class folder's name.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: neither layout, no (readable) pictures, or classes that contradict each other.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"load_task: there is no folder {root}.\n  Pass your pictures' folder as root=DIR.")
    sides = [side for side in ("train", "test") if (root / side).is_dir()]
    if len(sides) < 2:
        return _read_flat(root, like)

    files = {side: _class_files(root / side) for side in sides}
    if files["train"].keys() != files["test"].keys():
        only = [sorted(files[a].keys() - files[b].keys()) for a, b in (("train", "test"), ("test", "train"))]
        raise ValueError(
            f"load_task: the classes in {root} differ between train and test.\n"
            f"  Only in train: {_listed(only[0])}. Only in test: {_listed(only[1])}.\n"
            f"  Give both the same class folders."
        )
    classes = _label_space(root, tuple(files["train"]), like)
    label_of = {name: label for label, name in enumerate(classes)}
    broken = find_broken([path for side in sides for paths in files[side].values() for path in paths])
    splits = []
    for side in sides:
        good = [(path, label_of[name]) for name, paths in files[side].items() for path in paths if path not in broken]
        if not good:
            raise _all_broken(root / side, broken)
        paths, labels = zip(*good, strict=True)
        splits.append((list(paths), list(labels)))
    return Folder(classes, *splits, broken)


def _read_flat(root: Path, like: str) -> Folder:
    paths, folders = pictures_in(root), folders_in(root)
    if folders or not paths:
        raise ValueError(
            f"load_task: {root} is neither of the two layouts that are understood.\n"
            f"  Found: {len(paths)} pictures and {len(folders)} folders ({_listed([p.name for p in folders])}).\n"
            f"  Understood: {LAYOUTS[0]}; or {LAYOUTS[1]} and without folders. Pictures end in {', '.join(EXTENSIONS)}."
        )
    broken = find_broken(paths)
    good = [path for path in paths if path not in broken]
    if not good:
        raise _all_broken(root, broken)
    return Folder(kind_of(like).classes, (good, None), None, broken)


def _class_files(side: Path) -> dict[str, list[Path]]:
    loose = pictures_in(side)
    files = {folder.name: pictures_in(folder) for folder in folders_in(side)}
    empty = [name for name, paths in files.items() if not paths]
    if loose or not files or empty:
        found = f"{len(loose)} pictures beside the class folders" if loose else f"no pictures in {_listed(empty)}"
        raise ValueError(
            f"load_task: {side} has {found if loose or empty else 'no class folders'}.\n"
            f"  Asked for: {side.name}/CLASS/*.png, at least one picture in every class folder, and none beside them."
        )
    return files


def _label_space(root: Path, found: tuple[str, ...], like: str) -> tuple[str, ...]:
    """The classes of `like` if all found ones are among them, the found ones if none is."""
    known = kind_of(like).classes
    unknown = [name for name in found if name not in known]
    if unknown and len(unknown) < len(found):
        raise ValueError(
            f"load_task: of the {len(found)} class folders in {root}, {len(unknown)} are no classes of {like}.\n"
            + "".join(f'  Unknown: "{name}".{nearest(name, known)}\n' for name in unknown[:10])
            + f"  Rename these, or all of them: where {like} knows none of the names, they are classes of their own."
        )
    return found if unknown else known


def _all_broken(folder: Path, broken: dict[Path, str]) -> ValueError:
    path, why = next((path, why) for path, why in broken.items() if path.is_relative_to(folder))
    return ValueError(
        f"load_task: none of the pictures in {folder} can be read.\n"
        f"  The first: {path} ({why}).\n"
        f"  Replace them by pictures that open elsewhere."
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") if names else "none"


def pictures_in(folder: Path) -> list[Path]:
    """The picture files right in `folder`, by name; hidden files and other extensions are none."""
    files = (p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and not p.name.startswith("."))
    return sorted(p for p in files if p.is_file())


def folders_in(folder: Path) -> list[Path]:
    """The folders right in `folder`, by name, without hidden ones."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def read(path: Path, size: tuple[int, int], shorter: int) -> Tensor:
    """One picture as (3, H, W) uint8.

    A picture of just this size is taken as it is. Any other is resized (bilinear, antialiased) until its shorter side
    is `shorter`, and its centre is cut out: torchvision's preparation for ImageNet.

    Raises:
        OSError: the file cannot be read; names it and says why.
    """
    from torchvision.transforms.functional import center_crop, resize

    picture = _decode(path)
    if picture.size != size[::-1]:
        picture = center_crop(resize(picture, shorter), size)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)      # (H, W, 3) -> (3, H, W)


def read_all(paths: Sequence[Path], size: tuple[int, int], shorter: int) -> Tensor:
    """Pictures as (N, 3, H, W) uint8, decoded by several threads."""
    if not paths:
        return torch.empty(0, 3, *size, dtype=torch.uint8)
    with ThreadPoolExecutor() as pool:
        return torch.stack(list(pool.map(lambda path: read(path, size, shorter), paths)))


def find_broken(paths: Sequence[Path]) -> dict[Path, str]:
    """Decode every picture once; those that cannot be read, each with the reason."""
    from tqdm.auto import tqdm

    def reason(path: Path) -> str | None:
        try:
            _decode(path)
        except OSError as err:
            return str(err.__cause__ or err)

    with ThreadPoolExecutor() as pool:
        reasons = list(tqdm(pool.map(reason, paths), desc="checking pictures", total=len(paths), leave=False, delay=2))
    return {path: why for path, why in zip(paths, reasons, strict=True) if why is not None}


def _decode(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith(("I", "F")):
                raise ValueError("more than 8 bits a channel")       # PIL would clip it to white
            return picture.convert("RGB")
    except Exception as err:  # a damaged file raises nearly anything: SyntaxError, struct.error, DecompressionBombError
        raise OSError(f"cannot read the picture {path}: {err}") from err
