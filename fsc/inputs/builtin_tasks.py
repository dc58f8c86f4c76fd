"""What the images of each known task look like: class names in the order of the labels, size, normalisation."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fsc.inputs import shapes

NAMES = ("shapes", "cifar10", "cifar100", "imagenette", "imagenet")

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

CIFAR100 = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
    shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
    television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()
)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Kind:
    """How pictures become the tensors that the networks of a task were trained on."""

    classes: tuple[str, ...]
    size: tuple[int, int]               # (H, W)
    shorter: int                        # of a picture of another size: its shorter side, before the centre is cut
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def normalise(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> float32 of about zero mean and unit variance."""
        mean, std = torch.tensor(self.mean)[:, None, None], torch.tensor(self.std)[:, None, None]   # (3, 1, 1)
        return (pixels.float() / 255 - mean) / std


@lru_cache
def kind_of(name: str) -> Kind:
    """The kind of the images of a task of `NAMES`.

    The published CIFAR networks were trained with ImageNet's mean and standard deviation, so those are CIFAR's here.
    """
    if name == "shapes":
        return Kind(shapes.CLASSES, (shapes.SIZE, shapes.SIZE), shapes.SIZE, shapes.MEAN, shapes.STD)
    if name in ("cifar10", "cifar100"):
        classes = CIFAR10 if name == "cifar10" else CIFAR100
        return Kind(classes, (32, 32), 32, IMAGENET_MEAN, IMAGENET_STD)
    # Imagenette's ten classes keep ImageNet's labels: ImageNet's networks can be scored on them as they are.
    from torchvision.models import ResNet18_Weights

    classes = tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    return Kind(classes, (224, 224), 256, IMAGENET_MEAN, IMAGENET_STD)
