"""Filter pruning: in every conv remove the filters that rank lowest, and slice whatever else they touch."""

import difflib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from fsc.cells import Cell, find_cells, why_kept
from fsc.channels import Channels, follow_channels
from fsc.criteria import Criterion, scorer
from fsc.graph import clone, trace, unused_modules
from fsc.recipe import with_edit
from fsc.runtime import device_of, evaluating
from fsc.surgery import slice_modules

Ratio = float | Mapping[str, float]


class NotExact(ValueError):
    """An edit that is exact by design changed what the net computes; it is refused."""


def prune_filters(
    teacher: nn.Module,
    ratio: Ratio,
    *,
    criterion: str | Criterion = "l1",
    coupled: bool = False,
    seed: int = 0,
    example: Tensor | None = None,
) -> nn.Module:
    """A smaller copy of `teacher`: in every conv the given share of filters is gone, with all that hung on them.

    By default only channels inside blocks go, and those that blocks hand to each other stay, as the few-sample papers
    (FSKD, MiR, PRACTISE) prune. The student equals the teacher with the removed channels set to zero *behind* their
    activation; this is checked on a random image before the student is returned.

    Args:
        teacher: any CNN that `torch.fx` traces; not changed. A student goes too: its recipe is continued.
        ratio: share of filters to remove, inside (0, 1), the same for every conv; or by name,
            {"layer2.0.conv1": 0.75, "*": 0.5}, where convs that no entry names stay whole.
        criterion: "l1", "l2", "bn", "random", or a function (conv, bn or None) -> (C_out,); the lowest scores go.
        coupled: also prune channels that adds, concatenations or the classifier tie together, each group as one.
        seed: of criterion "random".
        example: (N, C, H, W), needed only for nets that take no usual image size.

    Returns:
        The student, in eval mode, where the teacher lives, its parameters trainable, its recipe attached.

    Raises:
        ValueError: a ratio outside (0, 1), one that empties a layer or removes nothing; no prunable conv of a name.
        NotTraceable: `torch.fx` cannot follow the net.
        NotExact: the student is not the teacher without these channels.

    >>> student = prune_filters(teacher, 0.5)
    >>> recipe_of(student)[0]["slices"]["layer1.0.conv1"]["out"]
    [0, 3, 4, 7, 9, 10, 12, 15]
    """
    _check_ratio(ratio)
    graph = trace(teacher, example)
    channels = follow_channels(graph)
    cells = find_cells(channels, coupled=coupled)
    shares = _shares(cells, ratio, channels, teacher, coupled)
    removed = _choose(cells, shares, scorer(criterion, channels, seed=seed))
    slices = _slices(channels, removed)
    student = clone(teacher).eval()
    slice_modules(student, slices)
    _check_exact(teacher, student, channels, removed, graph.meta["example"])
    if coupled:
        _tell_what_stays(channels, unused_modules(teacher, graph))
    asked = {
        "ratio": dict(ratio) if isinstance(ratio, Mapping) else ratio,
        "criterion": criterion if isinstance(criterion, str) else getattr(criterion, "__name__", "function"),
        "coupled": coupled,
        "seed": seed,
    }
    return with_edit(student, teacher, {"edit": "prune_filters", "asked": asked, "slices": slices})


def prunable_layers(teacher: nn.Module, *, coupled: bool = False, example: Tensor | None = None) -> dict[str, int]:
    """The convs that `prune_filters` prunes and how many filters may go from each: {"layer1.0.conv1": 16, ...}."""
    counts: dict[str, int] = {}
    for cell in find_cells(follow_channels(trace(teacher, example)), coupled=coupled):
        counts[cell.makers[0]] = counts.get(cell.makers[0], 0) + len(cell.labels)
    return counts


def _check_ratio(ratio: Ratio) -> None:
    for name, value in ratio.items() if isinstance(ratio, Mapping) else [("*", ratio)]:
        if isinstance(value, bool) or not isinstance(value, float | int) or not 0 < value < 1:
            of = "" if name == "*" else f" for {name}"
            raise ValueError(
                f"prune_filters: ratio {value!r}{of} is not inside (0, 1).\n"
                f"  It is the share of filters to remove: 0.5 removes half of them."
            )


def _shares(cells: list[Cell], ratio: Ratio, channels: Channels, teacher: nn.Module, coupled: bool) -> list[float]:
    """The share to remove from each cell."""
    reasons = why_kept(channels, coupled=coupled)
    if not cells:
        why = "\n  ".join(f"{name}: {reason}." for name, reason in list(reasons.items())[:4]) or "It calls no Conv2d."
        raise ValueError(f"prune_filters: no filter of this {type(teacher).__name__} can go.\n  {why}")
    if not isinstance(ratio, Mapping):
        return [float(ratio)] * len(cells)
    prunable = list(dict.fromkeys(maker for cell in cells for maker in cell.makers))
    for name in ratio:
        if name in prunable or name == "*":
            continue
        if name in dict(teacher.named_modules()):
            why = reasons.get(name, "it is not a conv that makes channels of its own")
            raise ValueError(f"prune_filters: {name} cannot be pruned: {why}.\n  Prunable: {', '.join(prunable)}.")
        near = difflib.get_close_matches(name, prunable, n=3)
        raise ValueError(
            f'prune_filters: this {type(teacher).__name__} has no module "{name}".\n'
            f"  {'Near it: ' + ', '.join(near) if near else 'Prunable: ' + ', '.join(prunable)}."
        )
    shares = []
    for cell in cells:
        given = {name: ratio[name] for name in cell.makers if name in ratio}
        if len(set(given.values())) > 1:
            raise ValueError(
                f"prune_filters: {' and '.join(given)} share their channels but were given different ratios: {given}.\n"
                f"  Give a ratio to one of them only."
            )
        shares.append(float(next(iter(given.values()), ratio.get("*", 0.0))))
    return shares


def _choose(cells: list[Cell], shares: list[float], score: Callable[[Cell], Tensor]) -> np.ndarray:
    """The labels that go: of each cell its share, lowest scores first."""
    removed: list[int] = []
    whole: dict[str, int] = {}
    for cell, share in zip(cells, shares, strict=True):
        size, name = len(cell.labels), cell.makers[0]
        gone = round(share * size)
        if gone == size:
            raise ValueError(
                f"prune_filters: ratio {share:g} leaves {name} with 0 of {size} filters.\n"
                f"  Every layer (every group of a grouped conv) must keep at least 1 filter.\n"
                f"  Use a smaller ratio, or give this layer its own: "
                f'ratio={{"{name}": {(size - 1) / size:.2g}, "*": {share:g}}}.'
            )
        if share and not gone:
            whole[name] = size
        if gone:
            removed.extend(cell.labels[i] for i in score(cell).argsort(stable=True)[:gone].tolist())
    narrow = ", ".join(f"{name} ({size})" for name, size in whole.items())
    if not removed:
        raise ValueError(
            f"prune_filters: this ratio removes nothing: it is less than half a filter in {narrow or 'every layer'}.\n"
            f"  Use a larger ratio."
        )
    if whole:
        warnings.warn(f"prune_filters: less than half a filter to remove, left whole: {narrow}.", stacklevel=3)
    return np.array(removed)


def _tell_what_stays(channels: Channels, unused: list[str]) -> None:
    """Of a coupled pruning, say which convs kept channels all the same, and why."""
    kept: dict[str, list[str]] = {}
    for name, why in why_kept(channels, coupled=True).items():
        kept.setdefault(why, []).append(name)
    if unused:
        kept["nothing uses them in eval mode"] = unused
    if kept:
        lines = [f"  {', '.join(names)}: {why}." for why, names in kept.items()]
        warnings.warn("prune_filters: coupled=True, yet these stay as they are:\n" + "\n".join(lines), stacklevel=3)


def _slices(channels: Channels, removed: np.ndarray) -> dict[str, dict[str, list[int]]]:
    slices: dict[str, dict[str, list[int]]] = {}
    for port in channels.ports:
        kept = np.flatnonzero(~np.isin(port.labels, removed))
        if len(kept) < len(port.labels):
            slices.setdefault(port.name, {})[port.side] = kept.tolist()
    return slices


def _check_exact(
    teacher: nn.Module, student: nn.Module, channels: Channels, removed: np.ndarray, example: Tensor
) -> None:
    """The student must compute what the teacher computes when every reader of a removed channel sees zero there."""
    x = example.to(device_of(teacher))
    with torch.no_grad(), evaluating(teacher), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        with _blind(channels, removed):
            expected = teacher(x)
        try:
            found = student(x)
        except RuntimeError as err:
            raise NotExact(
                f"prune_filters: {type(teacher).__name__} does not run without these channels: {err}\n"
                f"  Its forward counts on fixed numbers of channels; name the layers to prune with ratio={{...}}."
            ) from err
    error = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not error <= 1e-4:  # float32 rounding over a deep net stays near 1e-6
        raise NotExact(
            f"prune_filters: the sliced {type(teacher).__name__} differs from the one with zeroed channels "
            f"(relative error {error:.1e}).\n  Something in its forward treats channels in a way that fsc does not see."
        )


@contextmanager
def _blind(channels: Channels, removed: np.ndarray) -> Iterator[None]:
    """While it lasts, modules that read a removed channel read zeros there."""
    handles = []
    for port in channels.ports:
        stays = torch.from_numpy(~np.isin(port.labels, removed))
        if port.side == "in" and not stays.all():
            mask = stays.view(-1, 1, 1) if isinstance(port.module, nn.Conv2d) else stays
            handles.append(port.module.register_forward_pre_hook(partial(_hide, mask)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hide(mask: Tensor, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0] * mask.to(args[0]),)
