"""Run notebooks in place, in the quick budget on the CPU, and store their outputs clean: `make notebooks`.

A notebook is left as it was, and the exit status is 1, if a cell raises or if nobody else could reproduce its
outputs. `faults` has the rules; tests/test_notebooks.py holds the stored notebooks to the same rules.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parents[2]
CHECKED = "nbval-check-output"
VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
BAR = re.compile(r"\d+%\||[\d?]+ ?it\b.*(it/s|s/it)|\d+it \[")  # tqdm's text where a widget cannot be shown
OWN = [f"/{folder}/" for folder in ("root", "home", "Users", "tmp", "usr", "opt", "var")]
OWN += [f"{folder}/" for folder in (Path.home(), ROOT.parent) if len(folder.parts) > 1]
PATH = re.compile(rf"(?<![\w.~:/<+=-])({'|'.join(map(re.escape, OWN))})[\w.-]+")


class NotStored(Exception):
    """Why a notebook was left as it was."""


def run(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Execute all cells in a fresh kernel that works in `folder`; the outputs go into `notebook` itself.

    Raises:
        NotStored: a cell raised, took over 300 s, or ended the kernel.
    """
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
    )
    quick = os.environ | {"FSC_BUDGET": "quick", "CUDA_VISIBLE_DEVICES": ""}
    try:
        # Only the kernel's own log goes to DEVNULL: what a cell writes to stderr is an output.
        return client.execute(env=quick, stderr=subprocess.DEVNULL)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        uncoloured = re.sub(r"\x1b\[[\d;]*m", "", str(error))
        raise NotStored(f"a cell failed.\n{uncoloured}") from error


def clean(notebook: nbformat.NotebookNode) -> list[str]:
    """Remove, in place, what differs from run to run or needs a kernel; return what else was thrown away.

    Progress bars and stderr are removed. A panel keeps its words and loses its view, which needs a kernel. A
    picture keeps its PNG and loses its copy in HTML. The metadata keep the language and the tags of cells.

    Raises:
        NotStored: a cell whose output is checked would lose a part of it: the check could not pass.
    """
    said = []
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        tags = {key: value for key, value in cell.metadata.items() if key in ("tags", "jupyter")}
        cell.metadata = nbformat.from_dict(tags)
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:  # pages that show notebooks without a kernel may drop an <img> of HTML
                data.pop("text/html", None)
            view = data.pop(VIEW, None)
            bar = view and BAR.search(output.data.get("text/plain", ""))
            error_stream = output.get("name") == "stderr"
            if (bar or error_stream) and CHECKED in cell.metadata.get("tags", []):
                what = "a progress bar" if bar else f"stderr ({output.text.strip()[:100]})"
                raise NotStored(f"cell {number} is tagged {CHECKED}, but shows {what}: use another cell.")
            if error_stream:
                said.append(f"cell {number}: stderr not stored: {output.text.strip().splitlines()[-1][:160]}")
            elif not bar:
                kept.append(output)
        cell.outputs = kept
    return said


def faults(notebook: nbformat.NotebookNode) -> list[str]:
    """The faults of the stored outputs, one sentence for each; none if they come from one clean run."""
    code = [(i, c) for i, c in enumerate(notebook.cells) if c.cell_type == "code" and c.source.strip()]
    counts = [cell.execution_count for _, cell in code]
    found = []
    if counts != list(range(1, len(code) + 1)):
        found.append(f"execution counts are {counts}, not 1 to {len(code)}: not from one clean run.")
    for number, cell in code:
        if CHECKED in cell.metadata.get("tags", []) and not cell.outputs:
            found.append(f"cell {number} is tagged {CHECKED}, but has no stored output to check.")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell {number} stores an error: {output.ename}: {output.evalue}")
            if output.get("name") == "stderr":
                found.append(f"cell {number} stores stderr: {output.text.strip()[:100]}")
            text = "\n".join(_texts(output))
            if VIEW in output.get("data", {}) or BAR.search(text):
                found.append(f"cell {number} stores a widget or a progress bar, which needs a kernel.")
            if path := PATH.search(text):
                found.append(f"cell {number} shows a path of the machine it ran on: {path[0]}")
    if STATE in notebook.metadata.get("widgets", {}) and "state" not in notebook.metadata.widgets[STATE]:
        found.append("its widget state has no `state`: GitHub refuses to show such a notebook.")
    return found


def store(path: Path) -> list[str]:
    """Run the notebook at `path` and replace it by one with clean outputs; return what was thrown away.

    Raises:
        NotStored: a cell failed, or the outputs have faults. The file is untouched.
    """
    notebook = nbformat.read(path, as_version=4)
    run(notebook, path.parent)
    said = clean(notebook)
    if wrong := faults(notebook):
        raise NotStored("\n".join(wrong))
    nbformat.validate(notebook)
    beside = path.with_name(f".{path.name}.new")
    nbformat.write(notebook, beside)
    beside.replace(path)
    return said


def _texts(output: nbformat.NotebookNode) -> list[str]:
    """The text of an output, without pictures."""
    data = output.get("data", {})
    words = [v for kind, v in data.items() if kind.startswith("text/")] + [output.get("text", "")]
    return [re.sub(r"data:image/[^\"']*", "", text) for text in words]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    failed = 0
    for path in parser.parse_args().notebooks:
        start = time.perf_counter()
        try:
            said = store(path)
        except NotStored as why:
            words = str(why).replace("\n", "\n  ")
            print(f"{path}: NOT stored, left as it was:\n  {words}", file=sys.stderr)
            failed += 1
        else:
            print("\n  ".join([f"{path}: stored, ran {time.perf_counter() - start:.0f} s", *said]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
