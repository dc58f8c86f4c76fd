"""What the tests of studies share: a path for the store, and latencies that cost no time."""

import pytest
from helpers.toy_study import toy_latency


@pytest.fixture
def store(tmp_path):
    return tmp_path / "study.csv"


@pytest.fixture
def timings(monkeypatch):
    """The names of the networks that the study has timed, one list per call of `latency`."""
    return toy_latency(monkeypatch)
