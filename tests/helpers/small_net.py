"""The small network of the tests of MiR, fine-tuning and distillation, and the few images that it takes."""

import torch
from torch import Tensor, nn


def small_net(
    hidden: int = 6, dropout: float = 0.0, classes: int = 3, seed: int | None = None
) -> nn.Sequential:
    """conv, BN, ReLU, dropout, conv, ReLU, pooling, linear, in eval mode; MiR's feature is what "5" makes."""
    if seed is not None:
        torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(),
        nn.Dropout(dropout), nn.Conv2d(hidden, 8, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
    ).eval()  # fmt: skip


def few_images(n: int = 10) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 8, 8) and their labels (N,)."""
    rng = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 8, 8, generator=rng), torch.randint(3, (n,), generator=rng)


def feature_loss(one: nn.Module, other: nn.Module, images: Tensor, part: slice = slice(0, 6)) -> float:
    """The mean squared error between the features of two small networks in eval mode."""
    with torch.no_grad():
        return float((one.eval()[part](images) - other.eval()[part](images)).square().mean())
