"""Measure how every method repairs a pruned network with a few images: the rows of studies/methods.csv.

    python data/scripts/measure_methods.py                  # drawings; photographs too where FSC_REAL_DATA names their folder
    python data/scripts/measure_methods.py fskd --only "task == 'shapes' and samples < 500"    # this method, these rows
    python data/scripts/measure_methods.py --table          # print the tables from the stored rows

Networks of which 30, 50 or 70 % of the inner filters are gone, 50, 100 and 500 images, 5 draws each. Rows are written
one by one; a run that was stopped goes on where it was.
"""

import argparse
import math
import os
import platform
import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch

import fsc
from fsc.inputs.tasks import Task
from fsc.runtime import quiet
from fsc.studies.methods import METHODS

STORE = Path(__file__).parents[1] / "studies" / "methods.csv"
SEEDS, STEPS = range(5), 200
GRID = [  # task, network, ratios, numbers of images
    ("shapes", "resnet20", (0.5, 0.3, 0.7), (50, 500, 100)),
    ("cifar10", "resnet20", (0.5, 0.3), (50, 500, 100)),
    ("cifar10", "resnet32", (0.5, 0.3), (50, 500, 100)),
]
COLUMNS = ["task", "arch", "method", "samples", "ratio", "seed", "accuracy", "seconds", "steps"]
NAMES = ["bn", "fskd-published", "fskd", "finetune", "mir", "fskd+mir", "kd", "fskd-sgd"]  # as in fsc.study


def tasks() -> dict[str, Task]:
    found = {"shapes": fsc.load_task("shapes")}
    if photographs := os.environ.get("FSC_REAL_DATA"):
        found["cifar10"] = fsc.load_task("folder", root=Path(photographs) / "cifar10-subset", like="cifar10")
    return found


def measure(methods: list[str], only: str | None) -> None:
    loaded = tasks()
    for name, arch, ratios, numbers in GRID:
        if name not in loaded:
            continue
        task = loaded[name]
        teacher = fsc.load_teacher(arch, task)
        add(task, lambda teacher=teacher: teacher, only=None, task=name, arch=arch, method="teacher")
        for ratio in ratios:
            student = fsc.prune_filters(teacher, ratio)
            add(task, lambda student=student: student, only=None, task=name, arch=arch, method="none", ratio=ratio)
            for method in methods:
                for samples in numbers:
                    for seed in SEEDS:
                        few = task.sample(samples, seed=seed)
                        repair = partial(METHODS[method].make, steps=STEPS, seed=seed, progress=quiet)
                        made = partial(repair, teacher, student, few)
                        add(task, made, only=only, task=name, arch=arch, method=method, samples=samples, ratio=ratio,
                            seed=seed, steps=STEPS if METHODS[method].descends else None)  # fmt: skip


def add(loaded: Task, make, *, only: str | None, **row) -> None:
    """Make the network, score it, append the row; nothing where the row is there already or was not asked for."""
    row = dict.fromkeys(COLUMNS) | row
    if is_stored(row) or (only and pd.DataFrame([row]).query(only).empty):
        return
    start = time.perf_counter()
    network = make()
    row["seconds"] = round(time.perf_counter() - start, 1)
    row["accuracy"] = fsc.accuracy(network, loaded.test, progress=quiet)
    if not STORE.exists():
        where = f"torch {torch.__version__}, {platform.machine()} CPU, {torch.get_num_threads()} thread(s) a run"
        STORE.write_text(f"# python data/scripts/measure_methods.py: fsc {fsc.__version__}, {where}\n{','.join(COLUMNS)}\n")
    with STORE.open("a") as file:
        file.write(",".join("" if row[column] is None else str(row[column]) for column in COLUMNS) + "\n")


def is_stored(row: dict) -> bool:
    if not STORE.exists():
        return False
    rows = read()
    for column in ("task", "arch", "method", "samples", "ratio", "seed"):
        rows = rows[rows[column].isna() if row[column] is None else rows[column] == row[column]]
    return len(rows) > 0


def read() -> pd.DataFrame:
    return pd.read_csv(STORE, comment="#")


WORDS = {
    "none": "unrepaired", "bn": "BatchNorm re-estimated (control)", "finetune": "fine-tuned with labels (BP)",
    "kd": "distilled (KD)", "fskd-sgd": "FSKD-SGD", "fskd-published": "FSKD as published", "fskd": "FSKD, our defaults",
    "mir": "MiR", "fskd+mir": "FSKD, then MiR",
}  # fmt: skip


def table(task: str, arch: str, ratio: float, numbers: tuple[int, ...] = (50, 100, 500)) -> str:
    """A row a method: accuracy at each number of images, mean and spread over the draws, and the seconds."""
    rows = read()
    rows = rows[(rows.task == task) & (rows.arch == arch) & (rows.ratio.isna() | (rows.ratio == ratio))]
    counts = rows[rows.samples.notna()].groupby(["method", "samples"]).size()
    draws = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    teacher = 100 * rows[rows.method == "teacher"].accuracy.mean()
    lines = [
        f"| {arch}, {ratio:.0%} of the inner filters gone, {task} | " + " | ".join(f"{n} images" for n in numbers)
        + f" | seconds at {numbers[-1]} |",
        "|---" * (len(numbers) + 2) + "|",
        f"| teacher | {' | '.join([f'{teacher:.1f}'] * len(numbers))} | |",
    ]  # fmt: skip
    for method, words in WORDS.items():
        part = rows[rows.method == method]
        if part.empty:
            continue
        cells = []
        for n in numbers:
            found = 100 * (part if method == "none" else part[part.samples == n]).accuracy
            spread = f" ± {found.std():.1f}" if len(found) > 1 else ""
            cells.append("" if found.empty else f"{found.mean():.1f}{spread}")
        seconds = part[part.samples == numbers[-1]].seconds.median()
        cells.append("" if math.isnan(seconds) else f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}")
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Top-1 accuracy in %, mean ± standard deviation over {draws} draws of the images."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", help=f"of {', '.join(NAMES)}; none: all")
    parser.add_argument("--only", metavar="QUERY", help="rows of which this is true, as pandas.DataFrame.query reads")
    parser.add_argument("--table", action="store_true", help="print the tables from the stored rows; measure nothing")
    asked = parser.parse_args()
    if unknown := set(asked.methods) - set(NAMES):
        parser.error(f"no method {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if not asked.table:
        measure(asked.methods or NAMES, asked.only)
    rows = read()
    for task, arch, ratios, _ in GRID:
        for ratio in sorted(ratios):
            if ((rows.task == task) & (rows.arch == arch) & (rows.ratio == ratio)).any():
                print(table(task, arch, ratio), end="\n\n")


if __name__ == "__main__":
    main()
