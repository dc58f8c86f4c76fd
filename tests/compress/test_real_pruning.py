"""The published CIFAR-10 networks, pruned: accuracy on real images, exactness, saving, and one table."""

import pytest
import torch
import torch.nn.functional as F

import fsc
from fsc.inputs.nets import PadShortcut

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def task(real_data):
    return fsc.load_task("folder", root=real_data / "cifar10-subset", like="cifar10")


@pytest.fixture(scope="module", params=["resnet20", "resnet32"])
def teacher(request, task):
    return fsc.load_teacher(request.param, task)


def by_hand(teacher, student, images):
    """The pruned network, rebuilt from the teacher's weights by indexing and torch.nn.functional alone."""
    def norm(x, bn, kept=slice(None)):
        mean, var, weight, bias = (t[kept] for t in (bn.running_mean, bn.running_var, bn.weight, bn.bias))
        return F.batch_norm(x, mean, var, weight, bias, eps=bn.eps)

    x = F.relu(norm(F.conv2d(images, teacher.conv1.weight, padding=1), teacher.bn1))
    for stage in ("layer1", "layer2", "layer3"):
        for i, block in enumerate(getattr(teacher, stage)):
            filters = block.conv1.weight
            ranked = filters.abs().sum((1, 2, 3)).sort(descending=True).indices
            kept = ranked[: len(filters) // 2].sort().values
            h = F.conv2d(x, filters[kept], stride=block.conv1.stride, padding=1)
            h = F.relu(norm(h, block.bn1, kept))
            h = norm(F.conv2d(h, block.conv2.weight[:, kept], padding=1), block.bn2)
            short = block.shortcut(x) if isinstance(block.shortcut, PadShortcut) else x
            x = F.relu(h + short)
            assert fsc.kept_channels(student, f"{stage}.{i}.conv1").tolist() == kept.tolist()
    return F.linear(x.mean((2, 3)), teacher.linear.weight, teacher.linear.bias)


def test_with_half_the_filters_gone_it_is_the_network_rebuilt_by_hand_and_loses_accuracy(task, teacher):
    student = fsc.prune_filters(teacher, 0.5)
    images = task.test.images[:64]
    with torch.no_grad():
        expected, found = by_hand(teacher, student, images), student(images)
    assert (found - expected).abs().max() / expected.abs().max() < 1e-5
    before, after = fsc.accuracy(teacher, task.test), fsc.accuracy(student, task.test)
    print(f"teacher {before:.3f}, half the inner filters gone {after:.3f}")
    assert 0.90 < before < 0.96 and after < before - 0.3


def test_a_pruned_published_network_survives_saving(task, teacher, tmp_path):
    student = fsc.prune_filters(teacher, 0.3)
    loaded = fsc.load(fsc.save(student, tmp_path / "student.safetensors"), teacher)
    assert fsc.agreement(loaded, student, task.test) == 1.0


def test_on_photographs_without_labels_teacher_and_student_can_be_compared(real_data, teacher):
    photographs = fsc.load_task("folder", root=real_data / "natural-32" / "images", like="cifar10")
    student = fsc.prune_filters(teacher, 0.5)
    assert 0.05 < fsc.agreement(student, teacher, photographs.train) < 0.9


def test_one_table_of_both(task, teacher):
    table = fsc.compare({"teacher": teacher, "half": fsc.prune_filters(teacher, 0.5)}, task, latency_rounds=6)
    assert table.loc["teacher", "agreement"] == 1
    assert 0.45 < table.loc["half", "macs"] / table.loc["teacher", "macs"] < 0.55
