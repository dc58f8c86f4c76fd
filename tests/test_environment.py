"""The environment: pyproject.toml, constraints.txt, environment.yml and the Makefile ask for the same."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
ASKED = [Requirement(line) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines]
PIN_LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
PINS = {canonicalize_name(name): version for name, version in (line.split("==") for line in PIN_LINES)}
MODULE_OF = {"pillow": "PIL", "pytest-xdist": "xdist", "pyyaml": "yaml"}


def pip_lines() -> list[str]:
    """The pip section of environment.yml."""
    asked = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return next(entry["pip"] for entry in asked if isinstance(entry, dict))


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.name)
def test_every_package_has_a_lower_bound_and_a_tested_version_above_it(asked):
    assert [bound.operator for bound in asked.specifier] == [">="], f"{asked}: one lower bound, nothing else"
    pin = PINS.get(canonicalize_name(asked.name))
    assert pin, f"constraints.txt names no version of {asked.name}"
    assert asked.specifier.contains(pin), f"constraints.txt has {asked.name} {pin}, pyproject.toml {asked}"


def test_no_package_is_pinned_twice():
    assert len(PINS) == len(PIN_LINES)


def test_torchvision_loads_with_this_torch():
    # A torchvision made for another torch imports, but its compiled operators are missing.
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]])
    assert torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 2]


def test_conda_users_get_the_same_packages_and_bounds():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == "fsc"
    conda = [Requirement(entry) for entry in environment["dependencies"] if isinstance(entry, str)]
    assert {entry.name for entry in conda} == {"python", "pip"}, "packages come from pyproject.toml, by pip"
    assert next(e.specifier for e in conda if e.name == "python") == SpecifierSet(PROJECT["requires-python"])
    assert pip_lines() == ["--constraint constraints.txt", f"--editable .[{','.join(EXTRAS)}]"]


def test_make_installs_what_environment_yml_installs():
    install = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line)
    assert all(part in install.replace("'", "") for part in pip_lines()), install


def test_what_is_imported_is_asked_for():
    ours = {"fsc", "helpers", *(path.stem for path in (ROOT / "data").rglob("*.py"))}
    for folder, extras, own in (("fsc", [], {"fsc"}), ("tests", EXTRAS["test"], ours)):
        names = [Requirement(line).name for line in PROJECT["dependencies"] + extras]
        known = {MODULE_OF.get(name, name.replace("-", "_")) for name in names} | own
        known |= sys.stdlib_module_names | {"IPython"}  # ipywidgets depends on IPython
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                origins = [n.name for n in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    origins = [node.module]
                strange = {origin.split(".")[0] for origin in origins} - known
                assert not strange, f"{path.relative_to(ROOT)} imports {strange}: not in pyproject.toml"


@pytest.fixture
def clone(tmp_path) -> Path:
    """A folder with what `make venv` reads, and nothing installed."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder: Path, *args: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON")}
    return subprocess.run(["make", *args], cwd=folder, env=clean, capture_output=True, text=True)


def test_an_older_python_is_refused_with_a_sentence_and_nothing_is_made(clone):
    old = clone / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    result = make(clone, "venv", f"PYTHON={old}")
    assert result.returncode != 0
    assert f"fsc needs Python 3.11 or newer; found: {old} = Python 3.9.2" in result.stderr
    assert "make venv PYTHON=python3.12" in result.stderr
    assert not (clone / ".venv").exists()


def test_a_second_call_repeats_no_install_unless_the_versions_changed(clone):
    mark = clone / ".venv" / ".installed"
    assert "pip install" in make(clone, "--dry-run", "lab").stdout
    mark.parent.mkdir()
    mark.touch()
    for target in ("venv", "lab", "test"):
        assert "pip install" not in make(clone, "--dry-run", target).stdout
    later = mark.stat().st_mtime + 10
    os.utime(clone / "constraints.txt", (later, later))
    assert "pip install" in make(clone, "--dry-run", "test").stdout


def test_make_says_what_it_can_do():
    said = make(ROOT, "help").stdout
    targets = re.findall(r"^make (\w+): ", said, re.MULTILINE)
    assert targets == re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"venv", "lab", "test", "bench", "notebooks", "teachers", "lint"} <= set(targets)
