"""A student is its teacher, a recipe and weights: the recipe as data, and saving and loading without pickle."""

import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fsc.runtime import clone, fingerprint, public
from fsc.surgery.factorized_convs import SCHEMES
from fsc.surgery.slices import slice_modules

FORMAT = 1


@public
def recipe_of(student: nn.Module) -> list[dict[str, Any]]:
    """The edits that made `student` from its teacher, first to last; empty for a net that is no student.

    Each edit is plain data, {"edit": "prune_filters", "asked": {...}, "slices": {...}}: `slices` names the channels
    kept of every module that was sliced, counted in the net that the edit started from. That of `factorize` has
    `splits`, {"layer1.0.conv1": {"scheme": "svd", "rank": 5}}; that of `drop_blocks` has `dropped`, a list of names;
    any may have a `report`, which `report_of` returns.
    """
    return getattr(student, "fsc_recipe", {"edits": []})["edits"]


def with_edit(student: nn.Module, source: nn.Module, edit: dict[str, Any]) -> nn.Module:
    """Write on `student`, made from `source` by `edit`, how it came about; returns it."""
    before = getattr(source, "fsc_recipe", None) or {"teacher": fingerprint(source), "edits": []}
    student.fsc_recipe = {"teacher": before["teacher"], "edits": [*before["edits"], edit]}
    return student


def apply_edit(net: nn.Module, edit: Mapping[str, Any]) -> None:
    """Do to `net`, in place, what one edit of a recipe says: channels sliced, convs split in two, blocks dropped.

    Args:
        edit: "slices", as `slice_modules` takes them; "splits", {"layer1.0.conv1": {"scheme": "svd", "rank": 5}};
            "dropped", names of modules that become `nn.Identity`. Each may be missing.
    """
    slice_modules(net, edit.get("slices", {}))
    for name, split in edit.get("splits", {}).items():
        net.set_submodule(name, SCHEMES[split["scheme"]].split(net.get_submodule(name), split["rank"]))
    for name in edit.get("dropped", []):
        net.set_submodule(name, nn.Identity().train(net.get_submodule(name).training))


@public
def report_of(student: nn.Module, edit: str | None = None) -> pd.DataFrame:
    """What the last edit that made a report says of its work, a row a place; it survives `save` and `load`.

    Args:
        edit: the last edit of this name instead, such as "fskd".

    Raises:
        ValueError: no such edit with a report.

    >>> fsc.report_of(fsc.fskd(teacher, student, images))
    """
    edits = recipe_of(student)
    for done in reversed(edits):
        if "report" in done and edit in (None, done["edit"]):
            return pd.DataFrame(done["report"])
    made = ", ".join(f"{done['edit']} ({'with' if 'report' in done else 'no'} report)" for done in edits)
    raise ValueError(
        f"report_of: this {type(student).__name__} has no report{f' of {edit}' if edit else ''}.\n"
        f"  Its edits: {made or 'none, it is no student'}.\n"
        f"  Ask for one that has a report, or recover the student again."
    )


def teacher_name(student: nn.Module, name: str) -> str | None:
    """The teacher's module whose *output* the student's module `name` gives.

    That is the module of the same name, but where `factorize` made two convs of one: the last of them gives the output
    of the whole, and what comes out of the first, None, is nothing that the teacher has.

    Raises:
        ValueError: no such module.

    >>> teacher_name(factorized, "layer1.0.conv1.1")
    'layer1.0.conv1'
    """
    _module("teacher_name", student, name)
    for edit in reversed(recipe_of(student)):
        whole, _, half = name.rpartition(".")
        if whole in edit.get("splits", {}):
            if half != "1":
                return None
            name = whole
    return name


@public
def kept_channels(student: nn.Module, name: str, side: str = "out") -> Tensor | None:
    """Which of the teacher's channels of module `name` the student still has, ascending; None if it has them all.

    Of a conv that `factorize` made two of, "layer1.0.conv1", "layer1.0.conv1.0" answers for what it reads,
    "layer1.0.conv1.1" for what it makes, and the name itself for both. Channels between the two are counted in the
    student that was factorized.

    Args:
        side: "out", the channels that the module makes, or "in", those that it reads; the same for a BatchNorm.

    Raises:
        ValueError: no such module or side.
    """
    if side not in ("out", "in"):
        raise ValueError(f"kept_channels: asked for side {side!r} of {name}; the sides are 'out' and 'in'.")
    module = _module("kept_channels", student, name)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        side = "out"
    edits, outer = recipe_of(student), {"out": "1", "in": "0"}[side]
    for edit in reversed(edits):  # its name before any conv was split
        whole, _, half = name.rpartition(".")
        if whole in edit.get("splits", {}) and half == outer:
            name = whole
    kept: Tensor | None = None
    for edit in edits:
        here = edit.get("slices", {}).get(name, {}).get(side)
        if here is not None:
            here = torch.tensor(here, dtype=torch.long)
            kept = here if kept is None else kept[here]
        if name in edit.get("splits", {}):
            name = f"{name}.{outer}"
    return kept


def _module(who: str, student: nn.Module, name: str) -> nn.Module:
    module = dict(student.named_modules()).get(name)
    if module is None:
        raise ValueError(
            f"{who}: asked for {name!r}; this {type(student).__name__} has no such a module.\n"
            f"  Names are those of student.named_modules()."
        )
    return module


@public
def save(student: nn.Module, path: str | os.PathLike) -> Path:
    """Write recipe and weights into one safetensors file; no code, no pickle.

    The file is complete or absent: it is written beside its place and moved there.

    Raises:
        ValueError: the net has no recipe, so nobody could rebuild it.
        FileNotFoundError: the folder does not exist.
    """
    recipe = getattr(student, "fsc_recipe", None)
    if recipe is None:
        raise ValueError(
            f"save: this {type(student).__name__} has no recipe, so it could not be rebuilt from its teacher.\n"
            f"  Students made by this package have one. For any other net save its state_dict."
        )
    path = Path(path)
    if not path.parent.is_dir() or path.is_dir():
        found = f"{path} is a folder" if path.is_dir() else f"no folder {path.parent} to write {path.name} into"
        raise FileNotFoundError(f"save: {found}.\n  Name a file in a folder that exists.")
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in student.state_dict().items()}
    text = json.dumps({"format": FORMAT, **recipe})
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(handle)
    try:
        save_file(tensors, beside, metadata={"fsc": text})
        os.chmod(beside, 0o666 & ~_umask())  # mkstemp lets nobody else read
        os.replace(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@public
def load(path: str | os.PathLike, teacher: nn.Module) -> nn.Module:
    """Rebuild a student that `save` wrote: a copy of `teacher`, the recipe's edits, the file's weights. In eval mode.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: the file is damaged, was not written by `save`, its recipe belongs to another teacher, or modules
            were changed by hand after the recipe's last edit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load: no file {path}.\n  Write one with fsc.save(student, path).")
    recipe, tensors = _read(path)
    found = fingerprint(teacher)
    if recipe["teacher"] != found:
        raise ValueError(
            f"load: the recipe in {path.name} was made for another teacher.\n"
            f"  Asked for: teacher {recipe['teacher'][:12]}; given: a {type(teacher).__name__}, {found[:12]} "
            f"(SHA-256 of names, shapes and weights).\n"
            f"  Pass the very teacher that the student was made from, before any training of it."
        )
    student = clone(teacher)
    for edit in recipe["edits"]:
        apply_edit(student, edit)
    weights = OrderedDict(tensors)
    weights._metadata = student.state_dict()._metadata  # versions, which MNASNet asks for
    try:
        student.load_state_dict(weights)
    except RuntimeError as err:
        raise ValueError(
            f"load: the weights in {path.name} are not those of its recipe: {err}\n"
            f"  The student's modules were changed after it was made; only training keeps a recipe true."
        ) from err
    student.fsc_recipe = recipe
    return student.eval()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as err:
        raise ValueError(
            f"load: {path.name} ({path.stat().st_size} bytes) is damaged or no safetensors file: {err}.\n"
            f"  Save the student again, or fetch the file again."
        ) from err
    if "fsc" not in metadata:
        raise ValueError(f"load: {path.name} holds weights but no recipe.\n  Only files of fsc.save can be rebuilt.")
    recipe = json.loads(metadata["fsc"])
    version = recipe.pop("format", None)
    if version != FORMAT:
        raise ValueError(
            f"load: {path.name} is of format {version}; this version of fsc reads format {FORMAT}.\n"
            f"  Load it with the version that wrote it."
        )
    return recipe, tensors
