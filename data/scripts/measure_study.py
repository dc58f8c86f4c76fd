"""Measure the studies that ship, studies/all_TASK.csv: every method under both knobs, with measured latency.

    python data/scripts/measure_study.py             # drawings; photographs too where FSC_REAL_DATA names their folder
    python data/scripts/measure_study.py cifar10     # one of them
    python data/scripts/measure_study.py --retime    # forget the latencies, and measure those of the stored runs again
    python data/scripts/measure_study.py --table     # accuracy at about equal measured latency, from the stored rows

A run that was stopped goes on where it was. Methods with gradient descent have three draws where methods are compared,
one elsewhere. On a machine with other work the times are not to be trusted.
"""

import argparse
import io
from pathlib import Path

import pandas as pd
import torch
from measure_methods import tasks

import fsc
from fsc.inputs.tasks import Task
from fsc.plots.drawing import NAMES
from fsc.runtime import quiet
from fsc.studies.methods import METHODS
from fsc.studies.study import LATENCY

SAVED, NEAR = (0.1, 0.2, 0.3), 0.05  # shares of the teacher's latency, and how near to them counts
ARCH, STEPS = "resnet20", 200
PARTS = [  # methods, numbers of images, shares of the MACs to remove, draws
    (["practise-closed", "practise"], [50, 500], [0.1, 0.2, 0.3, 0.5], 3),
    (["bn", "fskd", "fskd-published"], [50, 100, 200, 500], [0.1, 0.2, 0.3, 0.5, 0.7], 3),
    (["finetune", "mir", "fskd+mir"], [50, 500], [0.5], 3),
    (["mir"], [500], [0.3, 0.5, 0.7], 3),
    (["finetune", "mir", "fskd+mir"], [50, 500], [0.3, 0.5, 0.7], 1),
]


def store_of(task: str) -> Path:
    return fsc.data_dir() / "studies" / f"all_{task}.csv"


def measure(name: str, task: Task) -> None:
    teacher = fsc.load_teacher(ARCH, task)
    for methods, samples, ratios, draws in PARTS:
        fsc.study(task, teacher, methods=methods, samples=samples, ratios=ratios, seeds=range(draws),
                  store=store_of(name), steps=STEPS, arch=ARCH, jobs=1)  # fmt: skip


def retime(name: str, task: Task) -> None:
    """Empty the columns of latency; `fsc.study` measures what is missing there once all runs are stored."""
    title, rows = store_of(name).read_text().split("\n", 1)
    rows = pd.read_csv(io.StringIO(rows), dtype=str, keep_default_na=False)
    rows[LATENCY] = ""
    store_of(name).write_text(f"{title}\n{rows.to_csv(index=False)}")
    teacher, stored = fsc.load_teacher(ARCH, task), pd.read_csv(store_of(name), comment="#").dropna(subset="seed")
    for (method, samples, ratio), mine in sorted(stored.groupby(["method", "samples", "ratio"]), key=cheap_first):
        fsc.study(task, teacher, methods=[method], samples=[int(samples)], ratios=[ratio], seeds=mine.seed.astype(int),
                  store=store_of(name), steps=STEPS, arch=ARCH, progress=quiet)  # fmt: skip


def cheap_first(group: tuple) -> bool:
    """For to be timed, a network is made again: of those of the same structure, one without gradient descent."""
    return METHODS[group[0][0]].descends


def table(name: str, samples: int) -> str:
    """A row a method: its accuracy at the least compression that, as measured, saves about each share of the time."""
    rows = pd.read_csv(store_of(name), comment="#")
    rows = rows[rows.accuracy.notna() & rows.latency_ratio.notna()]
    teacher = 100 * rows[rows.method == "teacher"].accuracy.item()
    heads = [f"{ARCH}, {name}, {samples} images", *(f"about {saved:.0%} of the time saved" for saved in SAVED)]
    lines = [
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
        f"| teacher, nothing saved | {' | '.join([f'{teacher:.1f}'] * len(SAVED))} |",
    ]
    for method in (m for m in NAMES if m in METHODS and m != "teacher"):
        mine = rows[(rows.method == method) & (rows.samples.isna() | (rows.samples == samples))]
        by = mine.groupby("ratio").agg(
            mean=("accuracy", "mean"), sd=("accuracy", "std"), time=("latency_ratio", "mean")
        )
        cells = []
        for saved in SAVED:
            near = by[(1 - by.time - saved).abs() <= NEAR].sort_index()
            if near.empty:
                cells.append("")
                continue
            at = near.iloc[0]
            spread = f" ± {100 * at.sd:.1f}" if at.sd == at.sd else ""
            cells.append(f"{100 * at['mean']:.1f}{spread} ({1 - at.time:.0%})")
        if any(cells):
            lines.append(f"| {NAMES[method]} | {' | '.join(cells)} |")
    draws = rows[rows.samples == samples].groupby(["method", "ratio"]).size()
    many = f"{draws.min()}" if draws.min() == draws.max() else f"{draws.min()} to {draws.max()}"
    read = (
        f"Top-1 accuracy in %, mean ± standard deviation over {many} draws of the images (without ±: one); in brackets "
        f"the share of the teacher's latency that was saved, one image on one CPU thread. Empty: nothing measured "
        f"saves within {100 * NEAR:.0f} points of that."
    )
    return "\n".join([*lines, "", read])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="TASK", help="shapes or cifar10; none: all there are")
    parser.add_argument("--retime", action="store_true", help="measure the stored networks' latency again; do it alone")
    parser.add_argument("--table", action="store_true", help="print the tables from the stored rows; measure nothing")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.table:
        for name in asked.names or ("shapes", "cifar10"):
            print(*(table(name, samples) for samples in (50, 500)), sep="\n\n", end="\n\n")
        return
    for name, task in tasks().items():
        if asked.names and name not in asked.names:
            continue
        (retime if asked.retime else measure)(name, task)


if __name__ == "__main__":
    main()
