"""Runs in other processes, on this machine or on a cluster, by whatever back end `joblib` is told to use."""

import contextlib
import hashlib
import pickle
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import cloudpickle
import joblib
import numpy as np
from torch import nn

from fsc.runtime import quiet
from fsc.studies.runs import Bench, Run, do


def in_processes(
    bench: Bench, runs: Iterable[Run | None], jobs: int | None, *, known: Callable[[], Collection[str]]
) -> Iterator[tuple[dict[str, Any] | None, nn.Module | None]]:
    """Do the runs in worker processes with one CPU thread each; yield rows and students as they come.

    Closing the iterator ends runs that are under way on this machine; on a cluster they go on to their end.

    Args:
        runs: taken one by one as workers become free; for None, (None, None) comes back.
        known: returns the structures of which no more students need to be sent back.
    """
    try:
        sent = cloudpickle.dumps(bench)
    except Exception as err:  # a foreign object may raise anything
        raise ValueError(
            f"teacher, task and methods must go to other processes and cannot: {type(err).__name__}: {err}\n"
            f"  Leave jobs out, or keep what cannot be pickled (locks, open files) out of your method."
        ) from err
    # An array, because joblib copies it once per machine for all workers
    data, sha256 = np.frombuffer(sent, dtype=np.uint8), hashlib.sha256(sent).hexdigest()
    calls = (joblib.delayed(_in_worker)(data, sha256, run, frozenset(known())) for run in runs)
    parallel = joblib.Parallel(n_jobs=jobs, batch_size=1, return_as="generator_unordered")
    with contextlib.closing(parallel(calls)) as results:
        for row, student in results:
            yield row, student if student is None else _unpickled(student)


_BENCH: dict[str, Bench] = {}  # in a worker: the bench of the last run, by the hash of its bytes


def _bench_of(data: np.ndarray, sha256: str) -> Bench:
    if sha256 not in _BENCH:
        _BENCH.clear()
        _BENCH[sha256] = pickle.loads(data)
    return _BENCH[sha256]


def _in_worker(
    data: np.ndarray, sha256: str, run: Run | None, known: frozenset[str]
) -> tuple[dict[str, Any] | None, bytes | None]:
    """The run's row, and its pickled student if its structure is not known yet."""
    if run is None:
        return None, None
    row, student = do(_bench_of(data, sha256), run, threads=1, progress=quiet)
    if student is None or row["structure"] in known:
        return row, None
    try:
        return row, cloudpickle.dumps(student)
    except Exception:  # a student that cannot be sent is rebuilt where its latency is measured
        return row, None


def _unpickled(student: bytes) -> nn.Module | None:
    try:
        return pickle.loads(student)
    except Exception:  # its class exists in the worker only
        return None
