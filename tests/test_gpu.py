"""On a CUDA device the same lines give the same networks and, within float32's rounding, the same numbers."""

import copy

import pytest
import torch

import fsc
from fsc.inputs.nets import NETS

pytestmark = pytest.mark.gpu


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return NETS["resnet20"](10).eval()


def test_pruning_on_the_device_keeps_the_same_filters(teacher):
    here, there = fsc.prune_filters(teacher, 0.5), fsc.prune_filters(copy.deepcopy(teacher).to("cuda"), 0.5)
    assert fsc.recipe_of(here) == fsc.recipe_of(there)
    assert {p.device.type for p in there.parameters()} == {"cuda"}
    assert all(torch.equal(a, b.cpu()) for a, b in zip(here.parameters(), there.parameters(), strict=True))


def test_a_student_saved_on_the_device_loads_on_the_cpu(teacher, tmp_path):
    student = fsc.prune_filters(copy.deepcopy(teacher).to("cuda"), 0.5)
    loaded = fsc.load(fsc.save(student, tmp_path / "s.safetensors"), teacher)
    pairs = zip(loaded.parameters(), student.parameters(), strict=True)
    assert all(torch.equal(a, b.cpu()) for a, b in pairs)


def test_accuracy_and_fine_tuning_agree_with_the_cpu(teacher):
    task = fsc.load_task("shapes")
    few = task.sample(50)
    found = []
    for device in ("cpu", "cuda"):
        net = copy.deepcopy(teacher).to(device)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            tuned = fsc.finetune(net, fsc.prune_filters(net, 0.5), few.images, few.labels, steps=5)
            found.append(tuned(task.test.images[:64].to(device)).cpu())
    # Five steps multiply float32's rounding; 1e-3 of the largest score is far below what changes a class.
    assert (found[0] - found[1]).abs().max() <= 1e-3 * found[0].abs().max()


@pytest.mark.parametrize("method", ["closed", "sgd"])
def test_fskd_agrees_with_the_cpu(teacher, method):
    images = fsc.load_task("shapes").sample(50).images
    found = []
    for device in ("cpu", "cuda"):
        net = copy.deepcopy(teacher).to(device)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            student = fsc.fskd(net, fsc.prune_filters(net, 0.5), images, method=method, steps=3)
            found.append(student(images.to(device)).cpu())
            assert {p.device.type for p in student.parameters()} == {device}
    # Float32 features and float64 fits on both; 20 layers of rounding stay far below what changes a class.
    assert (found[0] - found[1]).abs().max() <= 1e-3 * found[0].abs().max()


def test_latency_is_measured_with_events(teacher):
    net = copy.deepcopy(teacher).to("cuda")
    table = fsc.latency({"teacher": net, "same": copy.deepcopy(net)}, torch.randn(64, 3, 32, 32))
    assert (table.median_ms > 0).all() and table.verdict["same"] == "no measurable gain"
