"""Two studies on one store divide the work and write every row once, even if one of them is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from helpers.toy_study import leaves_its_process, toy_study, waits_with_seed_2

OTHER = """
import sys, time
from pathlib import Path
from helpers.toy_study import leaves_its_process, toy_study, waits_with_seed_2
folder = Path(sys.argv[1])
toy_study(folder / "warm-up.csv")
(folder / "ready").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
toy_study(folder / "shared.csv", methods=[leaves_its_process], seeds=range(30))
toy_study(folder / "killed.csv", methods=[waits_with_seed_2], seeds=range(5))
"""


def wait_for(path):
    for _ in range(6000):
        if path.exists():
            return
        time.sleep(0.01)
    pytest.fail(f"{path.name} did not come within a minute")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A second process, its folder, and that folder in the environment."""
    folder = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOY_STUDY", str(folder))
        (folder / "wait").touch()
        process = subprocess.Popen([sys.executable, "-c", OTHER, str(folder)], cwd=Path(__file__).parents[1])
        wait_for(folder / "ready")
        yield process, folder
        process.kill()
        process.wait()


def test_two_studies_on_one_store_share_the_work_and_write_every_row_once(other):
    _, folder = other
    (folder / "go").touch()
    table = toy_study(folder / "shared.csv", methods=[leaves_its_process], seeds=range(30))
    wait_for(folder / "killed.csv")                       # the other process has finished it, too
    stored = pd.read_csv(folder / "shared.csv", comment="#")
    assert len(stored) == 32 and not stored.duplicated(["method", "seed"]).any()
    assert stored.latency_ms.notna().all()
    assert table.seed[2:].tolist() == list(range(30))
    calls = [len(path.read_text().split()) for path in folder.glob("pid-*")]
    assert len(calls) == 2 and sum(calls) < 45            # without looking at each other: 60


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_study_that_is_killed_loses_the_run_in_hand_alone(other):
    process, folder = other
    (folder / "go").touch()
    wait_for(folder / "waiting")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = pd.read_csv(folder / "killed.csv", comment="#")
    assert left.seed.dropna().tolist() == [0, 1] and len(left) == 4
    (folder / "wait").unlink()
    whole = toy_study(folder / "killed.csv", methods=[waits_with_seed_2], seeds=range(5))
    assert len(whole) == 7 and whole.latency_ms.notna().all() and whole.error.isna().all()
    stored = pd.read_csv(folder / "killed.csv", comment="#")
    pd.testing.assert_series_equal(stored.seconds[:4], left.seconds)  # what was there has not been done again
