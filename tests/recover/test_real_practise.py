"""PRACTISE on the published ResNet-32 and real images: blocks are found, ranked and recovered."""

import pytest

import fsc
from fsc.runtime import quiet

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def task(real_data):
    return fsc.load_task("folder", root=real_data / "cifar10-subset", like="cifar10")


@pytest.fixture(scope="module")
def teacher(task):
    return fsc.load_teacher("resnet32", task)


def score(net, task):
    return fsc.accuracy(net, task.test, progress=quiet)


def test_every_block_but_those_that_change_the_shape_can_be_dropped(teacher):
    blocks = [f"layer{stage}.{i}" for stage in (1, 2, 3) for i in range(5)]
    assert fsc.droppable_blocks(teacher) == [name for name in blocks if name not in ("layer2.0", "layer3.0")]


def test_three_blocks_gone_are_absorbed_by_least_squares(task, teacher):
    images = task.sample(200, seed=0).images
    dropped = fsc.drop_blocks(teacher, ["layer1.3", "layer2.1", "layer2.2"])
    absorbed = fsc.fskd(teacher, dropped, images, progress=quiet)
    before, after, whole = score(dropped, task), score(absorbed, task), score(teacher, task)
    print(f"teacher {whole:.3f}, dropped {before:.3f}, absorbed {after:.3f}")
    assert 0.7 < before < 0.88 and after > before + 0.05 and after > whole - 0.06
    assert fsc.cost(absorbed, images[:1]) == fsc.cost(dropped, images[:1])


def test_the_closed_form_ranks_easy_and_hard_blocks_as_dropping_them_shows(task, teacher):
    blocks = ["layer1.2", "layer2.2", "layer2.4", "layer3.4"]
    images = task.sample(100, seed=0).images
    table = fsc.recoverability(teacher, images, blocks=blocks, latency=False, progress=quiet)
    assert list(table.index) == blocks
    assert (table.recoverability < table.dropped_mse).all()
    assert (table.held_out_recoverability < table.dropped_mse).all()
    assert table.recoverability["layer1.2"] < table.recoverability["layer3.4"]
