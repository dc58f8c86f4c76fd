"""Small networks of few layers in a row, from which tests build the case that can go wrong."""

import torch
from torch import nn


def head(channels: int, classes: int = 4) -> list[nn.Module]:
    """The layers of a classifier of (N, channels, H, W) maps."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def plain(*middle: nn.Module) -> nn.Sequential:
    """A conv 3 -> 8, the layers given, a conv 8 -> 6 and a classifier."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), *middle, nn.Conv2d(8, 6, 3), nn.ReLU(), *head(6)).eval()
