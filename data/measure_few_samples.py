"""Measure how a pruned network fares on a few images, on drawings and on photographs: the rows of few_samples.csv.

    python data/measure_few_samples.py            # drawings; photographs too where FSC_REAL_DATA names their folder
    python data/measure_few_samples.py --table    # print the table of data/README.md from the stored rows

A ResNet-20, 30, 50 and 70 % of its inner filters gone, then fine-tuned on 50, 100 and 500 labelled images, 5 draws
each; on photographs half the filters, 50 and 500 images. Rows are written one by one; a run that was stopped goes on.
"""

import argparse
import os
import platform
import time
from pathlib import Path

import pandas as pd
import torch

import fsc

STORE = Path(__file__).parent / "studies" / "few_samples.csv"
ARCH, SEEDS, STEPS = "resnet20", range(5), 200
GRID = {"shapes": ((0.5, 0.3, 0.7), (50, 500, 100)), "cifar10": ((0.5,), (50, 500))}  # ratios, numbers of images
COLUMNS = ["task", "arch", "method", "samples", "ratio", "seed", "accuracy", "seconds", "steps"]


def tasks() -> dict[str, fsc.tasks.Task]:
    found = {"shapes": fsc.load_task("shapes")}
    if photographs := os.environ.get("FSC_REAL_DATA"):
        found["cifar10"] = fsc.load_task("folder", root=Path(photographs) / "cifar10-subset", like="cifar10")
    return found


def measure(name: str, task: fsc.tasks.Task) -> None:
    teacher = fsc.load_teacher(ARCH, task)
    ratios, numbers = GRID[name]
    add(name, task, "teacher", lambda: teacher)
    for ratio in ratios:
        student = fsc.prune_filters(teacher, ratio)
        add(name, task, "none", lambda student=student: student, ratio=ratio)
        for samples in numbers:
            for seed in SEEDS:
                few = task.sample(samples, seed=seed)

                def tuned(student=student, few=few, seed=seed):
                    return fsc.finetune(teacher, student, few.images, few.labels, steps=STEPS, seed=seed)

                add(name, task, "finetune", tuned, samples=samples, ratio=ratio, seed=seed, steps=STEPS)


def add(name: str, task: fsc.tasks.Task, method: str, make, **settings) -> None:
    """Make the network, score it, append the row; nothing where the row is there already."""
    row = dict.fromkeys(COLUMNS) | {"task": name, "arch": ARCH, "method": method} | settings
    if is_stored(row):
        return
    start = time.perf_counter()
    network = make()
    row["seconds"] = round(time.perf_counter() - start, 1)
    row["accuracy"] = fsc.accuracy(network, task.test, progress=lambda done, total: None)
    if not STORE.exists():
        where = f"torch {torch.__version__}, {platform.machine()} CPU, {torch.get_num_threads()} thread(s) a run"
        STORE.write_text(f"# python data/measure_few_samples.py: fsc {fsc.__version__}, {where}\n{','.join(COLUMNS)}\n")
    with STORE.open("a") as file:
        file.write(",".join("" if row[column] is None else str(row[column]) for column in COLUMNS) + "\n")


def is_stored(row: dict) -> bool:
    if not STORE.exists():
        return False
    rows = pd.read_csv(STORE, comment="#")
    for column in ("task", "arch", "method", "samples", "ratio", "seed"):
        rows = rows[rows[column].isna() if row[column] is None else rows[column] == row[column]]
    return len(rows) > 0


def table() -> str:
    """Half the inner filters gone: drawings and photographs side by side, mean and spread over the draws."""
    rows = pd.read_csv(STORE, comment="#")
    rows = rows[rows.ratio.isna() | (rows.ratio == 0.5)]
    names = list(rows.task.unique())
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    settings = [("teacher", None, "teacher"), ("none", None, "half the inner filters gone")]
    settings += [("finetune", n, f"then fine-tuned on {n} images") for n in (50, 500)]
    for method, samples, words in settings:
        cells = []
        for name in names:
            part = rows[(rows.task == name) & (rows.method == method)]
            part = 100 * (part if samples is None else part[part.samples == samples]).accuracy
            spread = f" ± {part.std():.1f} ({len(part)} draws)" if len(part) > 1 else ""
            cells.append(f"{part.mean():.1f} %{spread}")
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print the table from the stored rows; measure nothing")
    if not parser.parse_args().table:
        STORE.parent.mkdir(exist_ok=True)
        for name, task in tasks().items():
            measure(name, task)
    print(table())


if __name__ == "__main__":
    main()
