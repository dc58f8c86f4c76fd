"""The smallest CNN classifier of every family of torchvision: pruned and counted, or refused in words."""

import re
import warnings
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import fsc

# The smallest member of every convolutional family in torchvision.models.
FAMILIES = """alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3
mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnet50 resnext50_32x4d
shufflenet_v2_x0_5 squeezenet1_1 vgg11 vgg11_bn wide_resnet50_2""".split()
README = Path(__file__).parents[2] / "README.md"


def build(arch: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"init_weights": False} if arch in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(arch, weights=None, **options).eval()


def counted(net: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """Parameters and MACs by the textbook formulas, from the modules' own sizes."""
    macs = 0

    def count(module, args, out):
        nonlocal macs
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            macs += out[0].numel() * module.in_channels // module.groups * height * width
        else:
            macs += out[0].numel() * module.in_features

    handles = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    return sum(tensor.numel() for tensor in net.parameters()), macs


def row(arch: str) -> str:
    """A line of the README's table; for a pruned net, after its counts were checked."""
    teacher = build(arch)
    x = torch.randn(1, 3, 96, 96) if arch != "inception_v3" else torch.randn(1, 3, 128, 128)
    cells = []
    for coupled in (False, True):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                student = fsc.prune_filters(teacher, 0.5, coupled=coupled)
        except ValueError as err:
            reason = " ".join(str(err).split()).removeprefix("prune_filters: ")
            cells.append(f"refused: {reason}")
            continue
        before, after = counted(teacher, x), counted(student, x)
        assert tuple(fsc.cost(teacher, x)) == before and tuple(fsc.cost(student, x)) == after
        assert student(x).shape == teacher(x).shape == (1, 1000)
        cells.append(f"{after[0] / before[0]:.2f} / {after[1] / before[1]:.2f}")
    return f"| {arch} | {' | '.join(cells if cells[0] != cells[1] else [cells[0], 'the same'])} |"


@pytest.mark.parametrize("arch", FAMILIES)
def test_it_is_pruned_as_the_readme_says_or_refused_with_that_reason(arch):
    line = row(arch)
    print(line)
    stored = re.search(rf"^\| {arch} \|.*$", README.read_text(), re.MULTILINE)
    assert stored and stored[0] == line, f"the README's table says {stored and stored[0]!r}, found {line!r}"


def test_no_family_of_torchvision_is_left_out():
    """A family is a file of torchvision.models that registers classifiers; transformers are no CNNs."""
    def family(arch):
        return torchvision.models.get_model_builder(arch).__module__.rpartition(".")[2]

    everything = {family(arch) for arch in torchvision.models.list_models(torchvision.models)}
    transformers = {"vision_transformer", "swin_transformer", "maxvit"}
    assert everything - transformers == {family(arch) for arch in FAMILIES}
