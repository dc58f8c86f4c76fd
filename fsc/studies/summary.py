"""A study's runs gathered by setting: mean accuracy over the seeds, cost, and the best settings."""

import statistics
from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from fsc.arguments import check_columns

ALONE = ("teacher", "none")
"""The methods that use no images."""
COSTS = ("latency_ratio", "seconds")
"""The columns to weigh accuracy against; the first one that was measured counts."""
SAME = 1e-9
"""Two accuracies that differ by less are equal, up to rounding."""


class Point(NamedTuple):
    """All runs of one method at one ratio with one number of images.

    Fields:
        ratio, samples: None if the method has none.
        seeds, accuracies: of the runs that succeeded, in the same order.
        errors: of the runs that failed.
        cost: its median, and a lower and an upper end; None where it was not measured.
    """

    method: str
    ratio: float | None
    samples: int | None
    seeds: list[int | None]
    accuracies: list[float]
    errors: list[str]
    cost: tuple[float, float, float] | None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.accuracies)

    @property
    def sd(self) -> float | None:
        """The standard deviation over the seeds; None for a single one."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None

    def of(self, seed: int | None) -> float | None:
        """The accuracy with this seed; None where it was not measured."""
        found = [accuracy for its, accuracy in zip(self.seeds, self.accuracies, strict=True) if its == seed]
        return statistics.fmean(found) if found else None


class Points(list[Point]):
    """The points of a study. `against` names the column of their costs; None if no cost was measured."""

    def __init__(self, points: Iterable[Point], against: str | None):
        super().__init__(points)
        self.against = against

    def where(self, **asked) -> list[Point]:
        """The points with these values: where(samples=50, ratio=0.5)."""
        return [point for point in self if asked.items() <= point._asdict().items()]

    def costed(self, samples: int, ratio: float) -> list[Point]:
        """The points to compare by cost at this number of images, from the lowest cost to the highest.

        If the cost is latency, points of every ratio count, and so do the teacher and the unrepaired
        students. If it is the seconds of the repair, only repaired students at this ratio count.
        """
        found = [point for point in self if point.cost and point.accuracies]
        if self.against == "latency_ratio":
            found = [point for point in found if point.samples == samples or point.method in ALONE]
        else:
            found = [point for point in found if (point.samples, point.ratio) == (samples, ratio)]
        return sorted(found, key=lambda point: (point.cost[0], -round(point.mean / SAME)))


def gather(table: pd.DataFrame) -> Points:
    """The runs of a study that `check_study` accepts, by method, ratio and number of images."""
    fitted = table[table.samples.notna()]
    against = next((column for column in COSTS if column in table and fitted[column].notna().any()), None)
    columns = ["method", "ratio", "samples", "seed", "accuracy", "error"]
    columns += ["latency_low", "latency_high", against]
    groups: dict[tuple, list[dict]] = {}
    for row in table[[name for name in columns if name in table]].to_dict("records"):
        row = {name: None if pd.isna(value) else value for name, value in row.items()}
        groups.setdefault((row["method"], row["ratio"], row["samples"]), []).append(row)
    return Points((_point(*key, rows, against) for key, rows in groups.items()), against)


def frontier(points: Iterable[Point]) -> list[Point]:
    """Of points sorted by cost, those that no other beats: none of lower cost has at least their accuracy."""
    kept: list[Point] = []
    for point in points:
        if not kept or point.mean > kept[-1].mean + SAME:
            kept.append(point)
    return kept


def check_study(table: pd.DataFrame) -> None:
    """Refuse a table that mixes tasks, networks, or variants of one method: their mean has no meaning."""
    check_columns(table, "method", "samples", "ratio", "seed", "accuracy")
    for column in ("task", "arch", "teacher", "data"):
        _check_one_value(table, column, "the study")
    for method, rows in table.groupby("method"):
        for column in ("steps", "function"):
            _check_one_value(rows, column, f"the method {method}")


def _point(
    method: str, ratio: float | None, samples: float | None, rows: list[dict], against: str | None
) -> Point:
    done = [row for row in rows if row["accuracy"] is not None]
    errors = [str(row.get("error") or "") for row in rows if row["accuracy"] is None]
    seeds, accuracies = [_whole(row["seed"]) for row in done], [row["accuracy"] for row in done]
    return Point(method, ratio, _whole(samples), seeds, accuracies, errors, _cost(done, against))


def _cost(rows: list[dict], against: str | None) -> tuple[float, float, float] | None:
    """The median cost with the 95 % interval of a latency, or with the lowest and highest seconds."""
    costs, low, high = (
        [row[column] for row in rows if row.get(column) is not None]
        for column in (against, "latency_low", "latency_high")
    )
    if not costs:
        return None
    if against == "seconds":
        return statistics.median(costs), min(costs), max(costs)
    return statistics.median(costs), statistics.median(low or costs), statistics.median(high or costs)


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _check_one_value(rows: pd.DataFrame, column: str, whose: str) -> None:
    if column in rows and rows[column].nunique() > 1:
        values = rows[column].dropna().unique()
        value = f'"{values[0]}"' if isinstance(values[0], str) else f"{values[0]:g}"
        alone = f" | study.{column}.isna()" if column in ("steps", "function") else ""
        raise ValueError(
            f'{whose} has rows of several values of "{column}": {", ".join(map(str, values))}.\n'
            f"  Pass the rows of one, as study[(study.{column} == {value}){alone}]."
        )
