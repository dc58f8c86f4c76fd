"""FSKD on the published CIFAR-10 networks and real images: what it brings back, from whose images."""

import copy

import pytest

import fsc
from fsc.recover.training import renew_norms
from fsc.runtime import quiet

pytestmark = pytest.mark.real
PUBLISHED = {"at": "conv", "intercept": False, "ridge": 0.0, "shortcuts": False}


@pytest.fixture(scope="module")
def task(real_data):
    return fsc.load_task("folder", root=real_data / "cifar10-subset", like="cifar10")


@pytest.fixture(scope="module", params=["resnet20", "resnet32"])
def teacher(request, task):
    return fsc.load_teacher(request.param, task)


def score(net, task):
    return fsc.accuracy(net, task.test, progress=quiet)


def re_estimated(student, images):
    """The control: BatchNorm's statistics are those of the few images, nothing else changes."""
    copied = copy.deepcopy(student)
    renew_norms(copied, images, batch_size=len(images))
    return copied


def test_it_brings_back_most_of_what_pruning_took_and_more_than_batchnorm_alone(task, teacher):
    student, images = fsc.prune_filters(teacher, 0.5), task.sample(200, seed=0).images
    found = {
        "none": score(student, task),
        "control": score(re_estimated(student, images), task),
        "published": score(fsc.fskd(teacher, student, images, **PUBLISHED, progress=quiet), task),
        "ours": score(fsc.fskd(teacher, student, images, progress=quiet), task),
    }
    print({name: round(value, 3) for name, value in found.items()})
    assert found["none"] < 0.3
    assert found["published"] > found["control"] + 0.08
    assert found["ours"] > found["control"] + 0.08 and found["ours"] > 0.7


def test_fifty_images_do_better_than_the_control(task, teacher):
    student, images = fsc.prune_filters(teacher, 0.3), task.sample(50, seed=0).images
    repaired = score(fsc.fskd(teacher, student, images, progress=quiet), task)
    assert repaired > score(re_estimated(student, images), task) + 0.02 and repaired > 0.8


def test_other_peoples_photographs_help_too(real_data, task, teacher):
    photographs = fsc.load_task("folder", root=real_data / "natural-32" / "images", like="cifar10")
    student = fsc.prune_filters(teacher, 0.5)
    repaired = fsc.fskd(teacher, student, photographs.sample(200, seed=0).images, progress=quiet)
    assert score(repaired, task) > score(student, task) + 0.3


@pytest.mark.parametrize("scheme", ["svd", "spatial", "decouple"])
@pytest.mark.filterwarnings("ignore:factorize")
def test_factorized_students_recover(task, scheme):
    teacher = fsc.load_teacher("resnet20", task)
    student = fsc.factorize(teacher, 0.5, scheme=scheme)
    repaired = fsc.fskd(teacher, student, task.sample(200, seed=0).images, progress=quiet)
    before, after = score(student, task), score(repaired, task)
    print(f"{scheme}: {before:.3f} -> {after:.3f}")
    one = task.test.images[:1]
    assert after > before + 0.03 and fsc.cost(repaired, one) == fsc.cost(student, one)
