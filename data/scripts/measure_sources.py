"""Measure the methods on images that are not those of the task: the rows of studies/sources.csv.

    python data/scripts/measure_sources.py            # drawings; with FSC_REAL_DATA photographs too

50 images of each source, and 200 for the control and FSKD; seeds 0-2. Half of the inner filters are removed;
or two blocks are dropped, those of the lowest recoverability in closed form on the same images. Times would
hold for one machine only and are left out. A run that was stopped resumes where it was.

The class with the number of the seed is the one that "a class missing" leaves out, and nine tenths of the
images of "90 % one class". Column class_accuracy is the accuracy on this class, whatever the source. For FSKD
every class is missing once (seeds 0-9). Column distance says how far the images are from what the teacher's
BatchNorms have stored.
"""

import itertools
import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from common import fill, pruned, store_of, tasks, teacher_of
from torch import Tensor, nn

import fsc
from fsc.inputs.tasks import Images, Task
from fsc.runtime import quiet
from fsc.studies.methods import METHODS

ARCH = "resnet20"
KEY = ["task", "arch", "method", "source", "samples", "ratio", "blocks", "seed"]
COLUMNS = [*KEY, "distance", "accuracy", "class_accuracy", "dropped"]
RATIO, BLOCKS, STEPS = 0.5, 2, 200
INVERSION = {"steps": 40, "lr": 0.5}  # by the loss: see `invert`
NOISES = ("gaussian noise", "1/f noise", "dead leaves")
PARTS = ("a class missing", "90 % one class")
OTHERS = ("photographs", "drawings")
CLOSED, BLOCKWISE = ("bn", "fskd", "practise-closed"), ("practise-closed", "practise")
SEEDS, EVERY_CLASS = range(3), range(10)
GRID = [  # tasks, methods, sources, numbers of images, seeds
    (("shapes", "cifar10"), CLOSED, ("the task's", *NOISES, *OTHERS, *PARTS, "inverted"), (50,), SEEDS),
    (("shapes",), ("mir",), ("the task's", *NOISES[::2], "photographs", *PARTS, "inverted"), (50,), SEEDS),
    (("shapes",), ("finetune",), ("the task's", *PARTS), (50,), SEEDS),
    (("cifar10",), ("mir",), ("the task's", "gaussian noise", "photographs", "inverted"), (50,), SEEDS),
    (("shapes",), ("practise",), ("the task's", "gaussian noise", "photographs", "inverted"), (50,), SEEDS),
    (("cifar10",), ("practise",), ("the task's", "photographs"), (50,), SEEDS),
    (("shapes", "cifar10"), ("bn", "fskd"), ("the task's", *NOISES, *OTHERS, *PARTS), (200,), SEEDS),
    (("shapes", "cifar10"), ("fskd",), ("the task's", "a class missing"), (50,), EVERY_CLASS),
]


def gaussian_noise(n: int, rng: torch.Generator) -> Tensor:
    """(n, 3, 32, 32) of mean 0 and variance 1, as normalised images have; all pixels are independent."""
    return torch.randn(n, 3, 32, 32, generator=rng)


def pink_noise(n: int, rng: torch.Generator) -> Tensor:
    """(n, 3, 32, 32) of variance 1; the amplitude falls as 1 / frequency, as in photographs."""
    waves = torch.fft.rfft2(gaussian_noise(n, rng))                                  # (n, 3, 32, 17)
    frequency = (torch.fft.fftfreq(32)[:, None] ** 2 + torch.fft.rfftfreq(32) ** 2).sqrt()
    noise = torch.fft.irfft2(waves / frequency.clamp_min(1 / 32))
    return noise / noise.std()


def dead_leaves(n: int, rng: torch.Generator, leaves: int = 40) -> Tensor:
    """(n, 3, 32, 32) in [0, 1]: rectangles of random place, size, angle and colour on top of each other."""
    line = torch.linspace(-1, 1, 32)
    pictures = torch.rand(n, 3, 1, 1, generator=rng).expand(n, 3, 32, 32)
    for _ in range(leaves):
        x, y, turn, long, short = torch.rand(5, n, 1, 1, generator=rng)              # (n, 1, 1) each
        angle, x, y = math.pi * turn, line - 2.2 * x + 1.1, line[:, None] - 2.2 * y + 1.1
        u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()  # (n, 32, 32)
        inside = (u.abs() < 0.06 * 13**long) & (v.abs() < 0.06 * 13**short)          # most are small
        pictures = torch.where(inside[:, None], torch.rand(n, 3, 1, 1, generator=rng), pictures)
    return pictures


def distance(net: nn.Module, images: Tensor) -> Tensor:
    """Mean squared distance of the batch's mean and deviation from those that each BatchNorm has stored."""
    terms = []

    def look(norm: nn.Module, args: tuple[Tensor]) -> None:
        stored = (norm.running_var + norm.eps).sqrt()
        var, mean = torch.var_mean(args[0], (0, 2, 3))                               # (C,) each
        shift, stretch = (mean - norm.running_mean) / stored, (var + norm.eps).sqrt() / stored
        terms.append((shift.square() + (stretch - 1).square()).mean())

    hooks = [m.register_forward_pre_hook(look) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    net(images)
    for hook in hooks:
        hook.remove()
    return torch.stack(terms).mean()


def invert(net: nn.Module, images: Tensor, *, steps: int, lr: float) -> Tensor:
    """Change `images` by Adam until every BatchNorm sees its stored statistics (ZeroQ, section 3).

    Of the learning rates 0.02, 0.1 and 0.5, the one in INVERSION gave the lowest loss.
    """
    images = images.clone().requires_grad_(True)
    adam = torch.optim.Adam([images], lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        adam.zero_grad()
        distance(net, images).backward()
        adam.step()
        schedule.step()
    return images.detach()


def sample_of(source: str, n: int, seed: int, task: Task, teacher: nn.Module) -> Images | None:
    """`n` images of a source, normalised as those of the task; None where the source is not there."""
    if source == "the task's":
        return task.sample(n, seed=seed)
    if source in PARTS:
        every = task.sample(len(task.train), seed=seed)  # in this seed's order
        mine, rest = ((every.labels == seed).nonzero()[:, 0], (every.labels != seed).nonzero()[:, 0])
        share = 0 if source == "a class missing" else round(0.9 * n)
        return every.subset(torch.cat([mine[:share], rest[: n - share]]))
    if source == "photographs":
        if "FSC_REAL_DATA" not in os.environ:
            return None
        folder = Path(os.environ["FSC_REAL_DATA"]) / "natural-32" / "images"
        return fsc.load_task("folder", root=folder, like=task.like).sample(n, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (task.mean, task.std))
    if source == "drawings":                                                         # those of the other task
        if task.like == "shapes":
            return None
        other = fsc.load_task("shapes")
        pixels = other.sample(n, seed=seed).images * torch.tensor(other.std)[0] + torch.tensor(other.mean)[0]
        images = (pixels - mean) / std
    elif source == "inverted":
        images = invert(teacher, gaussian_noise(n, rng), **INVERSION)
    elif source == "dead leaves":
        images = (dead_leaves(n, rng) - mean) / std
    else:
        images = (gaussian_noise if source == "gaussian noise" else pink_noise)(n, rng)
    return Images(images.__getitem__, None, torch.arange(n))


def wanted() -> Iterator[dict]:
    """The keys of all rows; one seed after the other, so that a stopped run has seen every source."""
    row = dict.fromkeys(KEY) | {"arch": ARCH}
    for task in tasks():
        yield row | {"task": task, "method": "teacher"}
        yield row | {"task": task, "method": "none", "ratio": RATIO}
    for seed in EVERY_CLASS:
        for names, methods, sources, numbers, seeds in GRID:
            for task, source, n, method in itertools.product(names, sources, numbers, methods):
                if seed in seeds and task in tasks():
                    cut = {"blocks": BLOCKS} if method in BLOCKWISE else {"ratio": RATIO}
                    asked = {"task": task, "method": method, "source": source, "samples": n, "seed": seed}
                    yield row | asked | cut


@cache
def images_of(task: str, source: str, n: int, seed: int) -> Images | None:
    return sample_of(source, n, seed, tasks()[task], teacher_of(task, ARCH))


def measured(
    task: str, arch: str, method: str, source: str | None, samples: int, seed: int, **cut
) -> dict | None:
    """Make the network and score it: the rest of its row; None where the source is not there."""
    teacher, test, found = teacher_of(task, arch), tasks()[task].test, {}
    student = pruned(task, arch, RATIO) if cut["ratio"] else teacher
    if source:
        few = images_of(task, source, samples, seed)
        if few is None:
            return None
        student, dropped = repaired(method, teacher, student, few, seed)
        of_class = test.subset((test.labels == seed).nonzero()[:, 0])
        found["class_accuracy"] = round(fsc.accuracy(student, of_class, progress=quiet), 4)
        with torch.no_grad():
            found["distance"] = round(distance(teacher, few.images).item(), 5)
        found["dropped"] = " ".join(dropped)
    return found | {"accuracy": round(fsc.accuracy(student, test, progress=quiet), 4)}


def repaired(
    method: str, teacher: nn.Module, student: nn.Module, few: Images, seed: int
) -> tuple[nn.Module, list[str]]:
    """The repaired student, and the blocks that were dropped."""
    how = {"steps": STEPS, "seed": seed, "progress": quiet}
    if method not in BLOCKWISE:
        return METHODS[method].make(teacher, student, few, **how), []
    table = fsc.recoverability(teacher, few.images, latency=False, progress=quiet)
    names = sorted(table.sort_values("score", kind="stable").index[:BLOCKS])
    student = fsc.fskd(teacher, fsc.drop_blocks(teacher, names), few.images, progress=quiet)
    return (student if method == "practise-closed" else fsc.mir(teacher, student, few.images, **how)), names


if __name__ == "__main__":
    fill(store_of("sources", __file__, COLUMNS, KEY), wanted(), measured)
