"""Measure how every method repairs a pruned network with a few images: the rows of studies/methods.csv.

    python data/scripts/measure_methods.py            # drawings; with FSC_REAL_DATA photographs too
    python data/scripts/measure_methods.py --table    # print the tables from the stored rows
    python data/scripts/measure_methods.py fskd --only "task == 'shapes' and samples < 500"    # some rows

30, 50 or 70 % of the inner filters are removed; 50, 100 and 500 images; 5 seeds each. The ratio is the share
of filters, not of MACs as in fsc.study, so this study has its own loop. A run that was stopped resumes where
it was.
"""

import itertools
import math
import time
from collections.abc import Iterator

import pandas as pd
from common import fill, from_to, in_percent, markdown, parser_of, pruned, read, store_of, tasks, teacher_of

import fsc
from fsc.plots.drawing import NAMES
from fsc.runtime import quiet
from fsc.studies.methods import METHODS

SEEDS, STEPS = range(5), 200
GRID = [  # task, network, ratios, numbers of images
    ("shapes", "resnet20", (0.5, 0.3, 0.7), (50, 500, 100)),
    ("cifar10", "resnet20", (0.5, 0.3), (50, 500, 100)),
    ("cifar10", "resnet32", (0.5, 0.3), (50, 500, 100)),
]
KEY = ["task", "arch", "method", "samples", "ratio", "seed"]
COLUMNS = [*KEY, "accuracy", "seconds", "steps"]
FITTED = ["bn", "finetune", "kd", "fskd-sgd", "fskd-published", "fskd", "mir", "fskd+mir"]


def wanted(methods: list[str], only: str | None) -> Iterator[dict]:
    """The keys of all rows; of those with images, only the ones of which the query is true."""
    for task, arch, ratios, numbers in GRID:
        if task not in tasks():
            continue
        settings = [("teacher", None, None, None), *(("none", None, ratio, None) for ratio in ratios)]
        settings += itertools.product(methods, numbers, ratios, SEEDS)
        for setting in settings:
            row = dict(zip(KEY, (task, arch, *setting), strict=True))
            if row["samples"] is None or not only or len(pd.DataFrame([row]).query(only)):
                yield row


def measured(
    task: str, arch: str, method: str, samples: int | None, ratio: float | None, seed: int | None
) -> dict:
    """Make the network and score it: the rest of its row."""
    teacher, steps = teacher_of(task, arch), STEPS if METHODS[method].descends else None
    start = teacher if ratio is None else pruned(task, arch, ratio)
    few = samples and tasks()[task].sample(samples, seed=seed)
    begin = time.perf_counter()
    student = METHODS[method].make(teacher, start, few, steps=STEPS, seed=seed, progress=quiet)
    seconds = round(time.perf_counter() - begin, 1)
    accuracy = fsc.accuracy(student, tasks()[task].test, progress=quiet)
    return {"accuracy": accuracy, "seconds": seconds, "steps": steps}


def table(task: str, arch: str, ratio: float, numbers: tuple[int, ...] = (50, 100, 500)) -> str:
    """One row per method: accuracy at each number of images, and the seconds."""
    rows = read("methods")
    rows = rows[(rows.task == task) & (rows.arch == arch) & (rows.ratio.isna() | (rows.ratio == ratio))]
    counts = rows[rows.samples.notna()].groupby(["method", "samples"]).size()
    heads = [f"{arch}, {ratio:.0%} of the inner filters gone, {task}", *(f"{n} images" for n in numbers)]
    lines = [["teacher", *[in_percent(rows[rows.method == "teacher"].accuracy)] * len(numbers), ""]]
    for method in ("none", *FITTED):
        part = rows[rows.method == method]
        if part.empty:
            continue
        at = {n: part if method == "none" else part[part.samples == n] for n in numbers}
        seconds = part[part.samples == numbers[-1]].seconds.median()  # of "none" there are none
        spent = "" if math.isnan(seconds) else f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}"
        lines.append([NAMES[method], *(in_percent(found.accuracy) for found in at.values()), spent])
    caption = f"Top-1 accuracy in %, mean ± standard deviation over {from_to(counts)} draws of the images."
    return "\n".join([*markdown([*heads, f"seconds at {numbers[-1]}"], lines), "", caption])


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("methods", nargs="*", help=f"of {', '.join(FITTED)}; none: all")
    parser.add_argument("--only", metavar="QUERY", help="only rows that pandas.DataFrame.query(QUERY) finds")
    asked = parser.parse_args()
    if unknown := set(asked.methods) - set(FITTED):
        parser.error(f"no method {', '.join(unknown)}; there are {', '.join(FITTED)}")
    if not asked.table:
        rows = wanted(asked.methods or FITTED, asked.only)
        fill(store_of("methods", __file__, COLUMNS, KEY), rows, measured)
    rows = read("methods")
    for task, arch, ratios, _ in GRID:
        for ratio in sorted(ratios):
            if ((rows.task == task) & (rows.arch == arch) & (rows.ratio == ratio)).any():
                print(table(task, arch, ratio), end="\n\n")


if __name__ == "__main__":
    main()
