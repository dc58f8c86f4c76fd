"""A study's runs gathered by setting: what its draws came to, at what cost, and which settings nothing else beats."""

import statistics
from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from fsc.arguments import check_columns

ALONE = ("teacher", "none")
COSTS = ("latency_ratio", "seconds")
"""What accuracy can be weighed against, the first that was measured."""
SAME = 1e-9
"""Accuracies this near are equal: only rounding tells them apart."""


class Point(NamedTuple):
    """All runs of one method at one ratio with so many images; `ratio` and `samples` are None where there are none."""

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
        """None: a single draw has no spread."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None

    def of(self, draw: int | None) -> float | None:
        """The accuracy of one draw, where it was measured."""
        its = [accuracy for seed, accuracy in zip(self.seeds, self.accuracies, strict=True) if seed == draw]
        return statistics.fmean(its) if its else None


class Points(list[Point]):
    """The points of a study, and `against`: the column of costs, or None, where neither was measured."""

    def __init__(self, points: Iterable[Point], against: str | None):
        super().__init__(points)
        self.against = against

    def where(self, **asked) -> list[Point]:
        """Those with these values: where(samples=50, ratio=0.5)."""
        return [point for point in self if all(getattr(point, name) == value for name, value in asked.items())]

    def costed(self, samples: int, ratio: float) -> list[Point]:
        """Those to be weighed with so many images, from the quickest on.

        Teacher and unrepaired students have a latency, but no repair that takes seconds; and of seconds there are only
        those at this ratio, for how long a repair takes is a matter between methods.
        """
        timed = self.against == "latency_ratio"
        kept = [
            point for point in self
            if point.cost and point.accuracies
            and (point.samples == samples or timed and point.method in ALONE)
            and (timed or point.ratio == ratio)
        ]  # fmt: skip
        return sorted(kept, key=lambda point: (point.cost[0], -round(point.mean / SAME)))


def gather(table: pd.DataFrame) -> Points:
    """The runs of a study, by method, ratio and number of images, in the order of the table.

    Args:
        table: one that `check_study` lets pass.
    """
    fitted = table[table.samples.notna()]
    against = next((column for column in COSTS if column in table and fitted[column].notna().any()), None)
    names = ["method", "ratio", "samples", "seed", "accuracy", "error", "latency_low", "latency_high", against]
    groups: dict[tuple, list[dict]] = {}
    for row in table[[name for name in names if name in table]].to_dict("records"):
        row = {name: None if pd.isna(value) else value for name, value in row.items()}
        groups.setdefault((row["method"], row["ratio"], row["samples"]), []).append(row)
    return Points((_point(*key, rows, against) for key, rows in groups.items()), against)


def frontier(points: Iterable[Point]) -> list[Point]:
    """Of points from the quickest on, those that no other beats: none has at most their cost and their accuracy."""
    kept: list[Point] = []
    for point in points:
        if not kept or point.mean > kept[-1].mean + SAME:
            kept.append(point)
    return kept


def check_study(table: pd.DataFrame) -> None:
    """Refuse what is no study of one task, network and code a method: no mean may mix these.

    Raises:
        ValueError: says which column is missing, or which rows to choose and how.
    """
    check_columns(table, "method", "samples", "ratio", "seed", "accuracy")
    for column in ("task", "arch", "teacher", "data"):
        _check_one(table, column, "the study")
    for method, rows in table.groupby("method"):
        for column in ("steps", "function"):
            _check_one(rows, column, f"the method {method}")


def _point(method: str, ratio: float | None, samples: float | None, rows: list[dict], against: str | None) -> Point:
    done = [row for row in rows if row["accuracy"] is not None]
    failed = [row for row in rows if row["accuracy"] is None]
    samples, seeds = _whole(samples), [_whole(row["seed"]) for row in done]
    errors = [str(row.get("error") or "") for row in failed]
    return Point(method, ratio, samples, seeds, [row["accuracy"] for row in done], errors, _cost(done, against))


def _cost(rows: list[dict], against: str | None) -> tuple[float, float, float] | None:
    x, low, high = (
        [row[column] for row in rows if row.get(column) is not None]
        for column in (against, "latency_low", "latency_high")
    )
    if not x:
        return None
    if against == "seconds":
        return statistics.median(x), min(x), max(x)
    return statistics.median(x), statistics.median(low or x), statistics.median(high or x)


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _check_one(rows: pd.DataFrame, column: str, whose: str) -> None:
    if column in rows and rows[column].nunique() > 1:
        several = rows[column].dropna().unique()
        value = f'"{several[0]}"' if isinstance(several[0], str) else f"{several[0]:g}"
        alone = f" | study.{column}.isna()" if column in ("steps", "function") else ""
        raise ValueError(
            f'{whose} has rows of several values of "{column}": {", ".join(map(str, several))}.\n'
            f"  Pass the rows of one, as study[(study.{column} == {value}){alone}]."
        )
