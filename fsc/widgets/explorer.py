"""The explorer: a whole study under four knobs, and any of its runs done again beside what is stored."""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd
from torch import nn

from fsc.inputs.tasks import Task
from fsc.plots.drawing import NAMES, in_order, short_percent
from fsc.plots.overview import draw_overview
from fsc.runtime import Progress
from fsc.studies.methods import METHODS, Own, methods_of
from fsc.studies.provenance import code_of
from fsc.studies.runs import Run, do, new_bench, prepare
from fsc.studies.summary import ALONE, check_study, gather
from fsc.widgets.panel import Panel, State


class Explorer(Panel):
    """Method, number of images, compression ratio and draw: accuracy against images, the frontier, and a sentence.

    All is looked up in the study; a setting that it does not have says "not measured". With task and teacher,
    *Recompute* does the chosen run here, on the chosen draw (the first, while none is chosen), and shows it as a star
    beside what is stored.

    Args:
        study: the rows of one task and network, from `fsc.study` or read from a store with
            `pandas.read_csv(path, comment="#")`: columns method, samples, ratio, seed and accuracy. Of latency_ratio
            and seconds it takes what is there. With a column reached, its ratio is the share of MACs that goes; without
            it, that of the filters.
        task, teacher: those of the study, to recompute with. Both or neither.
        methods: functions of your own in the study, {"mine": function}, to recompute them too.

    Raises:
        TypeError: `study` is no table.
        ValueError: it is empty, lacks a column, or holds several tasks or networks; task, teacher or a function are not
            those of the study, or one of the first two is missing.

    >>> study = pandas.read_csv("data/studies/methods.csv", comment="#")
    >>> explorer = fsc.widgets.Explorer(study.query("task == 'shapes'"))
    >>> explorer.set(method="fskd", samples=50, ratio=0.5)
    >>> explorer.sentence
    'FSKD, 50 images, 50 % of filters removed: 85.7 % ± 0.8 (5 draws), at 0.7 s of repair, ...'
    """

    def __init__(
        self,
        study: pd.DataFrame,
        task: Task | None = None,
        teacher: nn.Module | None = None,
        *,
        methods: Mapping[str, Own] | None = None,
    ):
        _check(study)
        fitted = study[study.samples.notna() & ~study.method.isin(ALONE)]
        live = _live(study, task, teacher, methods or {})
        removed, points = "MACs" if "reached" in study else "filters", gather(study)

        def draw(state: State, live: pd.DataFrame | None = None):
            return draw_overview(points, **state, live=live, removed=removed)

        super().__init__(
            {
                "method": in_order(fitted.method),
                "samples": [int(n) for n in sorted(fitted.samples.unique())],
                "ratio": sorted(fitted.ratio.unique().tolist()),
            },
            look_up=dict,
            draw=draw,
            recompute=live and live.run,
            cost=live and live.cost,
            draws=[int(seed) for seed in sorted(fitted.seed.dropna().unique())],
            labels={"samples": "images", "ratio": f"{removed} removed"},
            format={"method": lambda method: NAMES.get(method, str(method)), "ratio": short_percent},
        )


class Live:
    """Runs of a study, done again here, one at a time."""

    def __init__(self, study: pd.DataFrame, task: Task, teacher: nn.Module, own: Mapping[str, Own]):
        known = {method: METHODS[method] for method in study.method.unique() if method in METHODS}
        known |= methods_of(own)
        self.study, self.bench = study, new_bench(task, teacher, known, steps=0, arch=type(teacher).__name__)
        for name in ("task", "teacher", "data"):
            asked, mine = self.bench.identity[name], study[name].dropna().unique() if name in study else []
            if len(mine) and asked not in mine:
                raise ValueError(
                    f"Explorer: the study's {name} is {mine[0]}; the one to recompute with is {asked}.\n"
                    f"  What is live would not compare with what is stored. Pass the task and teacher of the study."
                )
        for name, function in own.items():
            _check_own(study[study.method == name], name, function)
        if "reached" not in study:  # an older store: its ratio is that of the filters themselves
            ratios = study.ratio.dropna().unique().tolist()
            self.bench = replace(self.bench, settings={("filters", ratio): ratio for ratio in ratios})

    def cost(self, state: State) -> str:
        """What the run is going to take, by what it took."""
        if state["method"] not in self.bench.methods:
            return "cannot be recomputed: the study has its name, not its function (pass it as methods=)"
        test = f"the test on {len(self.bench.task.test)} images"
        seconds = self._stored(state).seconds.dropna() if "seconds" in self.study else []
        if not len(seconds):
            return f"never timed at this setting; and {test}"
        where = f" on {self.study.device.dropna().iloc[0]}" if "device" in self.study else ""
        took = seconds.median()
        return f"{f'about {took:.2g} s' if took >= 1 else 'under 1 s'}{where}, and {test}"

    def run(self, state: State, progress: Progress) -> pd.DataFrame:
        """The row of the run, as in a study; its latency is that of a stored network of the same structure.

        Raises:
            ValueError: the method is neither one of fsc's own, known by name, nor one whose function was passed.
            RuntimeError: the method failed; says why.
        """
        method, stored = state["method"], self._stored(state)
        if method not in self.bench.methods:
            raise ValueError(
                f"Explorer: {method!r} is a function of your own, and a study keeps its name alone.\n"
                f'  Pass it: Explorer(study, task, teacher, methods={{"{method}": function}}).'
            )
        progress(0, 1)
        run = Run(method, state["ratio"], state["samples"], self._seed(state, stored))
        self.bench = prepare(self.bench, [run])
        progress(0, 1)
        row, _ = do(replace(self.bench, steps=self._steps(method)), run, progress=progress)
        if row.get("error"):
            raise RuntimeError(f"Explorer: {method} failed: {row['error']}")
        progress(1, 1)
        if "structure" in self.study and "latency_ratio" in self.study:
            alike = self.study[self.study.structure == row["structure"]].latency_ratio.dropna()
            row["latency_ratio"] = alike.iloc[0] if len(alike) else float("nan")
        return pd.DataFrame([row])

    def _stored(self, state: State) -> pd.DataFrame:
        study = self.study
        return study[
            (study.method == state["method"]) & (study.samples == state["samples"]) & (study.ratio == state["ratio"])
        ]

    def _seed(self, state: State, stored: pd.DataFrame) -> int:
        seeds = stored.seed if len(stored) else self.study.seed
        return int(seeds.dropna().min() if state["draw"] is None else state["draw"])

    def _steps(self, method: str) -> int:
        """As many as in the study; where it does not say, as many as a study does by itself."""
        rows = self.study[self.study.method == method]
        steps = rows.steps.dropna() if "steps" in rows else []
        return int(steps.iloc[0]) if len(steps) else 2000


def _live(study: pd.DataFrame, task: Task | None, teacher: nn.Module | None, own: Mapping[str, Own]) -> Live | None:
    if (task is None) != (teacher is None):
        missing = "task" if task is None else "teacher"
        raise ValueError(
            f"Explorer: to recompute it needs task and teacher; the {missing} is missing.\n  Pass both, or neither."
        )
    if task is not None and task.test.labels is None:
        raise ValueError("Explorer: the task's test images have no labels, so there is no accuracy.\n  Leave it out.")
    return None if task is None else Live(study, task, teacher, own)


def _check_own(rows: pd.DataFrame, name: str, function: Own) -> None:
    """Refuse a function that the study does not have, or has with other code: it would not compare."""
    stored, code = rows.function.dropna().unique() if "function" in rows else [], code_of(function)
    if rows.empty or (len(stored) and code not in stored):
        found = "no method of that name" if rows.empty else f"one of that name with other code ({stored[0]})"
        raise ValueError(
            f"Explorer: the function {name!r} ({code}) is not in the study, which has {found}.\n"
            f"  What is live would not compare with what is stored. Run fsc.study with this function first."
        )


def _check(study: pd.DataFrame) -> None:
    """Refuse what there is nothing to turn knobs over in."""
    if not isinstance(study, pd.DataFrame):
        raise TypeError(
            f"Explorer: asked for a table, as from fsc.study; got a {type(study).__name__}.\n"
            f'  A stored one: pandas.read_csv(path, comment="#").'
        )
    if study.empty:
        raise ValueError("Explorer: the study has no rows.\n  Run fsc.study first, or read a store that has some.")
    check_study(study)
    if not (study.samples.notna() & study.accuracy.notna() & ~study.method.isin(ALONE)).any():
        failed = int(study.error.notna().sum()) if "error" in study else 0
        raise ValueError(
            f"Explorer: of {len(study)} rows none has the accuracy of a method with few images; {failed} failed.\n"
            f"  It shows methods beside teacher and unrepaired student: put one into the study; column error says why "
            f"runs failed."
        )
