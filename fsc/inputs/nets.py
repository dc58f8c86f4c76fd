"""Small networks for 32x32 images: the CIFAR ResNets of He et al., a VGG-like net, inverted residuals.

They are written out to be read. Nothing else in the package knows them: every edit works on what `torch.fx`
sees.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn


class PadShortcut(nn.Module):
    """Option A of He et al. 2016: halve the image, pad the channels with zeros on both sides; no weights."""

    def __init__(self, channels: int):
        super().__init__()
        self.pad = channels // 4

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


class BasicBlock(nn.Module):
    def __init__(self, c_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = PadShortcut(channels) if stride > 1 else nn.Identity()
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(h)) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-(6n + 2): three stages of n basic blocks, 16, 32 and 64 channels wide.

    Module names are those of the published weights (akamaster/pytorch_resnet_cifar10).
    """

    def __init__(self, blocks: int, classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = self._stage(16, 16, blocks, stride=1)
        self.layer2 = self._stage(16, 32, blocks, stride=2)
        self.layer3 = self._stage(32, 64, blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(c_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(c_in, channels, stride)
        return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))              # (N, 16, H, W)
        x = self.layer3(self.layer2(self.layer1(x)))        # (N, 64, H/4, W/4)
        return self.linear(self.pool(x).flatten(1))         # (N, classes)


class VGG(nn.Module):
    """Plain 3x3 convs with BatchNorm, 2x2 max pooling at "M", global average pooling, one linear layer."""

    def __init__(self, plan: tuple = (32, 32, "M", 64, 64, "M", 128, 128, "M", 128, 128), classes: int = 10):
        super().__init__()
        layers, c_in = [], 3
        for width in plan:
            if width == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(c_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                c_in = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(c_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.pool(self.features(x)).flatten(1))


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1x1 up, 3x3 depthwise, 1x1 down; a shortcut where the shapes allow it."""

    def __init__(self, c_in: int, c_out: int, stride: int, expand: int):
        super().__init__()
        wide = c_in * expand
        self.branch = nn.Sequential(
            nn.Conv2d(c_in, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, c_out, 1, bias=False), nn.BatchNorm2d(c_out),
        )
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.residual else self.branch(x)


class MobileNet(nn.Module):
    """MobileNetV2 for 32x32 images: stem, three stages of inverted residuals, 1x1 head, average pooling."""

    def __init__(self, classes: int = 10, expand: int = 4):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU6())
        blocks, c_in = [], 24
        for c_out, stride, repeats in ((24, 1, 2), (32, 2, 2), (64, 2, 3)):
            for i in range(repeats):
                blocks.append(InvertedResidual(c_in, c_out, stride if i == 0 else 1, expand))
                c_in = c_out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Conv2d(c_in, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(x)))
        return self.linear(self.pool(x).flatten(1))


NETS = {
    **{f"resnet{6 * n + 2}": partial(ResNet, n) for n in (3, 5, 7, 9)},
    "vgg9": lambda classes: VGG(classes=classes),
    "mobilenet": MobileNet,
}
