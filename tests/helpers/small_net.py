"""The small network of the tests of MiR, fine-tuning and distillation, and the few images that it takes."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from fsc.recover.training import crop_and_flip


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


def train_by_hand(
    parameters: Iterable[Tensor], images: Tensor, loss_of: Callable[[Tensor, Tensor], Tensor]
) -> list[float]:
    """The losses of ten steps of SGD, written out: seed 3, lr 0.05, batches of 4 of the ten images.

    Args:
        loss_of: a batch, cropped and flipped, and the positions of its images -> the loss.
    """
    rng = torch.Generator().manual_seed(3)
    sgd = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(sgd, milestones=[4, 8], gamma=0.1)
    losses = []
    for _ in range(5):  # epochs of 2 batches of 4; 2 images left over
        order = torch.randperm(10, generator=rng)
        for rows in (order[:4], order[4:8]):
            loss = loss_of(crop_and_flip(images[rows], rng), rows)
            losses.append(loss.item())
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            schedule.step()
    return losses


def assert_same_weights(found: nn.Module, expected: nn.Module) -> None:
    for name, tensor in expected.state_dict().items():
        assert torch.allclose(found.state_dict()[name], tensor, rtol=1e-4, atol=1e-6), name
