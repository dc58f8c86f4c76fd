"""The house: which file may import which, how long a file is, what the package never does, what an import costs."""

import ast
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fsc

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "fsc").glob("*.py"))
SOURCES = [*PACKAGE, *sorted((ROOT / "tests").glob("*.py")), *sorted((ROOT / "data").glob("*.py"))]

# From the ground up: a file imports only from lines above its own.
FLOORS = """
    runtime shapes nets augment datasets stores ratios    # ground
    kinds
    pictures
    tasks teachers
    slices splits lstsq norms               # exact edits and numbers
    graph surgery speed operations
    channels recipe measure features lockstep regions
    holes
    sites
    cells                                   # build
    criteria
    filters lowrank blocks
    targets
    descent                                 # recover
    adaptors match
    align baselines mimic absorb around savings
    evidence
    choose
    methods                                 # show
    runs
    workers
    sweeps
    drawing background
    points
    curves histories blockplots frontier panels
    plots explorer
    widgets
"""
FLOOR_OF = {name: i for i, line in enumerate(FLOORS.splitlines()) for name in line.split("#")[0].split()}


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> set[str]:
    """Modules of the package that a file imports, inside functions too; `fsc` stands for the package itself."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {n.name.removeprefix("fsc.") for n in node.names if n.name.split(".")[0] == "fsc"}
        elif isinstance(node, ast.ImportFrom):
            origin = ("fsc." + (node.module or "")).rstrip(".") if node.level else node.module
            if origin == "fsc":  # a public name from the package itself could come from any floor
                found |= {n.name if n.name in FLOOR_OF else "fsc" for n in node.names}
            elif origin.startswith("fsc."):
                found.add(origin.removeprefix("fsc."))
    return found


def calls(tree: ast.AST, name: str) -> list[int]:
    """Lines on which `name(...)` or `something.name(...)` is called."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            if name == (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", None)):
                lines.append(node.lineno)
    return lines


def where(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_an_import_is_seen_however_it_is_written():
    text = "import fsc\nfrom fsc import graph\nfrom . import nets\nfrom .tasks import Task\ndef f():\n import fsc.plots"
    assert imported(ast.parse(text)) == {"fsc", "graph", "nets", "tasks", "plots"}
    assert imported(ast.parse("from fsc import prune_filters\nimport torch")) == {"fsc"}


@pytest.mark.parametrize("path", [p for p in PACKAGE if p.stem != "__init__"], ids=where)
def test_a_file_imports_only_from_floors_below(path):
    assert path.stem in FLOOR_OF, f"{where(path)} stands on no floor: give it one in FLOORS"
    too_high = [name for name in imported(tree_of(path)) if FLOOR_OF.get(name, 99) >= FLOOR_OF[path.stem]]
    assert not too_high, f"{where(path)} imports {too_high}, which are not below it"


@pytest.mark.parametrize("path", SOURCES, ids=where)
def test_a_file_is_short_and_opens_with_a_sentence(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 300, f"{where(path)} has {lines} lines"
    sentence = (ast.get_docstring(tree_of(path)) or "").split("\n")[0]
    assert sentence.endswith((".", ":")) and len(sentence.split()) > 3, f"{where(path)} opens with {sentence!r}"


@pytest.mark.parametrize("path", PACKAGE, ids=where)
def test_the_package_is_quiet_and_leaves_devices_and_names_alone(path):
    tree = tree_of(path)
    allowed = [f for f in tree.body if isinstance(f, ast.FunctionDef) and (path.stem, f.name) == ("runtime", "setup")]
    silent = set(calls(tree, "print")) - {line for function in allowed for line in calls(function, "print")}
    assert not silent, f"{where(path)} prints on lines {sorted(silent)}"
    assert not calls(tree, "cuda"), f"{where(path)} calls .cuda() on lines {calls(tree, 'cuda')}: move with .to(device)"
    for node in ast.walk(tree):
        star = isinstance(node, ast.ImportFrom) and any(name.name == "*" for name in node.names)
        assert not star and not isinstance(node, ast.Global), f"{where(path)}:{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.ImportFrom) and node.module == "tqdm":
            pytest.fail(f"{where(path)}:{node.lineno}: take tqdm from tqdm.auto")


def test_no_file_bears_the_name_of_a_public_function():
    assert not {p.stem for p in PACKAGE} & {name for name in fsc.__all__ if not inspect.ismodule(getattr(fsc, name))}


@pytest.mark.parametrize("name", fsc.__all__)
def test_a_public_name_is_there_and_says_what_it_is(name):
    found = getattr(fsc, name)
    assert inspect.getdoc(found), f"fsc.{name} has no docstring"
    if not inspect.ismodule(found):
        assert found.__module__.startswith("fsc."), f"fsc.{name} is not of this package"


def test_a_name_that_is_not_public_is_refused():
    with pytest.raises(AttributeError, match="module 'fsc' has no attribute 'prune_everything'"):
        _ = fsc.prune_everything


def test_importing_fsc_costs_under_half_a_second_beyond_torch():
    # CPU time of a process of its own, the best of three: what else the machine does hardly enters.
    code = "import time, torch; start = time.process_time(); import fsc; print(time.process_time() - start)"
    code += "; import sys; assert not {'matplotlib', 'ipywidgets', 'pandas'} & set(sys.modules)"
    seconds = [float(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)) for _ in range(3)]
    assert min(seconds) < 0.5, f"import fsc took {seconds} s beyond torch"


def test_no_file_holds_a_path_of_the_machine_it_was_written_on():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout: which files belong to the project is unknown")
    homes = [r"/root/", r"/home/\w", r"/Users/\w", re.escape(f"{ROOT}/")]
    if len(ROOT.parent.parts) > 1 and ROOT.parent.name not in ("tmp", "usr", "opt", "var", "home"):
        homes.append(re.escape(f"{ROOT.parent}/"))
    path = re.compile(rf"(?<![\w.~/}}-])(?:{'|'.join(homes)})")
    found = []
    for name in listed.stdout.splitlines():
        file = ROOT / name
        if name in ("tests/test_house.py", "tests/store_outputs.py") or not file.is_file():
            continue  # these two name such paths to look for them
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{name}: {text[m.start() - 20 : m.end() + 20]!r}" for m in path.finditer(text)]
    assert not found, "\n".join(found)


def test_the_package_is_importable_from_this_checkout():
    found = Path(importlib.util.find_spec("fsc").origin)
    assert found.parent == ROOT / "fsc", f"tests run against {found}: run `make venv` here"
