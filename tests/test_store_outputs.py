"""Storing notebooks: which outputs are kept, which are refused, and that nbval notices a wrong number."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from helpers.store_outputs import CHECKED, NotStored, faults, store
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]


def checked(source: str) -> nbformat.NotebookNode:
    return new_code_cell(source, metadata={"tags": [CHECKED]})


@pytest.fixture
def written(tmp_path):
    """Write cells to a notebook file; a string is a code cell."""

    def write(*cells) -> Path:
        cells = [new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
        path = tmp_path / "toy.ipynb"
        nbformat.write(new_notebook(cells=cells), path)
        return path

    return write


def test_stored_outputs_are_those_of_a_clean_quick_run_on_the_cpu(written):
    bar = "from tqdm.auto import tqdm\nfor _ in tqdm(range(3), leave=False): pass\nprint('after the bar')"
    path = written(
        new_markdown_cell("# Toy"),
        "import os, sys, warnings\nprint(os.environ['FSC_BUDGET'], repr(os.environ['CUDA_VISIBLE_DEVICES']))",
        checked("print('accuracy', 0.5)"),
        bar,
        "from tqdm.auto import tqdm\nfor _ in tqdm(iter('abc'), desc='unknown length'): pass",
        "import ipywidgets\nipywidgets.VBox([ipywidgets.IntSlider(7)])",
        "warnings.warn('look out')",
    )
    said = store(path)
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [[o.get("text") or o.data["text/plain"] for o in cell.outputs] for cell in code]
    assert outputs[:4] == [["quick ''\n"], ["accuracy 0.5\n"], ["after the bar\n"], []]
    assert outputs[4] == ["VBox(children=(IntSlider(value=7),))"]
    assert outputs[5] == [] and len(said) == 1 and "stderr not stored" in said[0] and "look out" in said[0]
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4, 5, 6]
    assert code[1].metadata == {"tags": [CHECKED]} and code[0].metadata == {}
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert "widget" not in str([cell.outputs for cell in code])
    assert faults(notebook) == []
    first = path.read_bytes()
    store(path)
    assert path.read_bytes() == first, "storing twice changed the file"


@pytest.mark.parametrize(
    "cell, words",
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        (new_code_cell("1 / 0", metadata={"tags": ["raises-exception"]}), "stores an error: ZeroDivision"),
        ("import os\nprint('data in', os.path.expanduser('~') + '/cache')", "shows a path of the machine"),
        ("import tempfile\nprint(tempfile.mkdtemp())", "shows a path of the machine"),
        (checked("x = 1"), f"is tagged {CHECKED}, but has no stored output"),
        (checked("from tqdm.auto import tqdm\nfor _ in tqdm(range(3)): print(1)"), "shows a progress bar"),
        (checked("import sys\nprint(1, file=sys.stderr)"), r"shows stderr \(1\)"),
    ],
    ids=["error", "allowed error", "home", "temporary", "nothing to check", "checked bar", "checked stderr"],
)
def test_a_notebook_that_nobody_else_could_reproduce_is_refused_and_left_as_it_was(written, cell, words):
    path = written("print('first')", cell)
    before = path.read_bytes()
    with pytest.raises(NotStored, match=words):
        store(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_make_notebooks_fails_when_one_of_them_is_refused(written):
    path = written("1 / 0")
    command = [sys.executable, ROOT / "tests" / "helpers" / "store_outputs.py", path]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "NOT stored, left as it was" in result.stderr, result.stderr


def stored(text: str, *, kind: str = "stream") -> nbformat.NotebookNode:
    """A notebook of one cell with one stored output."""
    output = new_output("stream", name=kind, text=text) if kind in ("stdout", "stderr") else new_output(kind)
    if kind == "error":
        output.update(ename="ValueError", evalue=text, traceback=[])
    return new_notebook(cells=[new_code_cell("f()", execution_count=1, outputs=[output])])


@pytest.mark.parametrize(
    "notebook, words",
    [
        (stored("a warning", kind="stderr"), "stores stderr: a warning"),
        (stored("no", kind="error"), "stores an error: ValueError: no"),
        (stored(f"saved {ROOT.parent}/x", kind="stdout"), "shows a path of the machine"),
        (stored("steps:  33%|###      | 1/3 [00:00<00:00,  9.1it/s]", kind="stdout"), "progress bar"),
        (new_notebook(cells=[new_code_cell("1", execution_count=2)]), r"counts are \[2\], not 1 to 1"),
        (new_notebook(metadata={"widgets": {"application/vnd.jupyter.widget-state+json": {}}}), "no `state`"),
    ],
    ids=["stderr", "error", "path", "bar", "counts", "widget state"],
)
def test_a_fault_in_stored_outputs_is_named(notebook, words):
    found = faults(notebook)
    assert len(found) == 1 and re.search(words, found[0]), found


@pytest.mark.parametrize("text", ["50 % of 16/32", "https://a.org/home/x", "a/tmp/b", "</usr/x>", "33% | x"])
def test_what_only_looks_like_a_path_or_a_bar_is_no_fault(text):
    assert faults(stored(text, kind="stdout")) == []


def nbval(folder: Path) -> subprocess.CompletedProcess:
    """Check the notebooks of a folder with the options of `make test`."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    line = next(line for line in makefile.splitlines() if "--nbval-lax" in line)
    options = line.split("pytest notebooks", 1)[1].replace("=tests/", f"={ROOT}/tests/")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_XDIST", "PYTEST_CURRENT"))}
    command = [sys.executable, "-m", "pytest", folder, "--rootdir", folder, "-p", "no:cacheprovider"]
    return subprocess.run([*command, *options.split()], cwd=folder, env=clean, capture_output=True, text=True)


def test_nbval_passes_what_was_stored_and_notices_a_wrong_number(written):
    path = written(
        "import time; start = time.time()",
        checked("print('accuracy', 0.5)\nprint(f'took {time.time() - start:.5f} s')\nprint(object())"),
        "print(time.time())",
    )
    store(path)
    path.with_name("wrong.ipynb").write_text(path.read_text().replace('"accuracy 0.5', '"accuracy 0.6'))
    result = nbval(path.parent)
    assert result.returncode == 1 and "1 failed, 5 passed" in result.stdout, result.stdout
    assert re.search(r"FAILED wrong.ipynb::Cell 1", result.stdout) and "Cell outputs differ" in result.stdout
