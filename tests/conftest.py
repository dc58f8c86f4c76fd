"""Shared by all tests: when to skip, where the real data are, threads, the effort of hypothesis."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# The same examples every time; HYPOTHESIS_PROFILE=thorough looks for new ones.
# No deadline: the first calls of torch are slow.
_SLOW = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("steady", derandomize=True, max_examples=25, **_SLOW)
settings.register_profile("thorough", max_examples=500, print_blob=True, **_SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # as many workers as cores: more threads would only wait for each other


def find_chromium() -> str | None:
    """The path of a Chromium or Chrome on this machine."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


def why_not_real() -> str | None:
    for variable, what in (("FSC_REAL_DATA", "real images"), ("TORCH_HOME", "published teachers")):
        folder = os.environ.get(variable)
        if not folder:
            return f"needs {what}: set {variable} to their folder"
        if not Path(folder).is_dir():
            return f"needs {what}: {variable}={folder} is not a folder"
    return None


def why_not_gpu() -> str | None:
    return None if torch.cuda.is_available() else "needs a CUDA device: torch finds none"


def why_not_browser() -> str | None:
    if importlib.util.find_spec("playwright") is None:
        return "needs playwright: install the extra `test`"
    return None if find_chromium() else "needs Chromium: none on the PATH (on Debian: apt install chromium)"


WHY_NOT = {"real": why_not_real, "gpu": why_not_gpu, "browser": why_not_browser}


def pytest_runtest_setup(item):
    for marker, why_not in WHY_NOT.items():
        if item.get_closest_marker(marker) and (reason := why_not()):
            pytest.skip(reason)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real images; for tests marked `real`."""
    return Path(os.environ["FSC_REAL_DATA"])


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Chromium; for tests marked `browser`."""
    return find_chromium()
