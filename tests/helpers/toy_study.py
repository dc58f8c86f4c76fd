"""A study of a few seconds: a network of three convs, forty random images, and methods that do odd things."""

import copy
import os
import time
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from fsc.compress.macs_budget import prune_macs
from fsc.inputs.tasks import Images, Task
from fsc.studies import study as sweeps
from fsc.studies.study import study

QUIET = {"progress": lambda done, total: None}


def toy_net() -> nn.Module:
    """A network for 8 x 8 images and 4 classes. Two convs can be pruned; the second has most MACs."""
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
            nn.Conv2d(8, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        ).eval().requires_grad_(False)  # fmt: skip
        for place in (0, 3, 5, 9):
            net[place].weight *= 3                              # so its predictions depend on the image,
        net[-1].bias -= net(torch.randn(200, 3, 8, 8)).mean(0)  # and every class is predicted
    return net


def toy_task(n: int = 40) -> Task:
    pixels = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    images = Images(pixels.__getitem__, torch.arange(n) % 4, torch.arange(n))
    test = images.subset(range(20))
    return Task("toy", tuple("abcd"), "shapes", (8, 8), (0.0,) * 3, (1.0,) * 3, images, test)


def toy_study(store, **asked):
    """A study of one method, ratio, number of images and seed, unless something else is asked."""
    few = {"methods": ["bn"], "samples": [6], "ratios": [0.5], "seeds": [0], "steps": 2, "latency_rounds": 6}
    return study(toy_task(), toy_net(), store=store, **(QUIET | few | asked))


def toy_latency(monkeypatch) -> list[list[str]]:
    """Time nothing: the teacher gets 1 ms, all others 0.5 ms. Returns the names asked, one list per call."""
    asked = []

    def latency(models, example, *, rounds, threads, progress):
        asked.append(list(models))
        times = [1.0 if name == "teacher" else 0.5 for name in models]
        return pd.DataFrame(dict.fromkeys(["median_ms", "ratio", "low", "high"], times), index=list(models))

    monkeypatch.setattr(sweeps, "latency", latency)
    return asked


def mine(teacher, images, ratio):
    return prune_macs(teacher, ratio, images)


def leaves_its_process(teacher, images, ratio):
    """A student; each call adds a word to a file of its process, in the folder that the environment names."""
    with open(Path(os.environ["TOY_STUDY"]) / f"pid-{os.getpid()}", "a") as file:
        file.write("once ")
    time.sleep(0.05)
    return prune_macs(teacher, ratio, images)


def waits_with_seed_2(teacher, images, ratio):
    """With seed 2, and while a file `wait` lies in that folder: write a file `waiting`, and wait for ever."""
    folder = Path(os.environ["TOY_STUDY"])
    with_seed_2 = torch.equal(images, toy_task().sample(len(images), seed=2).images)
    if with_seed_2 and (folder / "wait").exists():
        (folder / "waiting").touch()
        time.sleep(600)
    return prune_macs(teacher, ratio, images)


def changes_the_teacher(teacher, images, ratio):
    teacher.train()(images)  # its BatchNorm learns
    return prune_macs(teacher.eval(), ratio, images)


def returns_a_copy(teacher, images, ratio):
    return copy.deepcopy(teacher)
