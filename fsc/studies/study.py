"""A study: every method at every ratio, number of images and seed; one stored row per run; it can resume."""

import contextlib
import itertools
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from numbers import Integral, Real
from typing import Any

import joblib
import pandas as pd
import torch
from torch import nn

from fsc.arguments import checked_ratio
from fsc.inputs.tasks import Task
from fsc.measure.latency import latency
from fsc.runtime import Progress, device_of, public, quiet, track, warn
from fsc.studies.csv_store import Key, Store
from fsc.studies.methods import Own, methods_of
from fsc.studies.runs import Bench, Run, do, new_bench, prepare
from fsc.studies.workers import in_processes

KEY = ("task", "arch", "method", "samples", "ratio", "seed", "steps", "teacher", "data", "function")
COLUMNS = (
    "task", "arch", "method", "samples", "ratio", "seed",                        # what was asked
    "accuracy", "agreement", "params", "macs", "reached", "family", "setting",   # what was found
    "latency_ms", "latency_ratio", "latency_low", "latency_high", "seconds", "steps", "error",
    "fsc", "torch", "device", "teacher", "data", "function", "structure",        # where it comes from
)  # fmt: skip
LATENCY = [name for name in COLUMNS if name.startswith("latency")]


@public
def study(
    task: Task,
    teacher: nn.Module,
    *,
    methods: str | Own | Mapping[str, Own] | Sequence,
    samples: Sequence[int],
    ratios: Sequence[float],
    seeds: Sequence[int],
    store: str | os.PathLike,
    steps: int = 2000,
    arch: str | None = None,
    jobs: int | None = None,
    latency_rounds: int = 30,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Run every method at every ratio, with every number of images and every seed; store one row per run.

    A row is stored as soon as its run is done. The same call resumes a study that was ended: no stored run is
    done again. A second process may run the same study on the same store; the two divide the work.
    `pandas.read_csv(store, comment="#")` reads the store.

    The ratio is the share of the MACs to remove, for every method alike. Each method starts from the student
    of its family whose MACs come closest: "filters" prunes the same share of filters from every layer,
    "blocks" drops a number of blocks. The columns setting and reached say which share or number that was, and
    which share of the MACs it removed.

    Args:
        task: with labelled test images. `task.sample` takes the few images from its training images.
        teacher: any network for this task.
        methods: names, and functions of your own.
            The names are "bn" (the control: BatchNorm re-estimated, nothing fitted), "finetune", "kd",
            "fskd", "fskd-published", "fskd-sgd", "mir", "fskd+mir", "practise", and "practise-closed"
            (PRACTISE without MiR). The teacher, and at each ratio "none" (the student as it was pruned), are
            always added. A function takes (teacher, images (N, C, H, W) on the CPU, ratio) and returns a
            student. Pass it as it is, or with a name: {"mine": function}. `prune_macs` of
            fsc.compress.macs_budget prunes it a student as the others get theirs.
        samples: numbers of few images.
        ratios: inside (0, 1).
        seeds: choose the few images, and the random numbers of the methods.
        store: a CSV file, which need not exist; its folder must.
        steps: of gradient descent, for all methods that use it.
        arch: the network's name in the rows; None: its class.
        jobs: runs at a time, each in its own process with one CPU thread; -1: one per core. None: one run at
            a time in this process, with torch's own threads; or what `joblib.parallel_config` says. With its
            backend="dask" the runs go to the workers of that cluster, which should have one thread each.
        latency_rounds: `rounds` of `fsc.latency`.
        progress: called with (runs done, total), for runs in this process at each of their steps too.

    Returns:
        One row per run, in the order asked. What was asked: task, arch, method, samples, ratio, seed; empty
        where it does not apply. What was found: accuracy, agreement with the teacher, params, macs, reached,
        family, setting, latency_ms, latency_ratio (to the teacher's; latency_low to latency_high is its 95 %
        interval), seconds (of the method alone), steps, error. Where it comes from: versions, device, and
        short SHA-256 of the teacher, of the task's labels, of the code of your function, and of the student's
        structure.

    Latency is measured last, in this process and with one CPU thread. Each distinct structure is timed once,
    interleaved with the teacher, and all its rows get the result. If the study is ended before that, the next
    call does it. The time that dropping each block saves is measured once per call, before the runs begin.

    If a method fails, its row stores the error, the study goes on, and a warning at the end counts the
    failures. A method also fails if it returns no network, returns the teacher unchanged, or changes the
    teacher. To retry failed runs, delete their lines from the store. Your own function is recognised by its
    name and its code: after an edit its runs are done again. Ctrl-C keeps what is done and returns it.

    Raises:
        TypeError: no task or no network; a number in place of a list.
        ValueError: nothing to do; an unknown method; a ratio outside (0, 1); more images than there are; a
            task without test labels; a store of another version, with other columns, or damaged.
        FileNotFoundError: the store's folder does not exist.

    >>> table = fsc.study(task, teacher, methods=["fskd", "mir"], samples=[50, 500], ratios=[0.5],
    ...                   seeds=range(5), store="study.csv", steps=200, jobs=2)
    >>> fsc.plots.accuracy_by_samples(table[table.error.isna()], ratio=0.5, removed="MACs")
    """
    if not isinstance(task, Task) or not isinstance(teacher, nn.Module):
        found = f"a {type(task).__name__} and a {type(teacher).__name__}"
        raise TypeError(f"asked for a task and its teacher, got {found}.\n  Write study(task, teacher, ...).")
    known = methods_of(methods)
    runs = _grid(task, known, samples, ratios, seeds)
    bench = new_bench(task, teacher, known, steps=steps, arch=arch or type(teacher).__name__)
    kept = Store(store, COLUMNS, KEY)
    kept.mend()
    sweep = _Sweep(bench, kept, {run: kept.key_of(bench.head(run)) for run in runs}, progress)
    try:
        sweep.do_missing(jobs)
        sweep.time_missing(latency_rounds)
    except KeyboardInterrupt:
        done = len(kept.frame(sweep.keys.values()))
        warn(f"stopped with {done} of {len(runs)} runs done; call it again to go on.")
    rows = kept.frame(sweep.keys.values())
    _warn_of_failures(rows)
    _warn_of_other_versions(rows)
    return rows


def _grid(task: Task, methods: Iterable[str], samples: Any, ratios: Any, seeds: Any) -> list[Run]:
    """Every run, in the order of the arguments; what is named twice is done once."""
    asked = {"methods": list(methods), "samples": samples, "ratios": ratios, "seeds": seeds}
    for name, values in asked.items():
        if isinstance(values, Real | str):
            raise TypeError(f"{name}={values!r}; asked for a list.\n  Write {name}=[{values!r}].")
        asked[name] = list(dict.fromkeys(values))
        if not asked[name]:
            raise ValueError(f"nothing to do: {name} is empty.\n  Name at least one.")
    methods, samples, ratios, seeds = asked.values()
    if task.test.labels is None:
        raise ValueError("the task's test images have no labels: no accuracy.\n  Use labelled ones.")
    for count in samples:
        task.sample(count)  # refuses a number of images that it cannot sample; decodes none of them
    for ratio in ratios:
        checked_ratio(ratio, "MACs")
    for seed in seeds:
        if not isinstance(seed, Integral):
            raise TypeError(f"seed {seed!r}; asked for whole numbers.\n  Write seeds=range(5).")
    unfitted = [Run("teacher"), *(Run("none", ratio) for ratio in ratios)]
    fitted = [method for method in methods if method not in ("teacher", "none")]
    return unfitted + [Run(*setting) for setting in itertools.product(fitted, ratios, samples, seeds)]


@dataclass
class _Sweep:
    """The runs of one call, with the keys of their rows.

    `nets` holds one network per structure whose latency is not known yet. `alone` is False once another
    process has done one of the runs.
    """

    bench: Bench
    store: Store
    keys: dict[Run, Key]
    progress: Progress | None
    nets: dict[str, nn.Module] = field(default_factory=dict)
    alone: bool = True

    def do_missing(self, jobs: int | None) -> None:
        """Do the runs that are not stored, and store them."""
        stored = self.store.rows()
        missing = [run for run, key in self.keys.items() if key not in stored]
        if not missing:
            return
        # All runs of the first seed come first: a study that is ended early has all methods on fewer seeds.
        seeds = list(dict.fromkeys(run.seed for run in missing))
        missing.sort(key=lambda run: seeds.index(run.seed))
        self.bench = prepare(self.bench, missing)
        runs = self._still_missing(missing)
        if joblib.effective_n_jobs(jobs) > 1:
            results = in_processes(self.bench, runs, jobs, known=lambda: set(self.nets))
        else:
            numbered = enumerate(runs)
            results = (self._do(run, i, len(missing)) if run else (None, None) for i, run in numbered)
        with contextlib.closing(results):
            for _ in track(len(missing), self.progress):
                row, net = next(results)
                if row is not None:
                    self.alone &= self.store.add(row)
                if net is not None:
                    self.nets.setdefault(row["structure"], net)

    def _still_missing(self, runs: list[Run]) -> Iterator[Run | None]:
        """Each run when its turn comes; None for one that another process has done meanwhile.

        From then on the rest comes in random order, so that two processes seldom take the same run.
        """
        left, order = list(runs), random.Random()
        while left:
            run = left.pop(0 if self.alone else order.randrange(len(left)))
            done = self.keys[run] in self.store.rows()
            self.alone &= not done
            yield None if done else run

    def _do(self, run: Run, done: int, total: int) -> tuple[dict[str, Any], nn.Module | None]:
        """Do one run; at each of its steps, report how many runs are done."""
        report = self.progress or quiet
        return do(self.bench, run, progress=lambda *_: report(done, total))

    def time_missing(self, rounds: int) -> None:
        """Time each structure that has no latency yet, and write it into all rows of that structure."""
        teacher, stored = self.bench.identity["teacher"], self.store.rows()
        timed = [row for row in stored.values() if row["teacher"] == teacher and row["latency_ms"]]
        known = {row["structure"]: {name: row[name] for name in LATENCY} for row in timed}
        untimed: dict[str, Run] = {}
        for run, key in self.keys.items():
            if key in stored and _lacks_latency(stored[key]):
                untimed.setdefault(stored[key]["structure"], run)
        if unknown := {s: run for s, run in untimed.items() if s not in known}:
            known |= self._timed(unknown, rounds)

        def latency_of(row: Mapping[str, str]) -> Mapping[str, Any]:
            mine = row["teacher"] == teacher and _lacks_latency(row)
            return known.get(row["structure"], {}) if mine else {}

        if untimed:
            self.store.change(latency_of)

    def _timed(self, runs: Mapping[str, Run], rounds: int) -> dict[str, dict[str, float]]:
        """The columns of latency by structure; `runs` names for each structure a run that makes it."""
        nets = {"teacher": self.bench.teacher}
        for structure, run in runs.items():
            net = None if run.method == "teacher" else self._net_of(structure, run)
            if net is not None:
                nets[structure] = net.to(device_of(self.bench.teacher))
        total = len(self.keys)
        report = self.progress and (lambda *_: self.progress(total, total))
        table = latency(nets, self.bench.task.example, rounds=rounds, threads=1, progress=report)
        table = table[["median_ms", "ratio", "low", "high"]].set_axis(LATENCY, axis=1)
        found = {name: {k: float(f"{v:.4g}") for k, v in row.items()} for name, row in table.iterrows()}
        return found | {s: found["teacher"] for s, run in runs.items() if run.method == "teacher"}

    def _net_of(self, structure: str, run: Run) -> nn.Module | None:
        """A network of this structure, kept from its run; after a kill, the same run makes it again."""
        if structure in self.nets:
            return self.nets[structure]
        self.bench = prepare(self.bench, [run])
        row, net = self._do(run, len(self.keys), len(self.keys))
        return net if row.get("structure") == structure else None


def _lacks_latency(row: Mapping[str, str]) -> bool:
    return not row["latency_ms"] and not row["error"]


def _warn_of_failures(rows: pd.DataFrame) -> None:
    failed = rows[rows.error.notna()]
    if len(failed):
        names = ", ".join(failed.method.unique())
        why = f"their column error says why. The first: {failed.error.iloc[0]}"
        warn(f"{len(failed)} of {len(rows)} runs failed ({names}); {why}")


def _warn_of_other_versions(rows: pd.DataFrame) -> None:
    now = (version("fsc"), torch.__version__)
    others = sorted(set(zip(rows.fsc, rows.torch, strict=True)) - {now})
    if others:
        said = " and ".join(f"fsc {fsc}, torch {its}" for fsc, its in others)
        warn(f"some of these rows were stored with {said}; this is fsc {now[0]}, torch {now[1]}.\n"
             f"  To measure all with the same versions, name another store.")  # fmt: skip
