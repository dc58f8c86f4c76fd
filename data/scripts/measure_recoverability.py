"""Measure how two kinds of recoverability rank blocks, and how MiR recovers each: studies/recoverability.csv.

    python data/scripts/measure_recoverability.py            # drawings; with FSC_REAL_DATA photographs too
    python data/scripts/measure_recoverability.py --table    # print the tables from the stored rows
    python data/scripts/measure_recoverability.py --large    # seconds and memory at ImageNet's size, printed

Every block of a network is dropped alone and recovered in two ways: by least squares, and by SGD as
published. Both should predict the accuracy after 200 steps of MiR from the network without that block, so
that is measured too. One row per block. A ranking is stored at once; a run that was stopped goes on with the
first ranking that is not complete.
"""

import resource
import time

import pandas as pd
import torch
import torchvision
from common import markdown, parser_of, read, store_of, tasks, teacher_of
from torch import Tensor, nn

import fsc
from fsc.runtime import quiet
from fsc.studies.csv_store import Store

KEY = ["task", "arch", "method", "steps", "samples", "seed", "block"]
COLUMNS = [*KEY, "dropped_mse", "recoverability", "held_out_recoverability", "accuracy", "seconds"]
SAMPLES = 500
GRID = [  # task, network, method, steps, number of seeds
    ("cifar10", "resnet20", "sgd", 150, 1),
    ("shapes", "resnet20", "sgd", 150, 1),
    ("shapes", "resnet20", "mir", 200, 1),
    ("cifar10", "resnet32", "sgd", 150, 1),
    ("cifar10", "resnet20", "mir", 200, 1),
    ("cifar10", "resnet20", "sgd", 1000, 1),
    ("shapes", "resnet20", "sgd", 150, 3),
    ("shapes", "resnet20", "mir", 200, 3),
    ("cifar10", "resnet20", "sgd", 150, 3),
    ("cifar10", "resnet32", "sgd", 150, 3),
]


def rank(store: Store, task: str, arch: str, method: str, steps: int, seed: int) -> None:
    """Measure all blocks by one method with one seed, unless all are stored."""
    head = {"task": task, "arch": arch, "method": method, "steps": steps, "samples": SAMPLES, "seed": seed}
    teacher, stored = teacher_of(task, arch), store.rows()
    blocks = fsc.droppable_blocks(teacher)
    if all(store.key_of(head | {"block": block}) in stored for block in blocks):
        return
    images = tasks()[task].sample(SAMPLES, seed=seed).images
    if method == "mir":
        found = pd.DataFrame([after_mir(task, teacher, images, block, steps, seed) for block in blocks])
    else:
        how = {"method": method, "seed": seed} | ({"steps": steps} if method == "sgd" else {})
        found = fsc.recoverability(teacher, images, latency=False, progress=quiet, **how).reset_index()
    for row in found.round(5).to_dict("records"):
        store.add(head | row)


def after_mir(task: str, teacher: nn.Module, images: Tensor, block: str, steps: int, seed: int) -> dict:
    begin, student = time.perf_counter(), fsc.drop_blocks(teacher, [block])
    student = fsc.mir(teacher, student, images, steps=steps, seed=seed, progress=quiet)
    seconds = time.perf_counter() - begin
    accuracy = fsc.accuracy(student, tasks()[task].test, progress=quiet)
    return {"block": block, "accuracy": accuracy, "seconds": seconds}


def table() -> str:
    """Two tables: how the two methods agree, and how well each predicts the accuracy after MiR."""
    rows = read("recoverability")
    heads = ["network", "images", "steps of SGD", "Spearman, fitted images", "held-out images",
             "closed form lower, held out", "seconds, closed / SGD"]  # fmt: skip
    sgd = rows[rows.method == "sgd"].groupby(["task", "arch", "steps"])
    lines = markdown(heads, [agreement(rows, *of, part) for of, part in sgd])
    lines += ["", "Spearman's correlation with the accuracy that is missing after 200 steps of MiR:", ""]
    heads = ["network", "accuracy after MiR, worst to best block", "merely dropped", "closed form",
             "150 steps of SGD"]  # fmt: skip
    mir = rows[rows.method == "mir"].groupby(["task", "arch"])
    return "\n".join(lines + markdown(heads, [prediction(rows, *of, part) for of, part in mir]))


def agreement(rows: pd.DataFrame, task: str, arch: str, steps: int, sgd: pd.DataFrame) -> list:
    """The cells of one network and number of steps, over the seeds."""
    found = []
    for seed, theirs in sgd.groupby("seed"):
        both = ranking(rows, task, arch, seed, "closed").merge(theirs, on="block", suffixes=("", "_sgd"))
        found.append({
            "fitted": spearman(both.recoverability, both.recoverability_sgd),
            "held out": spearman(both.held_out_recoverability, both.held_out_recoverability_sgd),
            "lower": (both.held_out_recoverability < both.held_out_recoverability_sgd).sum(),
            "closed": both.seconds.sum(), "sgd": both.seconds_sgd.sum(), "blocks": len(both),
        })  # fmt: skip
    found = pd.DataFrame(found)
    lower = f"{over_seeds(found.lower, int(len(found) > 1))} of {found.blocks.iloc[-1]}"
    seconds = f"{found.closed.mean():.1f} / {found.sgd.mean():.0f}"
    ranks = [over_seeds(found[images], 2) for images in ("fitted", "held out")]
    return [f"{arch}, {task}", SAMPLES, steps, *ranks, lower, seconds]


def prediction(rows: pd.DataFrame, task: str, arch: str, mir: pd.DataFrame) -> list:
    """The cells of one network: how well three losses predict the accuracy after MiR, over the seeds."""
    found = {"dropped": [], "closed": [], "sgd": []}
    for seed, after in mir.groupby("seed"):
        lost = -after.set_index("block").accuracy
        closed, sgd = (ranking(rows, task, arch, seed, how).set_index("block") for how in ("closed", "sgd"))
        losses = {"dropped": closed.dropped_mse, "closed": closed.held_out_recoverability,
                  "sgd": sgd.held_out_recoverability}  # fmt: skip
        for how, loss in losses.items():
            if len(loss):
                found[how].append(spearman(loss, lost))
    ends = 100 * mir.groupby("block").accuracy.mean()
    correlations = [over_seeds(pd.Series(values, dtype=float), 2) for values in found.values()]
    return [f"{arch}, {task}", f"{ends.min():.1f} to {ends.max():.1f} %", *correlations]


def spearman(one: pd.Series, other: pd.Series) -> float:
    return one.rank().corr(other.rank())


def ranking(rows: pd.DataFrame, task: str, arch: str, seed: int, method: str) -> pd.DataFrame:
    """The rows of one ranking; for SGD the one with 150 steps."""
    alike = (rows.task == task) & (rows.arch == arch) & (rows.seed == seed) & (rows.method == method)
    return rows[alike & rows.steps.isin([0, 150])]


def over_seeds(values: pd.Series, digits: int) -> str:
    """The mean and, of several seeds, the lowest and the highest value."""
    if len(values) == 1:
        return f"{values.item():.{digits}f}"
    ends = f"{values.min():.{digits}f} to {values.max():.{digits}f}"
    return f"{values.mean():.{digits}f} ({ends}, {len(values)} draws)"


def large(images: int = 100) -> None:
    """Measure time and memory of all blocks in closed form at 224 x 224, with random weights and images."""
    for arch in ("mobilenet_v2", "resnet34", "resnet50"):
        teacher = getattr(torchvision.models, arch)(weights=None).eval()
        begin = time.perf_counter()
        found = fsc.recoverability(teacher, torch.randn(images, 3, 224, 224), latency=False, progress=quiet)
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        said = f"{len(found)} blocks, {images} images, {seconds:.0f} s; peak so far {peak:.1f} GB"
        print(f"{arch}: {said}", flush=True)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--large", action="store_true", help="measure at ImageNet's size; store nothing")
    asked = parser.parse_args()
    if asked.large:
        return large()
    if not asked.table:
        torch.set_num_threads(1)
        store = store_of("recoverability", __file__, COLUMNS, KEY)
        for task, arch, method, steps, seeds in GRID:
            for seed in range(seeds if task in tasks() else 0):
                rank(store, task, arch, "closed", 0, seed)
                rank(store, task, arch, method, steps, seed)
    print(table())


if __name__ == "__main__":
    main()
