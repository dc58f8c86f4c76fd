"""The numbers that the project set itself, measured here and now: `make bench`.

One more is one more function: give it @bench, and let it return its runs.
"""

import copy
import functools
import itertools
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import torchvision

import fsc
from fsc.inputs.nets import NETS
from fsc.runtime import quiet

SEED = 0


class Bench(NamedTuple):
    what: str
    limit: float
    unit: str
    runs: Callable[[], list[float]]


BENCHES: list[Bench] = []


def bench(what: str, limit: float, unit: str):
    """Enter a function in the table. It returns runs in `unit`; their median should be at most `limit`."""

    def enter(runs: Callable[[], list[float]]):
        BENCHES.append(Bench(what, limit, unit, runs))
        return runs

    return enter


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def print_of(program: str) -> float:
    """The number that a program prints, in a process of its own."""
    here = Path(__file__).parents[2]
    command = [sys.executable, "-c", program]
    return float(subprocess.run(command, cwd=here, capture_output=True, check=True).stdout)


@bench("import fsc, beyond torch", 0.5, "s")
def import_beyond_torch():
    program = "import torch, time; begin = time.time(); import fsc; print(time.time() - begin)"
    return [print_of(program) for _ in range(7)]


@bench("prune ResNet-50 by half", 2.0, "s")
def prune_resnet50():
    teacher = torchvision.models.resnet50(weights=None).eval()
    return [seconds(lambda: fsc.prune_filters(teacher, 0.5)) for _ in range(5)]


@bench("fine-tuning step of ResNet-20, against a bare loop", 1.1, "x")
def finetune_step():
    """Compare with forward, backward and SGD step on one prepared batch, in the same memory format."""
    net, images, labels = NETS["resnet20"](10), torch.randn(256, 3, 32, 32), torch.randint(10, (256,))
    batch, wanted = images[:64].contiguous(memory_format=torch.channels_last), labels[:64]

    def bare(steps):
        model = copy.deepcopy(net).train().to(memory_format=torch.channels_last)
        sgd = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
        for _ in range(steps):
            sgd.zero_grad()
            F.cross_entropy(model(batch), wanted).backward()
            sgd.step()

    def ours(steps):
        fsc.finetune(net, net, images, labels, steps=steps, progress=quiet)

    bare(3), ours(3)
    return [seconds(lambda: ours(12)) / seconds(lambda: bare(12)) for _ in range(9)]


@bench("MiR step of ResNet-20, against a bare loop", 1.1, "x")
def mir_step():
    """Compare with teacher forward, student forward, backward and SGD step on one prepared batch."""
    teacher, images = NETS["resnet20"](10).eval(), torch.randn(256, 3, 32, 32)
    student = fsc.prune_filters(teacher, 0.5)
    batch = images[:64].contiguous(memory_format=torch.channels_last)

    def bare(steps):
        model = copy.deepcopy(student).train().to(memory_format=torch.channels_last)
        source = copy.deepcopy(teacher).to(memory_format=torch.channels_last)
        model.pool = model.linear = source.pool = source.linear = torch.nn.Identity()
        sgd = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
        for _ in range(steps):
            sgd.zero_grad()
            with torch.no_grad():
                wanted = source(batch)
            F.mse_loss(model(batch), wanted).backward()
            sgd.step()

    def ours(steps):
        fsc.mir(teacher, student, images, steps=steps, progress=quiet)

    bare(3), ours(3)
    return [seconds(lambda: ours(30)) / seconds(lambda: bare(30)) for _ in range(7)]


@bench("FSKD of ResNet-20, 500 images, against one forward pass", 4.0, "x")
def fskd_time():
    """Compare with one forward pass of teacher and student over the same images, in equally large batches."""
    teacher, images = NETS["resnet20"](10).eval(), torch.randn(500, 3, 32, 32)
    student = fsc.prune_filters(teacher, 0.5)

    def forward():
        with torch.no_grad():
            for batch in images.split(50):
                teacher(batch), student(batch)

    def sweep():
        fsc.fskd(teacher, student, images, progress=quiet)

    forward(), sweep()
    return [seconds(sweep) / seconds(forward) for _ in range(7)]


@bench("FSKD of ResNet-20, 5,000 images, memory of all", 2.0, "GB")
def fskd_memory():
    """Measure the peak of a process that holds torch, the images and the fit."""
    return [print_of(
        "import resource, torch, fsc; from fsc.inputs.nets import NETS; t = NETS['resnet20'](10).eval();"
        "fsc.fskd(t, fsc.prune_filters(t, 0.5), torch.randn(5000, 3, 32, 32), progress=lambda *_: None);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)"
    )]


@bench("recoverability of a block, closed, in SGD steps", 10, "steps")
def recoverability_time():
    """Count the steps of the published adaptors that take as long; the paper takes 1,000 per block."""
    teacher, images = NETS["resnet20"](10).eval(), torch.randn(500, 3, 32, 32)
    judge = functools.partial(fsc.recoverability, teacher, images, latency=False, progress=quiet)
    names = fsc.droppable_blocks(teacher)

    def trained(steps):
        return seconds(lambda: judge(method="sgd", blocks=names[3:4], steps=steps))

    def steps_worth():
        step = (trained(22) - trained(2)) / 20
        return seconds(judge) / len(names) / step

    steps_worth()
    return [steps_worth() for _ in range(3)]


@bench("a knob of a panel, first visit", 200, "ms")
def knob():
    """Visit every setting of a panel over the stored study for the first time: look up, draw, encode."""
    table = pd.read_csv(fsc.data_dir() / "studies" / "methods.csv", comment="#").query("task == 'shapes'")
    repaired = table[table.samples.notna()]
    knobs = {"samples": sorted(repaired.samples.unique()), "ratio": sorted(repaired.ratio.unique())}
    draw = functools.partial(draw_curves, table)
    panel = fsc.widgets.Panel(knobs, look_up=dict, draw=draw, seeds=sorted(repaired.seed.unique()))
    settings = [dict(zip(("samples", "ratio", "seed"), values, strict=True))
                for values in itertools.product(*knobs.values(), (None, *panel.seeds))]
    return [1000 * seconds(functools.partial(panel.set, **setting)) for setting in settings[1:]]


def draw_curves(table, state):
    return fsc.plots.accuracy_by_samples(table, **state)


def row(entry: Bench) -> tuple[str, str, str, str]:
    reach = f"at most {entry.limit:g} {entry.unit}"
    torch.manual_seed(SEED)
    try:
        runs = entry.runs()
    except Exception as err:  # one broken number must not hide the others
        return entry.what, reach, "-", f"failed: {type(err).__name__}: {str(err).splitlines()[0]}"
    q1, median, q3 = np.percentile(runs, [25, 50, 75])
    measured = f"{median:.3g} {entry.unit} +- {(q3 - q1) / 2:.2g} (n={len(runs)})"
    verdict = "reached" if median <= entry.limit else f"missed: {median / entry.limit:.2f} times that"
    return entry.what, reach, measured, verdict


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> int:
    line = "{:<52}{:<18}{:<32}{}".format
    print(line("what", "reach", "measured", "verdict"))
    rows = []
    for entry in BENCHES:
        rows.append(row(entry))
        print(line(*rows[-1]), flush=True)
    where = f"{processor()}, {torch.get_num_threads()} CPU threads"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"\nMedian of n runs +- half their interquartile range; seed {SEED}; {where}; {versions}.")
    return int(any(verdict.startswith("failed") for *_, verdict in rows))


if __name__ == "__main__":
    sys.exit(main())
