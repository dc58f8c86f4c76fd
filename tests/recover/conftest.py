"""The network and the images of most tests of recovery."""

import pytest
import torch
from helpers.probes import odd_norms

from fsc.inputs.nets import ResNet


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return odd_norms(ResNet(2))


@pytest.fixture
def images():
    return torch.randn(10, 3, 16, 16, generator=torch.Generator().manual_seed(1))
