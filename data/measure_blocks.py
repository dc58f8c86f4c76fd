"""Measure how well networks that have lost blocks are recovered with a few images: the rows of studies/blocks.csv.

    python data/measure_blocks.py

One, two or three blocks dropped, those of the lowest recoverability in closed form (every block of this network does
the same number of MACs, so times, which differ from machine to machine, are left out); 50, 100 and 500 images, 5 draws.
Rows are written one by one; a run that was stopped goes on where it was. Nothing here takes gradient descent.
"""

import itertools
import platform
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from torch import nn

import fsc

STORE = Path(__file__).parent / "studies" / "blocks.csv"
COLUMNS = ["task", "arch", "method", "samples", "blocks", "seed", "accuracy", "dropped"]
METHODS, SAMPLES, BLOCKS, SEEDS = ("none", "fskd"), (50, 500, 100), (1, 2, 3), range(5)


def quiet(done: int, total: int) -> None:
    pass


def main() -> None:
    fsc.setup(seed=0)
    task = fsc.load_task("shapes")
    teacher = fsc.load_teacher("resnet20", task)

    @cache
    def ranked(samples: int, seed: int) -> list[str]:
        images = task.sample(samples, seed=seed).images
        table = fsc.recoverability(teacher, images, latency=False, progress=quiet)
        return table.sort_values("score", kind="stable").index.tolist()

    def recovered(names: list[str], samples: int, seed: int) -> nn.Module:
        images = task.sample(samples, seed=seed).images
        return fsc.fskd(teacher, fsc.drop_blocks(teacher, names), images, progress=quiet)

    @cache
    def merely(names: tuple[str, ...]) -> float:
        return fsc.accuracy(fsc.drop_blocks(teacher, names), task.test, progress=quiet)

    def write(method: str, samples: int | str, blocks: int, seed: int | str, accuracy: float, names: list[str]) -> None:
        row = ["shapes", "resnet20", method, samples, blocks, seed, f"{accuracy:.4f}", " ".join(names)]
        with STORE.open("a") as file:
            file.write(",".join(map(str, row)) + "\n")

    if not STORE.exists():
        where = f"fsc {fsc.__version__}, torch {torch.__version__}, {platform.machine()} CPU"
        STORE.write_text(f"# python data/measure_blocks.py: {where}\n{','.join(COLUMNS)}\n")
        write("teacher", "", 0, "", fsc.accuracy(teacher, task.test, progress=quiet), [])
    there = pd.read_csv(STORE, comment="#")
    done = set(there[["method", "samples", "blocks", "seed"]].dropna().itertuples(index=False, name=None))
    for samples, seed, blocks, method in itertools.product(SAMPLES, SEEDS, BLOCKS, METHODS):
        if (method, samples, blocks, seed) in done:
            continue
        names = sorted(ranked(samples, seed)[:blocks])
        if method == "none":
            found = merely(tuple(names))
        else:
            found = fsc.accuracy(recovered(names, samples, seed), task.test, progress=quiet)
        write(method, samples, blocks, seed, found, names)


if __name__ == "__main__":
    main()
