"""Recipes: what was done to a teacher to make a student, as data; saving and loading without pickle."""

import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fsc.runtime import checksum, clone, fingerprint, public, written_whole
from fsc.surgery.factorized_convs import SCHEMES
from fsc.surgery.slices import slice_modules

FORMAT = 1
Recipe = dict[str, Any]
"""{"teacher": the teacher's fingerprint, "edits": [...]}, the attribute `fsc_recipe` of a student."""


@public
def recipe_of(student: nn.Module) -> list[dict[str, Any]]:
    """The edits that made `student` from its teacher, the first one first; empty if it is no student.

    Each edit is plain data, such as {"edit": "prune_filters", "asked": {...}, "slices": {...}}. `slices`
    names the channels that were kept, for every module that was sliced; they are counted in the net before
    this edit. An edit by `factorize` has `splits`, {"layer1.0.conv1": {"scheme": "svd", "rank": 5}}. An edit
    by `drop_blocks` has `dropped`, a list of names. Any edit may have a `report`, which `report_of` returns.
    """
    return _recipe(student).get("edits", [])


@public
def report_of(student: nn.Module, edit: str | None = None) -> pd.DataFrame:
    """The report of the last edit that made one, such as one row per layer; it survives `save` and `load`.

    Args:
        edit: name of an edit, such as "fskd": its last report instead.
    """
    edits = recipe_of(student)
    for done in reversed(edits):
        if "report" in done and edit in (None, done["edit"]):
            return pd.DataFrame(done["report"])
    made = ", ".join(f"{done['edit']} ({'with' if 'report' in done else 'no'} report)" for done in edits)
    raise ValueError(
        f"this {type(student).__name__} has no report{f' of {edit}' if edit else ''}.\n"
        f"  Its edits: {made or 'none, it is no student'}. Ask for one with a report, or recover it again."
    )


@public
def kept_channels(student: nn.Module, name: str, side: str = "out") -> Tensor | None:
    """The teacher's channels of module `name` that the student still has, ascending; None if it has them all.

    If `factorize` made two convs of "layer1.0.conv1", then "layer1.0.conv1.0" stands for its input side,
    "layer1.0.conv1.1" for its output side, and the name itself for both. Channels between the two are counted
    in the student that was factorized.

    Args:
        side: "out", the channels that the module makes, or "in", those that it reads.
    """
    if side not in ("out", "in"):
        raise ValueError(f"asked for side {side!r} of {name}; the sides are 'out' and 'in'.")
    if isinstance(dict(student.named_modules()).get(name), nn.modules.batchnorm._BatchNorm):
        side = "out"
    half = {"in": "0", "out": "1"}[side]
    name, kept = _first_name(student, name, half), None
    for edit in recipe_of(student):
        here = edit.get("slices", {}).get(name, {}).get(side)
        if here is not None:
            here = torch.tensor(here, dtype=torch.long)
            kept = here if kept is None else kept[here]
        if name in edit.get("splits", {}):
            name = f"{name}.{half}"
    return kept


def teacher_name(student: nn.Module, name: str) -> str | None:
    """The name of the teacher's module that has the same *output* as the student's module `name`.

    This is the same name, unless `factorize` made two convs of one. The last of the two has the output of the
    whole conv. The output of the first is nothing that the teacher has: None.

    >>> teacher_name(factorized, "layer1.0.conv1.1")
    'layer1.0.conv1'
    """
    first = _first_name(student, name, "1")
    parent = first.rpartition(".")[0]
    return None if any(parent in edit.get("splits", {}) for edit in recipe_of(student)) else first


def _first_name(student: nn.Module, name: str, half: str) -> str:
    """The module's name before all edits; the part `half` of a factorized conv has the name of the whole."""
    if name not in dict(student.named_modules()):
        found = f"asked for {name!r}; this {type(student).__name__} has no module of that name"
        raise ValueError(f"{found}.\n  Names are those of student.named_modules().")
    for edit in reversed(recipe_of(student)):
        whole = name.removesuffix(f".{half}")
        if whole in edit.get("splits", {}):
            name = whole
    return name


# -- writing and replaying: no other file touches the attribute `fsc_recipe` --------------------------------


def with_edit(student: nn.Module, source: nn.Module, edit: dict[str, Any]) -> nn.Module:
    """`student` itself, with a recipe: that of `source`, from which it was made, and then this edit."""
    before = _recipe(source) or {"teacher": fingerprint(source), "edits": []}
    student.fsc_recipe = {"teacher": before["teacher"], "edits": [*before["edits"], _plain(edit)]}
    return student


def _plain(value: Any) -> Any:
    """The value with Python's numbers in the place of numpy's and torch's, so that JSON can hold it."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic | Tensor) else value


def apply_edit(net: nn.Module, edit: Mapping[str, Any]) -> None:
    """Replay the "slices", "splits" and "dropped" of one edit, as in `recipe_of`, on `net`, in place."""
    slice_modules(net, edit.get("slices", {}))
    for name, split in edit.get("splits", {}).items():
        net.set_submodule(name, SCHEMES[split["scheme"]].split(net.get_submodule(name), split["rank"]))
    for name in edit.get("dropped", []):
        net.set_submodule(name, nn.Identity().train(net.get_submodule(name).training))


def set_aside(net: nn.Module) -> nn.Module:
    """`net` itself, without its recipe: from now on it is a teacher, and edits are counted from it."""
    vars(net).pop("fsc_recipe", None)
    return net


def recipe_in_front(student: nn.Module, of: nn.Module) -> nn.Module:
    """`student` itself; its recipe now starts with the edits of `of`, which served as its teacher."""
    before = _recipe(of)
    if before:
        student.fsc_recipe = {"teacher": before["teacher"], "edits": [*before["edits"], *recipe_of(student)]}
    return student


def teacher_fingerprint(student: nn.Module) -> str | None:
    """The fingerprint of the teacher that the student was made from; None for a net without a recipe."""
    return _recipe(student).get("teacher")


def _recipe(net: nn.Module) -> Recipe:
    return getattr(net, "fsc_recipe", {})


# -- files --------------------------------------------------------------------------------------------------


@public
def save(student: nn.Module, path: str | os.PathLike) -> Path:
    """Write recipe and weights, with a checksum, into one safetensors file; no code, no pickle.

    The file is complete or absent: it is written under another name and then moved.

    Raises:
        ValueError: the net has no recipe, so it could not be rebuilt.
        FileNotFoundError: the folder does not exist.
    """
    recipe = _recipe(student)
    if not recipe:
        found = f"this {type(student).__name__} has no recipe, so it could not be rebuilt from its teacher"
        raise ValueError(f"{found}.\n  Only students of this package have one. Save the net's state_dict.")
    path = Path(path)
    if not path.parent.is_dir() or path.is_dir():
        found = f"{path} is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise FileNotFoundError(f"{found}.\n  Name a file in a folder that exists.")
    state = sorted(student.state_dict().items())
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state}
    text = json.dumps({"format": FORMAT, "weights": checksum(tensors), **recipe})
    with written_whole(path) as unfinished:
        save_file(tensors, unfinished, metadata={"fsc": text})
    return path


@public
def load(path: str | os.PathLike, teacher: nn.Module) -> nn.Module:
    """The student that `save` wrote: a copy of `teacher` with the recipe's edits and weights, in eval mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or was not written by `save`; its recipe belongs to another teacher;
            or modules were changed by hand after the recipe's last edit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}.\n  Write one with fsc.save(student, path).")
    recipe, tensors = _read(path)
    found = fingerprint(teacher)
    if recipe["teacher"] != found:
        raise ValueError(
            f"the recipe in {path.name} was made for another teacher.\n"
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
            f"the weights in {path.name} are not those of its recipe: {err}\n"
            f"  The student's modules were changed after it was made; only training keeps a recipe true."
        ) from err
    student.fsc_recipe = recipe
    return student.eval()


def _read(path: Path) -> tuple[Recipe, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as err:
        raise ValueError(
            f"{path.name} is damaged or no safetensors file: {err}.\n  Save it again, or fetch it again."
        ) from err
    if "fsc" not in metadata:
        raise ValueError(f"{path.name} holds weights but no recipe.\n  Only files of fsc.save have one.")
    recipe = json.loads(metadata["fsc"])
    version = recipe.pop("format", None)
    if version != FORMAT:
        found = f"{path.name} is of format {version}; this version of fsc reads format {FORMAT}"
        raise ValueError(f"{found}.\n  Load it with the version that wrote it.")
    written = recipe.pop("weights", None)  # earlier releases wrote none
    if written is not None and written != checksum(dict(sorted(tensors.items()))):
        raise ValueError(
            f"the weights in {path.name} are damaged: they are not those that were saved (SHA-256).\n"
            f"  Save the student again, or fetch the file again."
        )
    return recipe, tensors
