"""The tools of all scripts: tasks and networks that are here, a store per study, and tables in Markdown."""

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from torch import nn

import fsc
from fsc.inputs.tasks import Task
from fsc.studies.csv_store import Store
from fsc.studies.provenance import provenance

STUDIES = Path(__file__).parents[1] / "studies"


@cache
def tasks() -> dict[str, Task]:
    """The drawings; and the photographs, where FSC_REAL_DATA names their folder."""
    found = {"shapes": fsc.load_task("shapes")}
    if photographs := os.environ.get("FSC_REAL_DATA"):
        found["cifar10"] = fsc.load_task("folder", root=Path(photographs) / "cifar10-subset", like="cifar10")
    return found


@cache
def teacher_of(task: str, arch: str) -> nn.Module:
    return fsc.load_teacher(arch, tasks()[task])


@cache
def pruned(task: str, arch: str, ratio: float) -> nn.Module:
    return fsc.prune_filters(teacher_of(task, arch), ratio)


def parser_of(doc: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print the stored tables; measure nothing")
    return parser


def store_of(study: str, script: str, columns: Sequence[str], key: Sequence[str]) -> Store:
    """The store of a study; a new one gets a comment with the script, the versions and the machine."""
    version, torch_version, machine = provenance(torch.device("cpu")).values()
    about = f"python data/scripts/{Path(script).name}: fsc {version}, torch {torch_version}, {machine}"
    return Store(STUDIES / f"{study}.csv", columns, key, about)


def fill(store: Store, wanted: Iterable[dict], measured: Callable[..., dict | None]) -> None:
    """Store the rows that are not there when their turn comes, so that two processes may share the work.

    Args:
        wanted: the keys of all rows.
        measured: takes the cells of a key, and gives the rest of the row, or None for no row.
    """
    for row in wanted:
        if store.key_of(row) not in store.rows() and (found := measured(**row)):
            store.add(row | found)


def read(study: str) -> pd.DataFrame:
    return pd.read_csv(STUDIES / f"{study}.csv", comment="#")


def markdown(heads: Sequence, rows: Iterable[Sequence]) -> list[str]:
    """The lines of a table."""
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (heads, *rows)]
    return [lines[0], "|---" * len(heads) + "|", *lines[1:]]


def from_to(counts: pd.Series) -> str:
    """ "5" where all counts are 5; "3 to 5" where they differ."""
    return f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"


def in_percent(accuracies: pd.Series) -> str:
    """Mean and, of several, standard deviation, in %; "" of none."""
    sd = f" ± {100 * accuracies.std():.1f}" if len(accuracies) > 1 else ""
    return f"{100 * accuracies.mean():.1f}{sd}" if len(accuracies) else ""
