"""Measure what the methods make of images that are not those of the task: the rows of studies/sources.csv.

    python data/scripts/measure_sources.py            # drawings; photographs too where FSC_REAL_DATA names their folder

50 images of each source (for the control and FSKD 200, too), 3 draws (seeds 0-2). Half of the inner filters gone, or
two blocks dropped: those of the lowest recoverability in closed form on the same images, without times, which hold for
one machine only. Rows are written one by one; a run that was stopped goes on where it was.

Each draw has a class of its own, number `seed`: it is the one that "a class missing" leaves out and of which "90 % one
class" has nine tenths, and its accuracy stands in `class_accuracy`, whatever the source. For FSKD every class is
missing once (seeds 0-9). `distance` is how far the images are from what the teacher's BatchNorms have stored.
"""

import itertools
import math
import os
import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from measure_methods import tasks
from torch import Tensor, nn

import fsc
from fsc.inputs.tasks import Images, Task
from fsc.runtime import quiet
from fsc.studies.methods import METHODS

STORE = Path(__file__).parents[1] / "studies" / "sources.csv"
COLUMNS = ["task", "arch", "method", "source", "samples", "ratio", "blocks", "seed", "distance", "accuracy",
           "class_accuracy", "dropped"]  # fmt: skip
RATIO, BLOCKS, STEPS = 0.5, 2, 200
INVERSION = {"steps": 40, "lr": 0.5}  # by the loss: see `invert`
NOISES = ("gaussian noise", "1/f noise", "dead leaves")
PARTS = ("a class missing", "90 % one class")
OTHERS = ("photographs", "drawings")
CLOSED, BLOCKWISE = ("bn", "fskd", "practise-closed"), ("practise-closed", "practise")
DRAWS, EVERY_CLASS = range(3), range(10)
GRID = [  # tasks, methods, sources, numbers of images, seeds
    (("shapes", "cifar10"), CLOSED, ("the task's", *NOISES, *OTHERS, *PARTS, "inverted"), (50,), DRAWS),
    (("shapes",), ("mir",), ("the task's", *NOISES[::2], "photographs", *PARTS, "inverted"), (50,), DRAWS),
    (("shapes",), ("finetune",), ("the task's", *PARTS), (50,), DRAWS),
    (("cifar10",), ("mir",), ("the task's", "gaussian noise", "photographs", "inverted"), (50,), DRAWS),
    (("shapes",), ("practise",), ("the task's", "gaussian noise", "photographs", "inverted"), (50,), DRAWS),
    (("cifar10",), ("practise",), ("the task's", "photographs"), (50,), DRAWS),
    (("shapes", "cifar10"), ("bn", "fskd"), ("the task's", *NOISES, *OTHERS, *PARTS), (200,), DRAWS),
    (("shapes", "cifar10"), ("fskd",), ("the task's", "a class missing"), (50,), EVERY_CLASS),
]


def gaussian_noise(n: int, rng: torch.Generator) -> Tensor:
    """(n, 3, 32, 32) of mean 0 and variance 1, as normalised images are; every pixel by itself."""
    return torch.randn(n, 3, 32, 32, generator=rng)


def pink_noise(n: int, rng: torch.Generator) -> Tensor:
    """(n, 3, 32, 32) of variance 1, its amplitude falling as 1 / frequency, as that of photographs does."""
    waves = torch.fft.rfft2(gaussian_noise(n, rng))                                  # (n, 3, 32, 17)
    frequency = (torch.fft.fftfreq(32)[:, None] ** 2 + torch.fft.rfftfreq(32) ** 2).sqrt()
    noise = torch.fft.irfft2(waves / frequency.clamp_min(1 / 32))
    return noise / noise.std()


def dead_leaves(n: int, rng: torch.Generator, leaves: int = 40) -> Tensor:
    """(n, 3, 32, 32) in [0, 1]: rectangles of random places, sizes, angles and colours, one over the other."""
    line = torch.linspace(-1, 1, 32)
    pictures = torch.rand(n, 3, 1, 1, generator=rng).expand(n, 3, 32, 32)
    for _ in range(leaves):
        x, y, turn, long, short = torch.rand(5, n, 1, 1, generator=rng)              # (n, 1, 1) each
        angle, x, y = math.pi * turn, line - 2.2 * x + 1.1, line[:, None] - 2.2 * y + 1.1
        u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()  # (n, 32, 32)
        inside = (u.abs() < 0.06 * 13**long) & (v.abs() < 0.06 * 13**short)          # small ones are the most
        pictures = torch.where(inside[:, None], torch.rand(n, 3, 1, 1, generator=rng), pictures)
    return pictures


def distance(net: nn.Module, images: Tensor) -> Tensor:
    """How far the batch's mean and deviation at each BatchNorm are from the stored ones, in stored deviations."""
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
    """Images whose statistics at every BatchNorm are the stored ones, from `images` by Adam (as in ZeroQ, section 3).

    The learning rate is, of 0.02, 0.1 and 0.5, the one of the lowest loss.
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


def unlabelled(images: Tensor) -> Images:
    return Images(images.__getitem__, None, torch.arange(len(images)))


def draw(source: str, n: int, seed: int, task: Task, teacher: nn.Module) -> Images | None:
    """`n` images of a source, prepared as those of the task; None: it is not there."""
    rng = torch.Generator().manual_seed(seed)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (task.mean, task.std))
    if source == "the task's":
        return task.sample(n, seed=seed)
    if source in PARTS:
        every = task.sample(len(task.train), seed=seed)                              # in the order of that draw
        mine, rest = ((every.labels == seed).nonzero()[:, 0], (every.labels != seed).nonzero()[:, 0])
        share = 0 if source == "a class missing" else round(0.9 * n)
        return every.subset(torch.cat([mine[:share], rest[: n - share]]))
    if source == "photographs":
        photographs = os.environ.get("FSC_REAL_DATA")
        if photographs is None:
            return None
        other = fsc.load_task("folder", root=Path(photographs) / "natural-32" / "images", like=task.like)
        return other.sample(n, seed=seed)
    if source == "drawings":                                                         # those of the other task
        other = fsc.load_task("shapes")
        if task.like == "shapes":
            return None
        pixels = other.sample(n, seed=seed).images * torch.tensor(other.std)[0] + torch.tensor(other.mean)[0]
        return unlabelled((pixels - mean) / std)
    if source == "inverted":
        return unlabelled(invert(teacher, gaussian_noise(n, rng), **INVERSION))
    if source == "dead leaves":
        return unlabelled((dead_leaves(n, rng) - mean) / std)
    return unlabelled((gaussian_noise if source == "gaussian noise" else pink_noise)(n, rng))


def far(teacher: nn.Module, images: Tensor) -> str:
    with torch.no_grad():
        return f"{distance(teacher, images).item():.5f}"


def make(method: str, teacher: nn.Module, few: Images, seed: int) -> tuple[nn.Module, list[str]]:
    """The repaired student, and the blocks that were dropped."""
    how = {"steps": STEPS, "seed": seed, "progress": quiet}
    if method not in BLOCKWISE:
        return METHODS[method].make(teacher, fsc.prune_filters(teacher, RATIO), few, **how), []
    table = fsc.recoverability(teacher, few.images, latency=False, progress=quiet)
    names = sorted(table.sort_values("score", kind="stable").index[:BLOCKS])
    student = fsc.fskd(teacher, fsc.drop_blocks(teacher, names), few.images, progress=quiet)
    return (student if method == "practise-closed" else fsc.mir(teacher, student, few.images, **how)), names


def wanted() -> Iterator[tuple]:
    """(task, method, source, samples, seed), a seed after the other, so that a stopped run has seen every source."""
    for seed in EVERY_CLASS:
        for names, methods, sources, numbers, seeds in GRID:
            for name, source, n, method in itertools.product(names, sources, numbers, methods):
                if seed in seeds:
                    yield name, method, source, n, seed


def write(**row) -> None:
    if not STORE.exists():
        where = f"fsc {fsc.__version__}, torch {torch.__version__}, {platform.machine()} CPU, 1 thread a run"
        STORE.write_text(f"# python data/scripts/measure_sources.py: {where}\n{','.join(COLUMNS)}\n")
    with STORE.open("a") as file:
        file.write(",".join(str(row.get(column, "")) for column in COLUMNS) + "\n")


def read() -> pd.DataFrame:
    return pd.read_csv(STORE, comment="#") if STORE.exists() else pd.DataFrame(columns=COLUMNS)


def main() -> None:
    loaded, arch = tasks(), "resnet20"
    teachers = {name: fsc.load_teacher(arch, task) for name, task in loaded.items()}
    images = cache(lambda name, source, n, seed: draw(source, n, seed, loaded[name], teachers[name]))

    def score(name: str, net: nn.Module, seed: int | None = None) -> dict[str, str]:
        test = loaded[name].test
        found = {"accuracy": f"{fsc.accuracy(net, test, progress=quiet):.4f}"}
        if seed is not None:
            mine = test.subset((test.labels == seed).nonzero()[:, 0])
            found["class_accuracy"] = f"{fsc.accuracy(net, mine, progress=quiet):.4f}"
        return found

    there = read()
    for name, teacher in teachers.items():
        if not (there.task == name).any():
            write(task=name, arch=arch, method="teacher", **score(name, teacher))
            write(task=name, arch=arch, method="none", ratio=RATIO, **score(name, fsc.prune_filters(teacher, RATIO)))
    done = set(there[["task", "method", "source", "samples", "seed"]].dropna().itertuples(index=False, name=None))
    for name, method, source, n, seed in wanted():
        if name not in loaded or (name, method, source, n, seed) in done or images(name, source, n, seed) is None:
            continue
        done.add((name, method, source, n, seed))
        few, teacher = images(name, source, n, seed), teachers[name]
        student, dropped = make(method, teacher, few, seed)
        cut = {"blocks": BLOCKS, "dropped": " ".join(dropped)} if dropped else {"ratio": RATIO}
        write(task=name, arch=arch, method=method, source=source, samples=n, seed=seed, **cut,
              distance=far(teacher, few.images), **score(name, student, seed))  # fmt: skip


if __name__ == "__main__":
    main()
