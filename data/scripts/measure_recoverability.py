"""Measure how two kinds of recoverability rank blocks, beside what MiR makes of each: studies/recoverability.csv.

    python data/scripts/measure_recoverability.py            # photographs, where FSC_REAL_DATA names their folder; drawings
    python data/scripts/measure_recoverability.py --table    # rank correlation, losses, seconds, from the stored rows
    python data/scripts/measure_recoverability.py --large    # seconds and memory at ImageNet's size, printed

Every block of a network is dropped alone, and made up for twice: by least squares and by SGD as published. What these
foretell is measured too: the accuracy after 200 steps of MiR from the merely dropped network. A row a block; a ranking
is stored when it is whole, and a run that was stopped goes on with the next.
"""

import argparse
import platform
import resource
import time
from pathlib import Path

import pandas as pd
import torch
import torchvision
from measure_methods import tasks

import fsc
from fsc.inputs.tasks import Task
from fsc.runtime import quiet

STORE = Path(__file__).parents[1] / "studies" / "recoverability.csv"
COLUMNS = ["task", "arch", "method", "steps", "samples", "seed", "block", "dropped_mse", "recoverability",
           "held_out_recoverability", "accuracy", "seconds"]  # fmt: skip
SAMPLES = 500
GRID = [  # task, network, method, steps, draws
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


def read() -> pd.DataFrame:
    return pd.read_csv(STORE, comment="#") if STORE.exists() else pd.DataFrame(columns=COLUMNS)


def rank(name: str, task: Task, arch: str, method: str, steps: int, seed: int) -> None:
    """All blocks by one method, on one draw, unless they are stored."""
    head = {"task": name, "arch": arch, "method": method, "steps": steps, "samples": SAMPLES, "seed": seed}
    if not read().merge(pd.DataFrame([head])).empty:
        return
    teacher, images = fsc.load_teacher(arch, task), task.sample(SAMPLES, seed=seed).images
    if method == "mir":
        found = pd.DataFrame([after_mir(teacher, task, images, block, steps, seed)
                              for block in fsc.droppable_blocks(teacher)])  # fmt: skip
    else:
        how = {"steps": steps} if method == "sgd" else {}
        found = fsc.recoverability(teacher, images, method=method, latency=False, seed=seed, progress=quiet, **how)
    rows = found.reset_index().assign(**head).reindex(columns=COLUMNS).round(5)
    if not STORE.exists():
        where = f"torch {torch.__version__}, {platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
        STORE.write_text(f"# python data/scripts/measure_recoverability.py: fsc {fsc.__version__}, {where}\n")
        rows[:0].to_csv(STORE, mode="a", index=False)
    rows.to_csv(STORE, mode="a", index=False, header=False)


def after_mir(teacher: torch.nn.Module, task: Task, images: torch.Tensor, block: str, steps: int, seed: int):
    begin = time.perf_counter()
    student = fsc.mir(teacher, fsc.drop_blocks(teacher, [block]), images, steps=steps, seed=seed, progress=quiet)
    spent = time.perf_counter() - begin
    return {"block": block, "accuracy": fsc.accuracy(student, task.test, progress=quiet), "seconds": spent}


def table() -> str:
    """A line a network and number of steps: how the two methods agree, draw by draw; then what they foretell."""
    rows = read()
    heads = ["network", "images", "steps of SGD", "Spearman, fitted images", "held-out images",
             "closed form lower, held out", "seconds, closed / SGD"]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for (task, arch, steps), part in rows[rows.method == "sgd"].groupby(["task", "arch", "steps"]):
        ranks, held, lower, spent, blocks = [], [], [], [], 0
        for seed, theirs in part.groupby("seed"):
            both = of(rows, task, arch, seed, "closed").merge(theirs, on="block", suffixes=("", "_sgd"))
            blocks = len(both)
            ranks.append(spearman(both.recoverability, both.recoverability_sgd))
            held.append(spearman(both.held_out_recoverability, both.held_out_recoverability_sgd))
            lower.append((both.held_out_recoverability < both.held_out_recoverability_sgd).sum())
            spent.append((both.seconds.sum(), both.seconds_sgd.sum()))
        closed, by_steps = pd.DataFrame(spent).mean()
        cells = [f"{arch}, {task}", SAMPLES, steps, _spread(ranks, 2), _spread(held, 2),
                 f"{_spread(lower, int(len(lower) > 1))} of {blocks}", f"{closed:.1f} / {by_steps:.0f}"]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    heads = ["network", "accuracy after MiR, worst to best block", "merely dropped", "closed form", "150 steps of SGD"]
    lines += ["", "Spearman's correlation with the accuracy that is missing after 200 steps of MiR:", ""]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for (task, arch), part in rows[rows.method == "mir"].groupby(["task", "arch"]):
        found = {"dropped": [], "closed": [], "sgd": []}
        for seed, after in part.groupby("seed"):
            lost = -after.set_index("block").accuracy
            ranked = {how: of(rows, task, arch, seed, how).set_index("block") for how in ("closed", "sgd")}
            signs = {how: table.held_out_recoverability for how, table in ranked.items()}
            for how, sign in ({"dropped": ranked["closed"].dropped_mse} | signs).items():
                if len(sign):
                    found[how].append(spearman(sign, lost))
        ends = 100 * part.groupby("block").accuracy.mean()
        cells = [f"{arch}, {task}", f"{ends.min():.1f} to {ends.max():.1f} %", *(_spread(v, 2) for v in found.values())]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spearman(one: pd.Series, other: pd.Series) -> float:
    return one.rank().corr(other.rank())


def of(rows: pd.DataFrame, task: str, arch: str, seed: int, method: str) -> pd.DataFrame:
    """One ranking; of SGD the one with 150 steps."""
    alike = (rows.task == task) & (rows.arch == arch) & (rows.seed == seed) & (rows.method == method)
    return rows[alike & rows.steps.isin([0, 150])]


def large(images: int = 100) -> None:
    """All blocks in closed form, at 224 x 224. Weights are random, as are images: it is the work that is measured."""
    for arch in ("mobilenet_v2", "resnet34", "resnet50"):
        teacher = getattr(torchvision.models, arch)(weights=None).eval()
        begin = time.perf_counter()
        found = fsc.recoverability(teacher, torch.randn(images, 3, 224, 224), latency=False, progress=quiet)
        spent, peak = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{arch}: {len(found)} blocks, {images} images, {spent:.0f} s; peak so far {peak:.1f} GB", flush=True)


def _spread(values: list[float], digits: int) -> str:
    """Mean and, of several draws, the lowest and highest."""
    found = pd.Series(values, dtype=float)
    around = f" ({found.min():.{digits}f} to {found.max():.{digits}f}, {len(found)} draws)" if len(found) > 1 else ""
    return f"{found.mean():.{digits}f}{around}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print the table from the stored rows; measure nothing")
    parser.add_argument("--large", action="store_true", help="measure networks of ImageNet's size; store nothing")
    asked = parser.parse_args()
    if asked.large:
        return large()
    if not asked.table:
        torch.set_num_threads(1)
        loaded = tasks()
        for name, arch, method, steps, draws in GRID:
            for seed in range(draws if name in loaded else 0):
                rank(name, loaded[name], arch, "closed", 0, seed)
                rank(name, loaded[name], arch, method, steps, seed)
    print(table())


if __name__ == "__main__":
    main()
