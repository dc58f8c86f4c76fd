"""A sweep as data: every method at every ratio, number of images and draw, a stored row a run, to be taken up again."""

import contextlib
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

from fsc.inputs.tasks import Task
from fsc.measure.latency import latency
from fsc.runtime import Progress, device_of, public, track, warn
from fsc.studies.csv_store import Key, Store
from fsc.studies.methods import Own, methods_of
from fsc.studies.runs import Bench, Run, do, new_bench, prepare
from fsc.studies.workers import Result, spread

KEY = ("task", "arch", "method", "samples", "ratio", "seed", "steps", "teacher", "data", "function")
COLUMNS = (
    "task", "arch", "method", "samples", "ratio", "seed",                        # what was asked
    "accuracy", "agreement", "params", "macs", "reached", "family", "setting",   # what came of it
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
    """Run every method at every ratio, with every number of images, on every draw; a row a run, stored as it is done.

    A call with the same arguments takes up where the last one ended, however it ended: what is stored is not done
    again. A second process may do the same study on the same store: they divide the work.
    `pandas.read_csv(store, comment="#")` reads it.

    The ratio is the share of the MACs that goes, for every method alike: each starts from the student of its family
    that comes closest ("filters": as many as it takes from every layer; "blocks": a number of blocks); columns setting
    and reached say what it was and what it came to.

    Args:
        task: with labelled test images; the few images are drawn from its training images by `task.sample`.
        teacher: any network for it.
        methods: names: "bn" (BatchNorm re-estimated and nothing fitted: the control), "finetune", "kd", "fskd",
            "fskd-published", "fskd-sgd", "mir", "fskd+mir", "practise", and "practise-closed", which leaves MiR out;
            and functions of your own (teacher, images (N, C, H, W) on the CPU, ratio) -> student, as they are or by
            name, {"mine": function}; `fsc.targets.prune_macs` prunes as the others' students are pruned. The teacher
            and "none", the pruned student, are always there, once and once a ratio.
        samples: numbers of few images.
        ratios: inside (0, 1).
        seeds: of the draws, and of what else the methods draw.
        store: a CSV file, which need not exist; its folder must.
        steps: of gradient descent, for all methods that have it.
        arch: what to call the network in the rows; None: by its class.
        jobs: runs at a time, in processes of their own with one CPU thread each; -1: as many as there are cores. None:
            one, here, with torch's own threads; or what `joblib.parallel_config` says: with backend="dask" the runs go
            to the workers of that cluster, which should have one thread each.
        latency_rounds: as in `latency`.
        progress: called with (runs done, in all); where they are done here, also at each step in a run, so that what it
            raises ends the study at once.

    Returns:
        A row a run, in the order asked: what was asked (task, arch, method, samples, ratio, seed; empty where it does
        not apply), accuracy, agreement with the teacher, params, macs, reached (share of the MACs that went), family,
        setting, latency_ms, latency_ratio (to the teacher; latency_low .. latency_high: 95 %), seconds (of the method
        alone), steps, error, and where it comes from: versions, device, and short SHA-256 of teacher, task's labels,
        code of your function, structure of the student.

    While runs compete for the machine no time means anything. So latency is measured last, here, with one CPU thread:
    once for each distinct structure, all of them interleaved with the teacher; all rows of that structure get it. If a
    study is ended before that, its next call makes up for it. What dropping each block saves, by which "practise"
    chooses, is timed once in a call, before its runs begin.

    What a method raises is its row's error, and the sweep goes on; a warning at the end counts them. So are a method
    that returns no network, one that returns the teacher unchanged, and one that changes the teacher. Failed runs are
    not tried again: delete their lines from the store if they shall be. Your own function is known by its name and its
    code: edit it and its runs are done again. Ctrl-C keeps what is done and returns it.

    Raises:
        TypeError: no task or no network; a number in the place of a list.
        ValueError: nothing to do; an unknown method (the nearest is offered); a ratio outside (0, 1); more images than
            there are; a task without test labels; a store of another version, with other columns, or damaged.
        FileNotFoundError: the store's folder does not exist.

    >>> table = fsc.study(task, teacher, methods=["fskd", "mir"], samples=[50, 500], ratios=[0.5], seeds=range(5),
    ...                   store="study.csv", steps=200, jobs=2)
    >>> fsc.plots.accuracy_by_samples(table[table.error.isna()], ratio=0.5, removed="MACs")
    """
    if not isinstance(task, Task) or not isinstance(teacher, nn.Module):
        found = f"a {type(task).__name__} and a {type(teacher).__name__}"
        raise TypeError(f"study: asked for a task and its teacher, got {found}.\n  Write study(task, teacher, ...).")
    known = methods_of(methods)
    runs = _grid(task, known, samples, ratios, seeds)
    bench = new_bench(task, teacher, known, steps=steps, arch=arch or type(teacher).__name__)
    kept = Store(store, COLUMNS, KEY, who="study")
    kept.mend()
    sweep = _Sweep(bench, kept, {run: kept.key_of(bench.head(run)) for run in runs})
    try:
        sweep.run(jobs, progress)
        sweep.time(latency_rounds, progress)
    except KeyboardInterrupt:
        done = len(kept.frame(sweep.keys.values()))
        warn(f"study: stopped with {done} of {len(runs)} runs done; call it again to go on.")
    rows = kept.frame(sweep.keys.values())
    _tell(rows)
    return rows


def _grid(task: Task, methods: Iterable[str], samples: Any, ratios: Any, seeds: Any) -> list[Run]:
    """Every run, in the order of its arguments; what is named twice is done once."""
    asked = {"methods": list(methods), "samples": samples, "ratios": ratios, "seeds": seeds}
    for name, values in asked.items():
        if isinstance(values, Real | str):
            raise TypeError(f"study: {name}={values!r}; asked for a list.\n  Write {name}=[{values!r}].")
        asked[name] = list(dict.fromkeys(values))
        if not asked[name]:
            raise ValueError(f"study: nothing to do: {name} is empty.\n  Name at least one.")
    if task.test.labels is None:
        raise ValueError("study: the task's test images have no labels, so there is no accuracy.\n  Use labelled ones.")
    for n in asked["samples"]:
        task.sample(n)  # refuses what it cannot draw; decodes nothing
    for ratio in asked["ratios"]:
        if not isinstance(ratio, Real) or not 0 < ratio < 1:
            raise ValueError(
                f"study: ratio {ratio!r} is not inside (0, 1).\n  It is the share of the MACs to remove: 0.5 is half."
            )
    for seed in asked["seeds"]:
        if not isinstance(seed, Integral):
            raise TypeError(f"study: seed {seed!r}; asked for whole numbers.\n  Write seeds=range(5).")
    fitting = [method for method in asked["methods"] if method not in ("teacher", "none")]
    ratios = [float(ratio) for ratio in asked["ratios"]]
    draws = [(int(n), int(seed)) for n in asked["samples"] for seed in asked["seeds"]]
    alone = [Run("teacher"), *(Run("none", ratio) for ratio in ratios)]
    return [*alone, *(Run(method, ratio, *draw) for method in fitting for ratio in ratios for draw in draws)]


@dataclass
class _Sweep:
    """What is to be done, what is stored, and a network of each structure whose latency is not yet known."""

    bench: Bench
    store: Store
    keys: dict[Run, Key]
    nets: dict[str, nn.Module] = field(default_factory=dict)
    alone: bool = True

    def run(self, jobs: int | None, progress: Progress | None) -> None:
        """Do the runs that are not stored, and store them."""
        stored = self.store.rows()
        todo = _draw_by_draw([run for run, key in self.keys.items() if key not in stored])
        if not todo:
            return
        self.bench = prepare(self.bench, todo)
        results = self._here(todo, progress)
        if joblib.effective_n_jobs(jobs) > 1:
            results = spread(self.bench, self._left(todo), jobs, known=lambda: set(self.nets))
        with contextlib.closing(results):
            for _ in track(len(todo), progress):
                row, net = next(results)
                if row is not None:
                    self.alone &= self.store.add(row)
                if net is not None:
                    self.nets.setdefault(row["structure"], net)

    def _left(self, todo: list[Run]) -> Iterator[Run | None]:
        """The runs, each when its turn comes; None for one that another process has done meanwhile.

        Once that has happened, the rest comes in random order: so two processes divide the work.
        """
        left, order = list(todo), random.Random()
        while left:
            run = left.pop(0 if self.alone else order.randrange(len(left)))
            there = self.keys[run] in self.store.rows()
            self.alone &= not there
            yield None if there else run

    def _here(self, todo: list[Run], progress: Progress | None) -> Iterator[Result]:
        for done, run in enumerate(self._left(todo)):
            yield (None, None) if run is None else self._do(run, progress, done, len(todo))

    def _do(self, run: Run, progress: Progress | None, done: int, total: int) -> Result:
        """Do a run here, which at each of its steps says how many runs are done."""
        return do(self.bench, run, progress=lambda *_: progress and progress(done, total))

    def time(self, rounds: int, progress: Progress | None) -> None:
        """Time each structure of which a row has no latency, and write it into all its rows."""
        stored, mine = self.store.rows(), self.bench.identity["teacher"]
        here = [row for row in stored.values() if row["teacher"] == mine]
        known = {row["structure"]: {name: row[name] for name in LATENCY} for row in here if row["latency_ms"]}
        lacking: dict[str, Run] = {}
        for run, key in self.keys.items():
            if key in stored and _lacks_latency(stored[key]):
                lacking.setdefault(stored[key]["structure"], run)
        nets = {s: self._net_of(s, run, progress) for s, run in lacking.items() if s not in known}
        nets = {s: net.to(device_of(self.bench.teacher)) for s, net in nets.items() if net is not None}
        if nets:
            models = {"teacher": self.bench.teacher} | nets
            report = progress and (lambda *_: progress(len(self.keys), len(self.keys)))
            timed = latency(models, self.bench.task.example, rounds=rounds, threads=1, progress=report)
            timed = timed[["median_ms", "ratio", "low", "high"]].set_axis(LATENCY, axis=1)
            for s in nets:
                at = "teacher" if lacking[s].method == "teacher" else s
                known[s] = {name: float(f"{value:.4g}") for name, value in timed.loc[at].items()}
        if lacking:
            self.store.change(
                lambda row: known.get(row["structure"], {}) if row["teacher"] == mine and _lacks_latency(row) else {}
            )

    def _net_of(self, structure: str, run: Run, progress: Progress | None) -> nn.Module | None:
        """A network of this structure: kept from its run, or else, after a kill, of the same run done again."""
        if structure in self.nets:
            return self.nets[structure]
        self.bench = prepare(self.bench, [run])
        row, net = self._do(run, progress, len(self.keys), len(self.keys))
        return net if row.get("structure") == structure else None


def _draw_by_draw(runs: list[Run]) -> list[Run]:
    """So that a study ended before its end has all methods side by side, on fewer draws."""
    place = {seed: i for i, seed in enumerate(dict.fromkeys(run.seed for run in runs))}
    return sorted(runs, key=lambda run: place[run.seed])


def _lacks_latency(row: Mapping[str, str]) -> bool:
    return not row["latency_ms"] and not row["error"]


def _tell(rows: pd.DataFrame) -> None:
    """Say which runs failed, and that rows come of other versions than these."""
    failed = rows[rows.error.notna()]
    if len(failed):
        first = failed.iloc[0]
        warn(
            f"study: {len(failed)} of {len(rows)} runs failed ({', '.join(failed.method.unique())}); their column "
            f"error says why. The first: {first.error}"
        )
    now = (version("fsc"), torch.__version__)
    others = {pair for pair in zip(rows.fsc, rows.torch, strict=True) if pair != now}
    if others:
        said = " and ".join(f"fsc {fsc}, torch {its}" for fsc, its in sorted(others))
        warn(
            f"study: some of these rows were stored with {said}; this is fsc {now[0]}, torch {now[1]}.\n"
            f"  To measure all with the same, name another store."
        )
