"""Recoveries of odd networks, with odd numbers and images: numpy's scalars, double precision, ..."""

import copy

import numpy as np
import pytest
import torch
from helpers.small_net import few_images, small_net
from torch import nn

import fsc
from fsc.runtime import quiet

pytestmark = pytest.mark.filterwarnings("ignore:fskd", "ignore:practise")


RECOVERIES = {
    "mir": lambda t, s, x, n, f: fsc.mir(t, s, x, steps=n(2), lr=f(0.01), seed=n(0), progress=quiet),
    "distill": lambda t, s, x, n, f: fsc.distill(t, s, x, steps=n(2), lr=f(0.01), seed=n(0), progress=quiet),
    "fskd": lambda t, s, x, n, f: fsc.fskd(t, s, x, ridge=f(0.01), progress=quiet),
    "fskd-sgd": lambda t, s, x, n, f: fsc.fskd(t, s, x, method="sgd", steps=n(2), lr=f(0.1), progress=quiet),
    "practise": lambda t, s, x, n, f: fsc.practise(
        t, x, count=n(1), timed=times(t), mimic_steps=n(2), seed=n(0), progress=quiet
    ),
    "prune_filters": lambda t, s, x, n, f: fsc.prune_filters(t, f(0.5), criterion="random", seed=n(0)),
}


def times(net):
    import pandas as pd

    names = fsc.droppable_blocks(net)
    return pd.DataFrame({"latency_saved": 0.1, "latency_measurable": True}, index=names)


@pytest.mark.parametrize("name", RECOVERIES)
def test_a_student_made_with_numpys_numbers_is_saved_and_equal(teacher, images, tmp_path, name):
    student = fsc.prune_filters(teacher, 0.5)
    with_numpy = RECOVERIES[name](teacher, student, images, np.int64, np.float64)
    with_python = RECOVERIES[name](teacher, student, images, int, float)
    again = fsc.load(fsc.save(with_numpy, tmp_path / "student.safetensors"), teacher)
    assert torch.equal(again(images), with_python(images))


def test_a_sample_is_drawn_by_numpys_seed_too():
    task = fsc.load_task("shapes")
    assert torch.equal(task.sample(5, seed=np.arange(3)[1]).images, task.sample(5, seed=1).images)
    with pytest.raises(TypeError, match=r"seed=0\.5; asked for a whole number"):
        task.sample(5, seed=0.5)


@pytest.mark.parametrize("method", ["closed", "sgd"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_fskd_takes_networks_of_other_precision(teacher, images, method, dtype):
    teacher = copy.deepcopy(teacher).to(dtype)
    recovered = fsc.fskd(teacher, fsc.prune_filters(teacher, 0.5), images.to(dtype), method=method, steps=2,
                         progress=quiet)
    assert {p.dtype for p in recovered.parameters()} == {dtype}


@pytest.mark.parametrize("name", ["mir", "distill", "fskd", "fskd-sgd", "practise"])
def test_images_that_require_grad_are_used_without_it(teacher, images, name):
    leaf = images.clone().requires_grad_()
    student = fsc.prune_filters(teacher, 0.5)
    for inverted in (leaf, torch.tanh(leaf) * 2):  # with a history, as images inverted from a teacher
        RECOVERIES[name](teacher, student, inverted, int, float)
    assert leaf.grad is None


class NormalisesItsInput(nn.Module):
    """Its forward reads a buffer, and makes a tensor of its own."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]))

    def forward(self, x):
        return self.net((x - self.mean.view(1, 3, 1, 1)) / torch.tensor([0.9, 1.0, 1.1]).view(1, 3, 1, 1))


@pytest.mark.parametrize("name", ["mir", "distill", "fskd", "fskd-sgd", "practise"])
def test_a_network_that_normalises_its_own_input_is_recovered(teacher, images, name):
    teacher = NormalisesItsInput(teacher).eval()
    student = fsc.prune_filters(teacher, 0.5)
    recovered = RECOVERIES[name](teacher, student, images, int, float)
    assert torch.equal(recovered.mean, teacher.mean) and recovered(images).isfinite().all()


@pytest.mark.parametrize("lr", [float("inf"), 1e30])
@pytest.mark.parametrize("name", ["mir", "distill"])
def test_a_training_that_diverges_in_its_last_step_is_refused(name, lr):
    teacher, (images, _) = small_net(seed=0), few_images()
    with pytest.raises(FloatingPointError, match=rf"{name}: .*after step 1 of 1"):
        getattr(fsc, name)(teacher, small_net(seed=1), images, steps=1, lr=lr, progress=quiet)
