"""The READMEs: their tables are those of the stored measurements and files, and their ten lines run."""

import hashlib
import importlib.util
import re
import sys
from pathlib import Path

import pytest

import fsc

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "data" / "scripts"
PAGES = [ROOT / "README.md", ROOT / "data" / "README.md"]


def script(name: str):
    if str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))  # as for a script that is run there: they import each other
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_measured_tables_are_those_of_the_stored_rows(page):
    studies, text = script("readme"), page.read_text()
    assert studies.MARKED.search(text), f"{page} marks no table"
    assert studies.refreshed(text) == text, "run: python data/scripts/readme.py"


def test_the_embedded_data_shows_what_photographs_show():
    """Half the filters cost tens of points; 50 images do not bring them back, 500 bring more (5 seeds)."""
    import pandas as pd

    rows = pd.read_csv(ROOT / "data" / "studies" / "methods.csv", comment="#")
    for name in ("shapes", "cifar10"):
        part = rows[(rows.task == name) & (rows.arch == "resnet20") & rows.ratio.isin([float("nan"), 0.5])]
        mean = {m: part[part.method == m].accuracy.mean() for m in ("teacher", "none")}
        tuned = part[part.method == "finetune"].groupby("samples").accuracy
        assert tuned.count()[50] == tuned.count()[500] == 5
        assert mean["none"] < mean["teacher"] - 0.4, name
        assert tuned.mean()[50] < mean["teacher"] - 0.15, name
        assert tuned.mean()[50] + 0.05 < tuned.mean()[500] < mean["teacher"], name


def test_the_teachers_are_listed_as_they_score():
    page = PAGES[1].read_text()
    test = fsc.load_task("shapes").test
    for path in sorted((ROOT / "data" / "teachers").glob("*.safetensors")):
        row = re.search(rf"^\| {path.stem} \| ([\d,]+) \| ([\d.]+) % \| `(\w+)` \|", page, re.MULTILINE)
        assert row, f"data/README.md has no row for {path.stem}"
        net = fsc.load_teacher(path.stem, fsc.load_task("shapes"))
        assert int(row[1].replace(",", "")) == sum(p.numel() for p in net.parameters())
        assert abs(float(row[2]) / 100 - fsc.accuracy(net, test)) < 0.003  # other CPUs round differently
        assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(row[3])


def test_the_ten_lines_run_as_they_stand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"## Ten lines\n\n```python\n(.*?)```", PAGES[0].read_text(), re.DOTALL)[1]
    exec(compile(code.replace("steps=200", "steps=3"), "README.md", "exec"), {})
    assert "FSKD + MiR" in capsys.readouterr().out and (tmp_path / "student.safetensors").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
