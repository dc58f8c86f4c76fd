"""torchvision's data sets, found on the disk or downloaded: pixels or picture files, and labels, of train and test."""

from collections.abc import Callable
from functools import partial
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor

Files = tuple[list[str], list[int]]


def cifar(name: str, root: Path) -> list[tuple[Tensor, Tensor]]:
    """CIFAR-10 or CIFAR-100, train and test: (pixels (N, 3, 32, 32) uint8, labels (N,) int64) each."""
    from torchvision import datasets

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    splits = []
    for train in (True, False):
        make = partial(source, root, train=train, download=True)
        found = _obtain(name, root, source.filename, f"{source.url} (MD5 {source.tgz_md5})", make)
        splits.append((torch.from_numpy(found.data).permute(0, 3, 1, 2), torch.tensor(found.targets)))
    return splits


IMAGENETTE_LABELS = {  # WordNet's number of a class -> ImageNet's label
    "n01440764": 0, "n02102040": 217, "n02979186": 482, "n03000684": 491, "n03028079": 497,
    "n03394916": 566, "n03417042": 569, "n03425413": 571, "n03445777": 574, "n03888257": 701,
}  # fmt: skip


def imagenette(root: Path) -> list[Files]:
    """Imagenette, train and test: paths and ImageNet's labels.

    Raises:
        ValueError: class folders are missing.
    """
    from torchvision.datasets import Imagenette

    # 320 pixels on the shorter side are enough for the 256 we resize to, in a quarter of the bytes.
    file = "imagenette2-320.tgz"
    folder = root / "imagenette2-320"
    splits = []
    for split in ("train", "val"):
        there = {path.name for path in (folder / split).glob("n*")}
        if folder.is_dir() and there != set(IMAGENETTE_LABELS):
            raise ValueError(
                f"load_task: {folder / split} holds {len(there)} of Imagenette's 10 class folders.\n"
                f"  It was not unpacked to the end: delete {folder} and load the task again."
            )
        make = partial(Imagenette, root, split, size="320px", download=not folder.is_dir())
        found = _obtain("imagenette", root, file, f"https://s3.amazonaws.com/fast-ai-imageclas/{file}", make)
        samples = found._samples
        splits.append(([path for path, _ in samples], [IMAGENETTE_LABELS[found.wnids[i]] for _, i in samples]))
    return splits


def imagenet(root: Path) -> list[Files]:
    """ImageNet 2012, train and validation: paths and labels. Never downloaded.

    Raises:
        FileNotFoundError: neither unpacked nor as archives in `root`.
        ValueError: class folders are missing.
    """
    from torchvision.datasets import ImageNet

    splits = []
    for split in ("train", "val"):
        try:
            found = ImageNet(root, split)
        except (OSError, RuntimeError, ImportError) as err:
            raise FileNotFoundError(
                f"load_task: imagenet ({split}) cannot be read in {root}: {err}\n"
                f"  Expected in {root}: ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_{{train,val}}.tar.\n"
                f"  Get them by hand from https://image-net.org; the first call unpacks them (and needs scipy for it)."
            ) from err
        if len(found.wnids) != 1000:
            raise ValueError(
                f"load_task: {found.split_folder} holds {len(found.wnids)} class folders; ImageNet has 1000.\n"
                f"  With fewer, labels would shift. A part of it is a folder: "
                f'load_task("folder", root=DIR, like="imagenet").'
            )
        splits.append(([path for path, _ in found.samples], found.targets))
    return splits


def _obtain(name: str, root: Path, file: str, source: str, make: Callable):
    try:
        return make()
    except (OSError, RuntimeError, HTTPException) as err:
        raise FileNotFoundError(
            f"load_task: {name} is not in {root}, and the download failed: {err}\n"
            f"  Expected: {root / file}\n"
            f"  Without a network, fetch {source}\n"
            f"  elsewhere and place it there; the next call unpacks it. Is it in another folder? Pass root=DIR."
        ) from err
