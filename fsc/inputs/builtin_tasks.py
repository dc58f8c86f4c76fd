"""The five built-in tasks: class names, size and normalisation of their images, and the images themselves."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor

from fsc.inputs import shapes

NAMES = ("shapes", "cifar10", "cifar100", "imagenette", "imagenet")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100 = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
    can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
    dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
    lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree
    pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea
    seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
    telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman
    worm""".split()
)
IMAGENETTE_LABELS = {  # WordNet's number of a class -> ImageNet's label
    "n01440764": 0, "n02102040": 217, "n02979186": 482, "n03000684": 491, "n03028079": 497,
    "n03394916": 566, "n03417042": 569, "n03425413": 571, "n03445777": 574, "n03888257": 701,
}  # fmt: skip
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class BuiltinTask:
    """Classes of a built-in task, and how a picture becomes the tensor that its networks were trained on."""

    classes: tuple[str, ...]            # in the order of the labels
    size: tuple[int, int]               # (H, W)
    shorter: int                        # shorter side of a resized picture, before its centre is cut out
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def normalise(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> float32 of about zero mean and unit variance."""
        mean, std = (torch.tensor(three)[:, None, None] for three in (self.mean, self.std))  # (3, 1, 1)
        return (pixels.float() / 255 - mean) / std


@lru_cache
def builtin_task(name: str) -> BuiltinTask:
    """The built-in task of a name in `NAMES`.

    CIFAR has ImageNet's mean and standard deviation here: the published networks were trained with these.
    """
    if name == "shapes":
        return BuiltinTask(shapes.CLASSES, (shapes.SIZE, shapes.SIZE), shapes.SIZE, shapes.MEAN, shapes.STD)
    if name in ("cifar10", "cifar100"):
        classes = CIFAR10 if name == "cifar10" else CIFAR100
        return BuiltinTask(classes, (32, 32), 32, IMAGENET_MEAN, IMAGENET_STD)
    # Imagenette's ten classes keep ImageNet's labels, so that ImageNet's networks can be scored on them.
    from torchvision.models import ResNet18_Weights

    classes = tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    return BuiltinTask(classes, (224, 224), 256, IMAGENET_MEAN, IMAGENET_STD)


@lru_cache
def drawn_shapes() -> list[tuple[Tensor, Tensor]]:
    """Train and test split of "shapes": (pixels (N, 3, 32, 32) uint8, labels (N,) int64) each."""
    return [shapes.draw(10_000, seed=0), shapes.draw(1_000, seed=1)]


def cifar(name: str, root: Path) -> list[tuple[Tensor, Tensor]]:
    """Train and test split of CIFAR-10 or -100: (pixels (N, 3, 32, 32) uint8, labels (N,) int64) each."""
    from torchvision import datasets

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    splits = []
    for train in (True, False):
        load = partial(source, root, train=train, download=True)
        found = _downloaded(name, root, source.filename, f"{source.url} (MD5 {source.tgz_md5})", load)
        splits.append((torch.from_numpy(found.data).permute(0, 3, 1, 2), torch.tensor(found.targets)))
    return splits


def imagenette(root: Path) -> list[dict[str, int]]:
    """Train and test split of Imagenette: the label of each picture file, as ImageNet numbers its classes."""
    from torchvision.datasets import Imagenette

    # 320 pixels on the shorter side are enough for the 256 we resize to, in a quarter of the bytes.
    folder, file, splits = root / "imagenette2-320", "imagenette2-320.tgz", []
    for split in ("train", "val"):
        there = {path.name for path in (folder / split).glob("n*")}
        if folder.is_dir() and there != set(IMAGENETTE_LABELS):
            remedy = f"It was not unpacked to the end: delete {folder} and load the task again."
            found = f"{folder / split} holds {len(there)} of Imagenette's 10 class folders."
            raise ValueError(f"{found}\n  {remedy}")
        load = partial(Imagenette, root, split, size="320px", download=not folder.is_dir())
        source = f"https://s3.amazonaws.com/fast-ai-imageclas/{file}"
        found = _downloaded("imagenette", root, file, source, load)
        splits.append({path: IMAGENETTE_LABELS[found.wnids[place]] for path, place in found._samples})
    return splits


def imagenet(root: Path) -> list[dict[str, int]]:
    """Train and validation split of ImageNet 2012: the label of each picture file. It is never downloaded."""
    from torchvision.datasets import ImageNet

    splits = []
    for split in ("train", "val"):
        try:
            found = ImageNet(root, split)
        except (OSError, RuntimeError, ImportError) as err:
            raise FileNotFoundError(
                f"imagenet ({split}) cannot be read in {root}: {err}\n"
                f"  Expected in {root}: ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_{{train,val}}.tar.\n"
                f"  Get them by hand from https://image-net.org. The first call unpacks them; it needs scipy."
            ) from err
        if len(found.wnids) != 1000:
            raise ValueError(
                f"{found.split_folder} holds {len(found.wnids)} class folders; ImageNet has 1000.\n"
                f"  With fewer, labels would shift. Load a part of it as a folder: "
                f'load_task("folder", root=DIR, like="imagenet").'
            )
        splits.append(dict(found.samples))
    return splits


def _downloaded(name: str, root: Path, file: str, source: str, load: Callable):
    try:
        return load()
    except (OSError, RuntimeError, HTTPException) as err:
        raise FileNotFoundError(
            f"{name} is not in {root}, and the download failed: {err}\n"
            f"  Expected: {root / file}\n"
            f"  Without a network, fetch {source}\n"
            f"  elsewhere and put it there; the next call unpacks it. Is it in another folder? Pass root=DIR."
        ) from err
