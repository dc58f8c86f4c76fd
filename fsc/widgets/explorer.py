"""The explorer: a whole study under knobs, and any of its runs recomputed beside the stored ones."""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd
from torch import nn

from fsc.arguments import check_columns
from fsc.inputs.tasks import Task
from fsc.plots.drawing import NAMES, Picture, in_order
from fsc.plots.overview import Setting, draw_overview
from fsc.plots.readings import short_percent
from fsc.runtime import Progress, public
from fsc.studies.methods import METHODS, Own, methods_of
from fsc.studies.provenance import code_of
from fsc.studies.runs import Run, do, new_bench, prepare
from fsc.studies.summary import ALONE, check_study, gather
from fsc.widgets.panel import Panel, State

KNOBS = ("method", "samples", "ratio")
OPTIONAL = ("task", "teacher", "data", "function", "steps", "seconds", "device", "structure", "latency_ratio")
STEPS = 2000  # of a method that trains, where the study does not say: the default of `fsc.study`


class Explorer(Panel):
    """A study under the knobs method, images and ratio, as two charts and a sentence.

    Everything is looked up in the study; a setting that it lacks says "not measured". With task and teacher,
    *Recompute* repeats the chosen run here, with the chosen draw or else the first, and shows it as a star.

    Args:
        study: the rows of one task and network, from `fsc.study` or from its store, read with
            `pandas.read_csv(path, comment="#")`. It needs the columns method, samples, ratio, seed, accuracy;
            latency_ratio and seconds are shown where they are there. To recompute, it needs a column reached,
            which shows that its ratio is the share of the MACs.
        task, teacher: those of the study, to recompute with. Both or neither.
        methods: your own functions in the study, {"mine": function}, to recompute them too.

    Raises:
        TypeError: `study` is no table.
        ValueError: the study is empty, lacks a column, or mixes tasks or networks; task, teacher or a
            function differs from that of the study; only one of task and teacher was passed.

    >>> study = pandas.read_csv("data/studies/all_shapes.csv", comment="#")
    >>> explorer = fsc.widgets.Explorer(study)
    >>> explorer.set(method="fskd", samples=50, ratio=0.5)
    >>> explorer.sentence
    'FSKD, 50 images, 50 % of MACs removed: 84.6 % ± 0.5 (3 draws), at 77 % of the teacher's latency ...'
    """

    @public
    def __init__(
        self, study: pd.DataFrame, task: Task | None = None, teacher: nn.Module | None = None, *,
        methods: Mapping[str, Own] | None = None,
    ):
        _check(study)
        stored_only = task is None and teacher is None
        live_runs = None if stored_only else LiveRuns(study, task, teacher, methods or {})
        fitted = study[study.samples.notna() & ~study.method.isin(ALONE)]
        points, removed = gather(study), "MACs" if "reached" in study else "filters"

        def draw(state: State, live: pd.DataFrame | None = None) -> Picture:
            return draw_overview(Setting(points, **state, removed=removed), live)

        samples = [int(n) for n in sorted(fitted.samples.unique())]
        ratios = sorted(fitted.ratio.unique().tolist())
        super().__init__(
            {"method": in_order(fitted.method), "samples": samples, "ratio": ratios},
            look_up=dict,
            draw=draw,
            recompute=live_runs.run if live_runs else None,
            cost=live_runs.cost if live_runs else None,
            seeds=[int(seed) for seed in sorted(fitted.seed.dropna().unique())],
            labels={"samples": "images", "ratio": f"{removed} removed"},
            format={"method": lambda method: NAMES.get(method, str(method)), "ratio": short_percent},
        )


class LiveRuns:
    """Repeats runs of a study, one at a time."""

    def __init__(
        self, study: pd.DataFrame, task: Task | None, teacher: nn.Module | None, own: Mapping[str, Own]
    ):
        if task is None or teacher is None:
            missing = "task" if task is None else "teacher"
            raise ValueError(
                f"to recompute it needs task and teacher; the {missing} is missing.\n  Pass both, or neither."
            )
        if task.test.labels is None:
            raise ValueError("the test images have no labels, so there is no accuracy.\n  Pass no task.")
        check_columns(study, "reached")  # without it the ratio may be that of the filters: other runs
        self.study = study.reindex(columns=list(dict.fromkeys([*study.columns, *OPTIONAL])))
        known = {method: METHODS[method] for method in study.method.unique() if method in METHODS}
        known |= methods_of(own)
        self.bench = new_bench(task, teacher, known, steps=STEPS, arch=type(teacher).__name__)
        for column in ("task", "teacher", "data"):
            stored, asked = self.study[column].dropna().unique(), self.bench.identity[column]
            if len(stored) and asked not in stored:
                raise ValueError(
                    f"the study's {column} is {stored[0]}; the one to recompute with is {asked}.\n"
                    f"  Results of the two cannot be compared. Pass the task and teacher of the study."
                )
        for name, function in own.items():
            _check_own(self.study[study.method == name], name, function)

    def cost(self, state: State) -> str:
        """The expected time of the run, from the stored ones, in words."""
        if state["method"] not in self.bench.methods:
            return "cannot be recomputed: the study has its name, not its function (pass it as methods=)"
        test = f"the test on {len(self.bench.task.test)} images"
        seconds, device = self._stored(state).seconds.median(), self.study.device.dropna()
        if pd.isna(seconds):
            return f"never timed at this setting; and {test}"
        took = f"about {seconds:.2g} s" if seconds >= 1 else "under 1 s"
        return f"{took} on {device.iloc[0]}, and {test}" if len(device) else f"{took}, and {test}"

    def run(self, state: State, progress: Progress) -> pd.DataFrame:
        """The row of the run, as in a study. Its latency is that of a stored network with the same structure.

        Raises:
            ValueError: the method is not one of fsc's own, and its function was not passed.
            RuntimeError: the method failed; says why.
        """
        method = state["method"]
        if method not in self.bench.methods:
            raise ValueError(
                f"{method!r} is a function of your own, and a study keeps its name alone.\n"
                f'  Pass it: Explorer(study, task, teacher, methods={{"{method}": function}}).'
            )
        progress(0, 1)
        seeds = [self._stored(state).seed.min(), self.study.seed.min()]
        seed = next(seed for seed in (state["seed"], *seeds) if pd.notna(seed))
        run = Run(method, state["ratio"], state["samples"], int(seed))
        self.bench = prepare(self.bench, [run])
        progress(0, 1)
        steps = self.study.steps[self.study.method == method].dropna()
        steps = int(steps.iloc[0]) if len(steps) else STEPS
        row, _ = do(replace(self.bench, steps=steps), run, progress=progress)
        if row.get("error"):
            raise RuntimeError(f"{method} failed: {row['error']}")
        progress(1, 1)
        alike = self.study.latency_ratio[self.study.structure == row["structure"]].dropna()
        return pd.DataFrame([row | {"latency_ratio": alike.iloc[0] if len(alike) else float("nan")}])

    def _stored(self, state: State) -> pd.DataFrame:
        chosen = self.study[list(KNOBS)] == [state[knob] for knob in KNOBS]
        return self.study[chosen.all(axis=1)]


def _check_own(rows: pd.DataFrame, name: str, function: Own) -> None:
    """Refuse a function that is not in the study, or is there with other code."""
    stored, code = rows.function.dropna().unique(), code_of(function)
    if rows.empty or (len(stored) and code not in stored):
        found = "no method of that name" if rows.empty else f"one of that name with other code ({stored[0]})"
        raise ValueError(
            f"the function {name!r} ({code}) is not in the study, which has {found}.\n"
            f"  Results of the two cannot be compared. Run fsc.study with this function first."
        )


def _check(study: pd.DataFrame) -> None:
    """Refuse a table without the measured accuracy of any method."""
    if not isinstance(study, pd.DataFrame):
        found = type(study).__name__
        store = 'pandas.read_csv(path, comment="#")'
        raise TypeError(f"asked for a table, as from fsc.study; got a {found}.\n  A stored one: {store}.")
    if study.empty:
        raise ValueError("the study has no rows.\n  Run fsc.study first, or read a store that has some.")
    check_study(study)
    if not (study.samples.notna() & study.accuracy.notna() & ~study.method.isin(ALONE)).any():
        failed = int(study.error.notna().sum()) if "error" in study else 0
        raise ValueError(
            f"of {len(study)} rows none has the accuracy of a method with few images; {failed} failed.\n"
            f"  Put a method into the study, beside teacher and unrepaired student. Column error says why."
        )
