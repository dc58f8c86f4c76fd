"""Runs in other processes, on this machine or on a cluster: whatever `joblib` is told to use."""

import contextlib
import functools
import hashlib
import pickle
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cloudpickle
import joblib
import numpy as np
from torch import nn

from fsc.runtime import quiet
from fsc.studies.runs import Bench, Run, do

Result = tuple[dict[str, Any] | None, nn.Module | None]
"""A run's row and its student; neither for a run that was passed over."""


def spread(
    bench: Bench, runs: Iterable[Run | None], jobs: int | None, *, known: Callable[[], Collection[str]]
) -> Iterator[Result]:
    """Do the runs in worker processes with one CPU thread each; results come as they are done, in any order.

    Closing the iterator ends what still runs on this machine; on a cluster it is left to end.

    Args:
        runs: asked for one by one, as workers become free; None is passed over.
        known: structures of which no more students need to be sent back.

    Raises:
        ValueError: teacher, task or a method cannot be sent.
    """
    try:
        sent = cloudpickle.dumps(bench)
    except Exception as err:  # whatever a foreign object raises
        raise ValueError(
            f"study: teacher, task and methods must go to other processes and cannot: {type(err).__name__}: {err}\n"
            f"  Leave jobs out, or keep what cannot be pickled (locks, open files, generators) out of your method."
        ) from err
    # An array, because joblib copies it once for all workers: into shared memory here, to each machine of a cluster.
    packed, name = np.frombuffer(sent, dtype=np.uint8), hashlib.sha256(sent).hexdigest()
    calls = (joblib.delayed(_at_work)(packed, name, run, frozenset(known())) for run in runs)
    parallel = joblib.Parallel(n_jobs=jobs, batch_size=1, return_as="generator_unordered")
    with contextlib.closing(parallel(calls)) as results:
        for row, student in results:
            yield row, student if student is None else _opened(student)


@dataclass(frozen=True)
class _Packed:
    """What pickles to a bench; two of the same name are the same."""

    name: str
    data: np.ndarray = field(compare=False)


@functools.lru_cache(maxsize=1)
def _unpacked(packed: _Packed) -> Bench:
    return pickle.loads(packed.data)


def _at_work(
    packed: np.ndarray, name: str, run: Run | None, known: frozenset[str]
) -> tuple[dict[str, Any] | None, bytes | None]:
    """In the worker: the row, and the student where it is of an unknown structure."""
    if run is None:
        return None, None
    row, student = do(_unpacked(_Packed(name, packed)), run, threads=1, progress=quiet)
    if student is None or row["structure"] in known:
        return row, None
    try:
        return row, cloudpickle.dumps(student)
    except Exception:  # a student that cannot be sent is made again where its latency is measured
        return row, None


def _opened(student: bytes) -> nn.Module | None:
    try:
        return pickle.loads(student)
    except Exception:  # of a class that only the worker knows
        return None
