"""The house: the order of its rooms, what the package never does, its language, the cost of an import."""

import ast
import importlib.util
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.api_table import README, SECTION, table

import fsc

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "fsc").rglob("*.py"))
SOURCES = [*PACKAGE, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "data").rglob("*.py"))]

ORDER = [
    "runtime", "arguments",
    "inputs", "graph", "surgery", "measure", "compress", "recover", "studies", "plots", "widgets",
]  # fmt: skip
"""A room imports only from rooms before it in this list; the first two are files at the root."""


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module, of: str) -> set[str]:
    """Modules of the package that the module `of` imports, in functions too: {"graph.tracing", "runtime"}."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            folder = ".".join(["fsc", *of.split(".")][: -node.level]) if node.level else ""
            origin = ".".join(filter(None, [folder, node.module]))
            found |= {f"{origin}.{name.name}" for name in node.names}
    return {known(name.split(".")[1:]) for name in found if name.split(".")[0] == "fsc"}


def known(parts: list[str]) -> str:
    """The longest beginning of a dotted name that is a file or folder of the package; "" is the package."""
    for end in range(len(parts), 0, -1):
        path = ROOT / "fsc" / Path(*parts[:end])
        if path.with_suffix(".py").is_file() or path.is_dir():
            return ".".join(parts[:end])
    return ""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "fsc").with_suffix("").parts).removesuffix(".__init__")


def out_of_order(tree: ast.Module, of: str) -> list[str]:
    """The imports of the module `of` that come from rooms after its own, or from the package itself."""
    room = of.split(".")[0]
    return [
        name for name in sorted(imports(tree, of))
        if name.split(".")[0] not in ORDER[: ORDER.index(room) + 1] or name == room == name.split(".")[0]
    ]


def docstrings(tree: ast.Module) -> list[str]:
    """The docstrings of a module, of its classes and of all functions in it."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return [text for node in ast.walk(tree) if isinstance(node, kinds) and (text := ast.get_docstring(node))]


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


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("import fsc", [""]),
        ("from fsc import prune_filters", [""]),
        ("from fsc import plots", ["plots"]),
        ("from ..studies.summary import points", ["studies.summary"]),
        ("def f():\n    import fsc.plots.drawing", ["plots.drawing"]),
        ("from . import mir", []),
        ("from fsc.graph.tracing import trace\nimport torch", []),
    ],
)
def test_an_import_against_the_order_is_seen_however_it_is_written(planted, found):
    assert out_of_order(ast.parse(planted), "recover.fskd") == found


@pytest.mark.parametrize("path", [path for path in PACKAGE if name_of(path) != "__init__"], ids=where)
def test_a_room_imports_only_from_rooms_before_it(path):
    assert not (found := out_of_order(tree_of(path), name_of(path))), f"{where(path)} imports {found}"


def test_there_is_no_circle_inside_a_room():
    reads = {name_of(path): imports(tree_of(path), name_of(path)) for path in PACKAGE}
    done: set[str] = set()
    while ready := [name for name in reads if name not in done and reads[name] - {name, ""} <= done]:
        done |= set(ready)
    assert not set(reads) - done - {""}, f"these import each other: {sorted(set(reads) - done)}"


def test_every_folder_of_the_package_is_a_room_that_says_in_one_sentence_what_it_is_for():
    for path in (ROOT / "fsc").glob("*/__init__.py"):
        assert path.parent.name in ORDER, f"{where(path.parent)} has no place in ORDER"
        (sentence, *rest) = tree_of(path).body
        assert ast.get_docstring(tree_of(path)).count("\n") == 0, f"{where(path)} says more than a sentence"
        assert not rest or path.parent.name in ("plots", "widgets"), f"{where(path)} says more"


@pytest.mark.parametrize("path", SOURCES, ids=where)
def test_a_file_opens_with_a_sentence(path):
    sentence = (ast.get_docstring(tree_of(path)) or "").split("\n")[0]
    assert sentence.endswith((".", ":")) and len(sentence.split()) > 3, f"{where(path)}: {sentence!r}"


@pytest.mark.parametrize("path", PACKAGE, ids=where)
def test_a_docstring_opens_with_a_sentence_and_no_question(path):
    first = [text.split("\n")[0] for text in docstrings(tree_of(path))]
    assert not [line for line in first if re.match(r"(What|Which|How|Where|Whether|Why|Who)\b", line)]
    assert not [line for line in first if not line.endswith(".")]


@pytest.mark.parametrize("path", PACKAGE, ids=where)
def test_a_sentence_says_one_row_per_site_and_never_a_row_a_site(path):
    text = "\n".join(node.value for node in ast.walk(tree_of(path))
                     if isinstance(node, ast.Constant) and isinstance(node.value, str))
    words = r"(a|one) (row|point|conv|label|fit|line|knob|method|column|figure|unknown) an? [a-z]+\b"
    assert not [found[0] for found in re.finditer(rf"\b{words}", text, re.IGNORECASE)]


@pytest.mark.parametrize("path", PACKAGE, ids=where)
def test_a_name_in_a_docstring_can_be_reached(path):
    for name in re.findall(r"\bfsc(?:\.[A-Za-z_]\w*)+", "\n".join(docstrings(tree_of(path)))):
        pkgutil.resolve_name(name)


def test_the_readme_lists_the_public_functions():
    assert SECTION.search(README.read_text())[0] == table(), "run: python tests/helpers/api_table.py"


@pytest.mark.parametrize("path", PACKAGE, ids=where)
def test_the_package_is_quiet_and_leaves_devices_and_names_alone(path):
    tree = tree_of(path)
    allowed = [function for function in tree.body if getattr(function, "name", "") == "setup"]
    prints = set(calls(tree, "print")) - {line for function in allowed for line in calls(function, "print")}
    assert not prints, f"{where(path)} prints on lines {sorted(prints)}"
    assert not (lines := calls(tree, "cuda")), f"{where(path)}: .cuda() on lines {lines}: use .to(device)"
    for node in ast.walk(tree):
        star = isinstance(node, ast.ImportFrom) and any(name.name == "*" for name in node.names)
        assert not star and not isinstance(node, ast.Global), f"{where(path)}: {ast.unparse(node)}"
        if isinstance(node, ast.ImportFrom) and node.module == "tqdm":
            pytest.fail(f"{where(path)}:{node.lineno}: take tqdm from tqdm.auto")


@pytest.mark.parametrize("name", fsc.__all__)
def test_a_public_name_is_there_and_says_what_it_is(name):
    found = getattr(fsc, name)
    assert inspect.getdoc(found), f"fsc.{name} has no docstring"
    if not inspect.ismodule(found):
        assert found.__module__.startswith("fsc."), f"fsc.{name} is not of this package"


def test_every_room_is_an_attribute_of_the_package():
    code = f"import fsc; print([getattr(fsc, room).__name__ for room in {ORDER}])"
    shown = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert ast.literal_eval(shown) == [f"fsc.{room}" for room in ORDER]


def test_a_name_that_is_not_public_is_refused():
    with pytest.raises(AttributeError, match="module 'fsc' has no attribute 'prune_everything'"):
        _ = fsc.prune_everything


def test_importing_fsc_costs_under_half_a_second_beyond_torch():
    # CPU time of a process of its own, the best of three: what else the machine does hardly enters.
    code = "import time, torch; start = time.process_time(); import fsc; print(time.process_time() - start)"
    code += "; import sys; assert not {'matplotlib', 'ipywidgets', 'pandas'} & set(sys.modules)"
    command = [sys.executable, "-c", code]
    seconds = [float(subprocess.check_output(command, cwd=ROOT, text=True)) for _ in range(3)]
    assert min(seconds) < 0.5, f"import fsc took {seconds} s beyond torch"


def test_no_file_holds_a_path_of_the_machine_it_was_written_on():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: which files belong to the project is unknown")
    homes = [r"/root/", r"/home/\w", r"/Users/\w", re.escape(f"{ROOT}/")]
    if len(ROOT.parent.parts) > 1 and ROOT.parent.name not in ("tmp", "usr", "opt", "var", "home"):
        homes.append(re.escape(f"{ROOT.parent}/"))
    path = re.compile(rf"(?<![\w.~/}}-])(?:{'|'.join(homes)})")
    found = []
    for name in listed.stdout.splitlines():
        file = ROOT / name
        if name in ("tests/test_house.py", "tests/helpers/store_outputs.py") or not file.is_file():
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
