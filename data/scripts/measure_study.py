"""Measure the studies that ship, studies/all_TASK.csv: every method at many settings, with measured latency.

    python data/scripts/measure_study.py            # drawings; with FSC_REAL_DATA photographs too
    python data/scripts/measure_study.py cifar10     # one of them
    python data/scripts/measure_study.py --retime    # delete the latencies, and measure them again
    python data/scripts/measure_study.py --table     # accuracy at about equal latency, from the stored rows

A run that was stopped resumes where it was. Methods with gradient descent have three seeds where methods are
compared, and one elsewhere. On a machine with other work the times are not to be trusted.
"""

import pandas as pd
import torch
from common import STUDIES, from_to, in_percent, markdown, parser_of, read, tasks, teacher_of

import fsc
from fsc.plots.drawing import NAMES
from fsc.runtime import quiet
from fsc.studies.csv_store import Store
from fsc.studies.methods import METHODS
from fsc.studies.study import COLUMNS, KEY, LATENCY

SAVED, NEAR = (0.1, 0.2, 0.3), 0.05  # shares of the teacher's latency, and how near to them counts
ARCH, STEPS = "resnet20", 200
PARTS = [  # methods, numbers of images, shares of the MACs to remove, number of seeds
    (["practise-closed", "practise"], [50, 500], [0.1, 0.2, 0.3, 0.5], 3),
    (["bn", "fskd", "fskd-published"], [50, 100, 200, 500], [0.1, 0.2, 0.3, 0.5, 0.7], 3),
    (["finetune", "mir", "fskd+mir"], [50, 500], [0.5], 3),
    (["mir"], [500], [0.3, 0.5, 0.7], 3),
    (["finetune", "mir", "fskd+mir"], [50, 500], [0.3, 0.5, 0.7], 1),
]


def study(task: str, seeds: range | list[int], **asked) -> None:
    asked |= {"store": STUDIES / f"all_{task}.csv", "steps": STEPS, "arch": ARCH}
    fsc.study(tasks()[task], teacher_of(task, ARCH), seeds=seeds, **asked)


def measure(task: str) -> None:
    for methods, samples, ratios, seeds in PARTS:
        study(task, range(seeds), methods=methods, samples=samples, ratios=ratios, jobs=1)


def retime(task: str) -> None:
    """Empty the columns of latency; `fsc.study` measures what is missing there once all runs are stored."""
    store = Store(STUDIES / f"all_{task}.csv", COLUMNS, KEY)
    store.change(lambda row: dict.fromkeys(LATENCY))
    groups = read(f"all_{task}").dropna(subset="seed").groupby(["method", "samples", "ratio"])
    # To be timed, a network is made again: best by a method without gradient descent, so those come first.
    for (method, samples, ratio), rows in sorted(groups, key=lambda group: METHODS[group[0][0]].descends):
        seeds, samples = rows.seed.astype(int), [int(samples)]
        study(task, seeds, methods=[method], samples=samples, ratios=[ratio], progress=quiet)


def table(task: str, samples: int) -> str:
    """One row per method: its accuracy where it saves about each share of the measured time."""
    rows = read(f"all_{task}")
    rows = rows[rows.accuracy.notna() & rows.latency_ratio.notna()]
    teacher = in_percent(rows[rows.method == "teacher"].accuracy)
    heads = [f"about {saved:.0%} of the time saved" for saved in SAVED]
    lines = [["teacher, nothing saved", *[teacher] * len(SAVED)]]
    for method in (m for m in NAMES if m in METHODS and m != "teacher"):
        mine = rows[(rows.method == method) & (rows.samples.isna() | (rows.samples == samples))]
        cells = [at_about(saved, mine) for saved in SAVED]
        if any(cells):
            lines.append([NAMES[method], *cells])
    draws = rows[rows.samples == samples].groupby(["method", "ratio"]).size()
    caption = (
        f"Top-1 accuracy in %, mean ± standard deviation over {from_to(draws)} draws of the images "
        f"(without ±: one); in brackets the share of the teacher's latency that was saved, one image on one "
        f"CPU thread. Empty: nothing measured saves within {100 * NEAR:.0f} points of that."
    )
    return "\n".join([*markdown([f"{ARCH}, {task}, {samples} images", *heads], lines), "", caption])


def at_about(saved: float, rows: pd.DataFrame) -> str:
    """The accuracy at the smallest ratio that saves about this share of the time; "" where none does."""
    for _, mine in rows.groupby("ratio"):
        found = 1 - mine.latency_ratio.mean()
        if abs(found - saved) <= NEAR:
            return f"{in_percent(mine.accuracy)} ({found:.0%})"
    return ""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("names", nargs="*", metavar="TASK", help="shapes or cifar10; none: all there are")
    parser.add_argument("--retime", action="store_true", help="measure the latencies again")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.table:
        for task in asked.names or ("shapes", "cifar10"):
            print(*(table(task, samples) for samples in (50, 500)), sep="\n\n", end="\n\n")
        return
    for task in asked.names or tasks():
        (retime if asked.retime else measure)(task)


if __name__ == "__main__":
    main()
