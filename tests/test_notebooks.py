"""The stored notebooks: outputs of one clean run, small cells, the arc of every notebook, swept panels."""

import ast
import re
import statistics
from pathlib import Path

import nbformat
import pytest
from helpers.store_outputs import CHECKED, faults

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("notebook", PATHS, ids=lambda path: path.name, indirect=True)


@pytest.fixture
def notebook(request) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def prose(notebook) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def is_checked(cell) -> bool:
    return CHECKED in cell.metadata.get("tags", [])


@pytest.mark.parametrize("name", [
    "00_start_here", "01_filter_pruning", "02_fskd", "03_mir", "04_block_dropping", "05_all_together",
    "06_without_the_data", "07_your_own_network", "template",
])  # fmt: skip
def test_the_series_has(name):
    assert FOLDER / f"{name}.ipynb" in PATHS


@each_notebook
def test_outputs_are_those_of_one_clean_run(notebook):
    nbformat.validate(notebook)
    assert not faults(notebook), "\n".join(faults(notebook))


@each_notebook
def test_cells_are_small(notebook):
    lengths = [len(cell.source.strip().splitlines()) for cell in code_cells(notebook)]
    assert statistics.median(lengths) <= 6, f"median {statistics.median(lengths)} lines"
    assert max(lengths) <= 25, f"one has {max(lengths)} lines"


@each_notebook
def test_it_opens_with_a_title_and_ends_with_what_was_promised(notebook):
    assert re.match(r"# \S", notebook.cells[0].source), notebook.cells[0].source[:80]
    headings = re.findall(r"^#+ +(.+?) *$", prose(notebook), re.MULTILINE)
    text = prose(notebook)
    promised, kept = (text.find(words) for words in ("What you will be able to do", "What you have learned"))
    assert 0 <= promised < kept, f"found the headings {headings}"


@each_notebook
def test_something_in_it_is_checked(notebook):
    assert any(map(is_checked, code_cells(notebook))), f"no cell is tagged {CHECKED}"


@each_notebook
def test_a_panel_is_swept_by_a_checked_cell(notebook):
    panels = set()
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(without_magics(cell.source))):
            made = node.value if isinstance(node, ast.Assign) else None
            called = ast.unparse(made.func) if isinstance(made, ast.Call) else ""
            if re.search(r"\bwidgets\.[A-Z]|\b\w*Panel$", called):
                panels.add(node.targets[0].id)
    checked = [cell.source for cell in code_cells(notebook) if is_checked(cell)]
    for panel in panels:
        sweeps = [source for source in checked if f"{panel}.set(" in source and "for " in source]
        assert sweeps, f"no cell tagged {CHECKED} loops over the knobs of `{panel}` with {panel}.set(...)"


@each_notebook
def test_pictures_have_alt_text(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    for output in outputs:
        for kind in output.get("data", {}):
            if kind.startswith("image/"):
                assert output.metadata.get(kind, {}).get("alt"), f"a {kind} output without alt text"
    pages = [prose(notebook), *(output.get("data", {}).get("text/html", "") for output in outputs)]
    for image in re.findall(r"<img[^>]*>", "\n".join(pages)):
        assert re.search(r"""alt=("[^"]+"|'[^']+')""", image), f"no alt text: {image[:120]}"
    assert not re.search(r"!\[\s*\]\(", prose(notebook)), "a Markdown image without alt text"


@each_notebook
def test_progress_bars_are_those_that_suit_where_they_run(notebook):
    sources = [cell.source for cell in code_cells(notebook)]
    assert not [source for source in sources if re.search(r"\bfrom tqdm import|\btqdm\.notebook", source)]


def without_magics(source: str) -> str:
    """A cell's source as plain Python: lines that only IPython understands become comments."""
    return re.sub(r"^(\s*)[%!]", r"\1pass  # ", source, flags=re.MULTILINE)
