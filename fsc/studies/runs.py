"""One run of a study: make a student, check it, measure it; the row of a method that fails has its error."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from fsc.compress.blocks import droppable_blocks
from fsc.compress.macs_budget import blocks_to_drop, filters_to_prune, prune
from fsc.inputs.tasks import Task
from fsc.measure.latency import structure_of
from fsc.measure.quality import cost, predictions
from fsc.recover.recoverability import latency_saved
from fsc.runtime import Progress, device_of, digest_of, fingerprint, frozen_copy, quiet, same_requires_grad
from fsc.studies.isolation import isolated
from fsc.studies.methods import METHODS, Method
from fsc.studies.provenance import code_of, provenance


class Run(NamedTuple):
    """One run. The teacher has no ratio; the teacher and "none" have no images, and no seed for them."""

    method: str
    ratio: float | None = None
    samples: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Bench:
    """The things that all runs of a study share. `prepare` fills the last four fields.

    Fields:
        identity: the cells that all rows have in common: task, arch, teacher, data.
        predictions: (N,) the teacher's class for each test image.
        macs: of the teacher.
        settings: by family and ratio, the share of filters or number of blocks to remove, or an error.
        timed: the time that dropping each block saves.
    """

    task: Task
    teacher: nn.Module
    methods: Mapping[str, Method]
    steps: int
    identity: Mapping[str, str]
    predictions: Tensor | None = None
    macs: int = 0
    settings: Mapping[tuple[str, float | None], float | str] = field(default_factory=dict)
    timed: pd.DataFrame | None = None

    def head(self, run: Run) -> dict[str, Any]:
        """The cells that tell the run's row from all others."""
        method = self.methods[run.method]
        steps = self.steps if method.descends else None
        return {**self.identity, **run._asdict(), "steps": steps, "function": code_of(method.function)}


def new_bench(
    task: Task, teacher: nn.Module, methods: Mapping[str, Method], *, steps: int, arch: str
) -> Bench:
    """A bench that knows the key of each run's row; `prepare` it before the first run."""
    labels = [None if split.labels is None else split.labels.tolist() for split in (task.train, task.test)]
    data = digest_of(task.classes, task.size, task.mean, task.std, len(task.train), labels)
    identity = {"task": task.name, "arch": arch, "teacher": _short(fingerprint(teacher)), "data": data}
    unfitted = {name: METHODS[name] for name in ("teacher", "none")}
    return Bench(task, teacher, unfitted | dict(methods), steps, identity)


def prepare(bench: Bench, runs: Iterable[Run]) -> Bench:
    """The bench with what these runs need: the teacher's predictions and MACs, settings, times of the blocks.

    Blocks are timed here, once for all runs, because a time taken while runs compete for the machine means
    nothing.
    """
    example, settings = bench.task.example, dict(bench.settings)
    search = {"filters": filters_to_prune, "blocks": blocks_to_drop}
    for run in runs:
        family = bench.methods[run.method].family
        if family in search and (family, run.ratio) not in settings:
            try:
                settings[family, run.ratio] = search[family](bench.teacher, run.ratio, example)
            except Exception as err:  # the rows of the runs that need this setting store the error
                settings[family, run.ratio] = f"{type(err).__name__}: {err}"
    bench = replace(bench, settings=settings)
    counts = [setting for (family, _), setting in settings.items() if family == "blocks"]
    if bench.timed is None and any(isinstance(count, int) for count in counts):
        teacher = frozen_copy(bench.teacher)
        names = droppable_blocks(teacher, example=example)
        bench = replace(bench, timed=latency_saved(teacher, names, example, threads=1, progress=quiet))
    if bench.predictions is None:
        found = predictions(bench.teacher, bench.task.test)
        bench = replace(bench, predictions=found, macs=cost(bench.teacher, example).macs)
    return bench


def do(
    bench: Bench, run: Run, *, threads: int | None = None, progress: Progress
) -> tuple[dict[str, Any], nn.Module | None]:
    """The run's row and its student; None in place of the student if the run failed.

    Torch is seeded with the run's seed meanwhile, and warnings are not shown. Ctrl-C raises an error even if
    the method then returned the student that it had, as `mir` does.

    Args:
        bench: a prepared one.
        threads: of the CPU; None keeps torch's own number.
        progress: called with (done, total) by methods that have steps; its errors end the run and come out.
    """
    device, family = device_of(bench.teacher), bench.methods[run.method].family
    setting = bench.settings.get((family, run.ratio))
    with isolated(run.seed or 0, threads, device, progress) as progress:
        row = bench.head(run) | provenance(device) | {"family": family}
        if isinstance(setting, str):
            return row | {"error": setting}, None
        row["setting"] = setting
        try:
            student, seconds = _make(bench, run, setting, progress)
            return row | {"seconds": seconds} | _measured(bench, student), student
        except Exception as err:
            return row | {"error": f"{type(err).__name__}: {err}"}, None


def _make(bench: Bench, run: Run, setting: float | None, progress: Progress) -> tuple[nn.Module, float]:
    """The student, and the seconds of the method alone: sampling the images and pruning come before it."""
    method = bench.methods[run.method]
    teacher = frozen_copy(bench.teacher)  # a copy: whatever a method does to it harms no other run
    same_requires_grad(teacher, bench.teacher)
    few = None
    if run.samples is not None:
        few = bench.task.sample(run.samples, seed=run.seed)
        _ = few.images  # decodes them
    if method.family == "filters":
        start = prune(teacher, setting, bench.task.example)
    else:
        start = {"teacher": teacher, "own": run.ratio, "blocks": (setting, bench.timed)}[method.family]
    begin = time.perf_counter()
    student = method.make(teacher, start, few, steps=bench.steps, seed=run.seed, progress=progress)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = round(time.perf_counter() - begin, 2)
    if method.family != "teacher":
        _check_student(student, teacher, bench.identity["teacher"])
    return student, seconds


def _check_student(student: Any, teacher: nn.Module, was: str) -> None:
    if not isinstance(student, nn.Module):
        raise TypeError(f"the method returned a {type(student).__name__}; asked for a network, an nn.Module.")
    if _short(fingerprint(teacher)) != was:
        raise ValueError("the method changed the teacher; asked for a student beside it: begin with a copy.")
    if _short(fingerprint(student)) == was:
        raise ValueError("the method returned the teacher unchanged; asked for a student of fewer MACs.")


def _measured(bench: Bench, student: nn.Module) -> dict[str, Any]:
    found, labels = predictions(student, bench.task.test), bench.task.test.labels.cpu()            # (N,) each
    params, macs = cost(student, bench.task.example)
    return {
        "accuracy": int((found == labels).sum()) / len(labels),
        "agreement": int((found == bench.predictions).sum()) / len(labels),
        "params": params,
        "macs": macs,
        "reached": round(1 - macs / bench.macs, 4),
        "structure": structure_of(student),
    }


def _short(sha256: str) -> str:
    return f"sha256:{sha256[:12]}"
