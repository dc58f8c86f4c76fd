"""Measure how networks with dropped blocks are recovered with a few images: the rows of studies/blocks.csv.

    python data/scripts/measure_blocks.py            # drawings; with FSC_REAL_DATA photographs too

The blocks of the lowest recoverability in closed form are dropped. Times differ from machine to machine and
are left out; every block of these networks does the same number of MACs. 5 seeds of the images; no gradient
descent. A run that was stopped resumes where it was.
"""

import itertools
from collections.abc import Iterator
from functools import cache

from common import fill, in_percent, markdown, read, store_of, tasks, teacher_of

import fsc
from fsc.runtime import quiet

KEY = ["task", "arch", "method", "samples", "blocks", "seed"]
COLUMNS = [*KEY, "accuracy", "dropped"]
METHODS, SEEDS = ("none", "fskd"), range(5)
GRID = [  # task, network, numbers of blocks, numbers of images
    ("shapes", "resnet20", (1, 2, 3), (50, 500, 100)),
    ("cifar10", "resnet32", (1, 2, 3, 4, 5), (50, 500)),
]


def wanted() -> Iterator[dict]:
    for task, arch, numbers, samples in GRID:
        if task in tasks():
            settings = [("teacher", None, 0, None)]
            settings += [(m, n, b, s) for n, s, b, m in itertools.product(samples, SEEDS, numbers, METHODS)]
            yield from (dict(zip(KEY, (task, arch, *setting), strict=True)) for setting in settings)


@cache
def ranked(task: str, arch: str, samples: int, seed: int) -> list[str]:
    """The blocks, from the lowest recoverability to the highest."""
    images = tasks()[task].sample(samples, seed=seed)
    table = fsc.recoverability(teacher_of(task, arch), images.images, latency=False, progress=quiet)
    return table.sort_values("score", kind="stable").index.tolist()


def measured(task: str, arch: str, method: str, samples: int | None, blocks: int, seed: int | None) -> dict:
    """Make the network and score it: the rest of its row."""
    student, dropped = teacher_of(task, arch), []
    if method != "teacher":
        dropped = sorted(ranked(task, arch, samples, seed)[:blocks])
        student = fsc.drop_blocks(student, dropped)
    if method == "fskd":
        images = tasks()[task].sample(samples, seed=seed).images
        student = fsc.fskd(teacher_of(task, arch), student, images, progress=quiet)
    accuracy = fsc.accuracy(student, tasks()[task].test, progress=quiet)
    return {"accuracy": round(accuracy, 4), "dropped": " ".join(dropped)}


def table(task: str, arch: str) -> str:
    """One row per number of blocks: merely dropped, and recovered, with each number of images."""
    rows = read("blocks")
    rows = rows[(rows.task == task) & (rows.arch == arch)]
    teacher, rows = rows[rows.method == "teacher"].accuracy, rows[rows.method != "teacher"]
    numbers = sorted(rows.samples.astype(int).unique())
    heads = [f"{n} images, {what}" for n in numbers for what in ("merely dropped", "recovered")]
    found = rows.groupby(["blocks", "samples", "method"]).accuracy
    lines = [
        [blocks, *(in_percent(found.get_group((blocks, n, m))) for n in numbers for m in METHODS)]
        for blocks in sorted(rows.blocks.unique())
    ]
    caption = f"Top-1 accuracy in %, mean ± standard deviation over {found.size().min()} draws of the images"
    lines = markdown([f"{arch}, {task}: blocks dropped", *heads], lines)
    return "\n".join([*lines, "", f"{caption}; teacher {in_percent(teacher)}."])


if __name__ == "__main__":
    fill(store_of("blocks", __file__, COLUMNS, KEY), wanted(), measured)
