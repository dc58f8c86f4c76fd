"""Measure how well networks that have lost blocks are recovered with a few images: the rows of studies/blocks.csv.

    python data/scripts/measure_blocks.py            # drawings; photographs too where FSC_REAL_DATA names their folder

Some blocks dropped, those of the lowest recoverability in closed form (every block of these networks does the same
number of MACs, so times, which differ from machine to machine, are left out); 5 draws of the images each. Rows
are written one by one; a run that was stopped goes on where it was. Nothing here takes gradient descent.
"""

import itertools
import platform
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from measure_methods import tasks
from torch import nn

import fsc
from fsc.inputs.tasks import Task
from fsc.runtime import quiet

STORE = Path(__file__).parents[1] / "studies" / "blocks.csv"
COLUMNS = ["task", "arch", "method", "samples", "blocks", "seed", "accuracy", "dropped"]
METHODS, SEEDS = ("none", "fskd"), range(5)
GRID = [  # task, network, numbers of blocks, numbers of images
    ("shapes", "resnet20", (1, 2, 3), (50, 500, 100)),
    ("cifar10", "resnet32", (1, 2, 3, 4, 5), (50, 500)),
]


def write(*cells) -> None:
    if not STORE.exists():
        where = f"fsc {fsc.__version__}, torch {torch.__version__}, {platform.machine()} CPU"
        STORE.write_text(f"# python data/scripts/measure_blocks.py: {where}\n{','.join(COLUMNS)}\n")
    with STORE.open("a") as file:
        file.write(",".join(map(str, cells)) + "\n")


def read() -> pd.DataFrame:
    return pd.read_csv(STORE, comment="#") if STORE.exists() else pd.DataFrame(columns=COLUMNS)


def measure(name: str, task: Task, arch: str, numbers: tuple[int, ...], samples: tuple[int, ...]) -> None:
    teacher = fsc.load_teacher(arch, task)

    @cache
    def ranked(count: int, seed: int) -> list[str]:
        images = task.sample(count, seed=seed).images
        table = fsc.recoverability(teacher, images, latency=False, progress=quiet)
        return table.sort_values("score", kind="stable").index.tolist()

    def recovered(names: list[str], count: int, seed: int) -> nn.Module:
        images = task.sample(count, seed=seed).images
        return fsc.fskd(teacher, fsc.drop_blocks(teacher, names), images, progress=quiet)

    @cache
    def merely(names: tuple[str, ...]) -> float:
        return fsc.accuracy(fsc.drop_blocks(teacher, names), task.test, progress=quiet)

    there = read()
    there = there[(there.task == name) & (there.arch == arch)]
    if not (there.method == "teacher").any():
        write(name, arch, "teacher", "", 0, "", f"{fsc.accuracy(teacher, task.test, progress=quiet):.4f}", "")
    done = set(there[["method", "samples", "blocks", "seed"]].dropna().itertuples(index=False, name=None))
    for count, seed, blocks, method in itertools.product(samples, SEEDS, numbers, METHODS):
        if (method, count, blocks, seed) in done:
            continue
        names = sorted(ranked(count, seed)[:blocks])
        if method == "none":
            found = merely(tuple(names))
        else:
            found = fsc.accuracy(recovered(names, count, seed), task.test, progress=quiet)
        write(name, arch, method, count, blocks, seed, f"{found:.4f}", " ".join(names))


def table(task: str, arch: str) -> str:
    """A row a number of blocks: merely dropped, and recovered, with each number of images."""
    rows = read()
    rows = rows[(rows.task == task) & (rows.arch == arch)]
    numbers = sorted(int(n) for n in rows.samples.dropna().unique())
    heads = [f"{arch}, {task}: blocks dropped"]
    heads += [f"{n} images, {what}" for n in numbers for what in ("merely dropped", "recovered")]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for blocks in sorted(rows.blocks[rows.blocks > 0].unique()):
        cells = [str(blocks)]
        for n, method in itertools.product(numbers, METHODS):
            found = 100 * rows[(rows.blocks == blocks) & (rows.samples == n) & (rows.method == method)].accuracy
            cells.append(f"{found.mean():.1f} ± {found.std():.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    teacher = rows[rows.method == "teacher"].accuracy.item()
    counts = rows[rows.blocks > 0].groupby(["blocks", "samples", "method"]).size()
    read_as = f"Top-1 accuracy in %, mean ± standard deviation over {counts.min()} draws of the images"
    read_as += f"; teacher {100 * teacher:.1f}."
    return "\n".join([*lines, "", read_as])


def main() -> None:
    loaded = tasks()
    for name, arch, numbers, samples in GRID:
        if name in loaded:
            measure(name, loaded[name], arch, numbers, samples)


if __name__ == "__main__":
    main()
