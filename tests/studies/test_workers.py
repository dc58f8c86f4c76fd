"""A study in worker processes, on this machine or on a cluster: its rows equal those of one process."""

import os
import threading
import time

import joblib
import pandas as pd
import pytest
import torch
from helpers.toy_study import toy_study
from torch import nn

from fsc.compress.macs_budget import prune_macs

MEASURED = ["latency_ms", "latency_ratio", "latency_low", "latency_high", "seconds", "fsc", "torch", "device"]


def own_methods(folder):
    """Methods that no worker can import, because they are defined here: they have to be sent."""

    class Halved(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x[:, :, ::2, ::2])

    def meets(teacher, images, ratio):
        (folder / f"{os.getpid()}.pid").write_text(str(torch.get_num_threads()))
        for _ in range(6000):
            if len([*folder.glob("*.pid")]) > 1:
                return prune_macs(teacher, ratio, images)
            time.sleep(0.01)
        raise RuntimeError("no other process came")

    def fails(teacher, images, ratio):
        raise RuntimeError("no luck")

    def halves(teacher, images, ratio):
        return Halved(teacher)

    return [meets, fails, halves]


def check_same_as_here(folder, table, timings, **asked):
    """Two other processes of one thread each did the study, and their rows equal those of this process."""
    words = {path.stem: path.read_text() for path in folder.glob("*.pid")}
    assert len(words) == 2 and str(os.getpid()) not in words and set(words.values()) == {"1"}
    assert table.device.str.endswith("CPU, 1 thread").all()
    with pytest.warns(UserWarning, match="4 of 18 runs failed"):
        here = toy_study(folder / "here.csv", **asked)
    pd.testing.assert_frame_equal(table.drop(columns=MEASURED), here.drop(columns=MEASURED))
    assert table.latency_ms.equals(here.latency_ms) and set(timings[0]) == set(timings[1])


@pytest.mark.slow
def test_workers_of_a_study_find_what_it_finds_alone(tmp_path, timings):
    asked, calls = {"methods": [*own_methods(tmp_path), "mir"], "seeds": range(4)}, []
    with pytest.warns(UserWarning, match="4 of 18 runs failed"):
        table = toy_study(tmp_path / "two.csv", jobs=2, progress=lambda *step: calls.append(step), **asked)
    assert calls[:18] == [(done, 18) for done in range(1, 19)]
    check_same_as_here(tmp_path, table, timings, **asked)


@pytest.mark.slow
def test_a_dask_cluster_does_a_study(tmp_path, timings):
    from dask.distributed import Client, LocalCluster

    asked = {"methods": [*own_methods(tmp_path), "mir"], "seeds": range(4)}
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster:
        with Client(cluster), joblib.parallel_config(backend="dask"):
            with pytest.warns(UserWarning, match="4 of 18 runs"):
                table = toy_study(tmp_path / "cluster.csv", **asked)
    check_same_as_here(tmp_path, table, timings, **asked)


def test_a_method_that_cannot_be_sent_is_refused_in_words(tmp_path):
    held = threading.Lock()

    def locks(teacher, images, ratio):
        with held:
            return prune_macs(teacher, ratio, images)

    with pytest.raises(ValueError, match="must go to other processes and cannot: .*\n.*Leave jobs out"):
        toy_study(tmp_path / "study.csv", methods=[locks], jobs=2)
