"""Filter pruning: in every conv remove the filters that rank lowest, and slice whatever else they touch."""

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from fsc.arguments import Ratio, check_images, checked_ratio
from fsc.compress.channel_groups import TIED, Cell, find_cells, why_kept
from fsc.compress.criteria import Criterion, scorer
from fsc.graph.channels import OUTPUT, Channels, follow_channels
from fsc.graph.tracing import trace, unused_modules
from fsc.runtime import clone, device_of, public, warn
from fsc.surgery.exactness import NotExact
from fsc.surgery.recipe import with_edit
from fsc.surgery.slices import Slices, slice_modules


@public
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
        criterion: "l1", "l2", "bn", "random", or a function (conv, bn or None) -> (C_out,); the lowest scores go. Both
            are the teacher's own modules, so a function may know them again from a forward pass of it.
        coupled: also prune channels that adds, concatenations or the classifier tie together, each group as one.
        seed: of criterion "random".
        example: (N, C, H, W), needed only for nets that take no usual image size.

    Returns:
        The student, in eval mode, where the teacher lives, its parameters trainable, its recipe attached.

    Raises:
        ValueError: a ratio outside (0, 1), one that empties a layer or removes nothing; no prunable conv of a name.
        NotTraceable: `torch.fx` cannot follow the net.
        NotExact: the student is not the teacher without these channels.

    Warns of convs that stay whole although nothing ties them, and of modules that the forward never came by.

    >>> student = prune_filters(teacher, 0.5)
    >>> recipe_of(student)[0]["slices"]["layer1.0.conv1"]["out"]
    [0, 3, 4, 7, 9, 10, 12, 15]
    """
    ratio = checked_ratio(ratio, "filters")
    if example is not None:
        check_images(example)
    graph = trace(teacher, example)
    channels = follow_channels(graph)
    cells = find_cells(channels, coupled=coupled)
    shares = _shares(cells, ratio, channels, teacher, coupled)
    removed = _choose(cells, shares, scorer(criterion, channels, seed=seed))
    slices = _slices(channels, removed)
    student = clone(teacher).eval()
    _slice_exactly(student, slices, channels, removed, graph.meta["example"])
    _tell_what_stays(channels, unused_modules(teacher, graph), coupled)
    asked = {
        "ratio": ratio,
        "criterion": criterion if isinstance(criterion, str) else getattr(criterion, "__name__", "function"),
        "coupled": bool(coupled),
        "seed": int(seed),
    }
    return with_edit(student, teacher, {"edit": "prune_filters", "asked": asked, "slices": slices})


@public
def prunable_layers(teacher: nn.Module, *, coupled: bool = False, example: Tensor | None = None) -> dict[str, int]:
    """The convs that `prune_filters` prunes and how many filters may go from each: {"layer1.0.conv1": 16, ...}."""
    counts: dict[str, int] = {}
    for cell in find_cells(follow_channels(trace(teacher, example)), coupled=coupled):
        counts[cell.makers[0]] = counts.get(cell.makers[0], 0) + len(cell.labels)
    return counts


def _shares(cells: list[Cell], ratio: Ratio, channels: Channels, teacher: nn.Module, coupled: bool) -> list[float]:
    """The share to remove from each cell."""
    reasons = why_kept(channels, coupled=coupled)
    if not cells:
        why = "\n  ".join(f"{name}: {reason}." for name, reason in list(reasons.items())[:4]) or "It calls no Conv2d."
        raise ValueError(f"prune_filters: no filter of this {type(teacher).__name__} can go.\n  {why}")
    if not isinstance(ratio, Mapping):
        return [float(ratio)] * len(cells)
    prunable = list(dict.fromkeys(maker for cell in cells for maker in cell.makers))
    firsts = ", ".join(dict.fromkeys(cell.makers[0] for cell in cells))  # as `prunable_layers` names them
    for name in ratio:
        if name in prunable or name == "*":
            continue
        if name in dict(teacher.named_modules()):
            why = reasons.get(name, "it is not a conv that makes channels of its own")
            raise ValueError(f"prune_filters: {name} cannot be pruned: {why}.\n  Prunable: {firsts}.")
        near = difflib.get_close_matches(name, prunable, n=3)
        raise ValueError(
            f'prune_filters: this {type(teacher).__name__} has no module "{name}".\n'
            f"  {'Near it: ' + ', '.join(near) if near else 'Prunable: ' + firsts}."
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
                f"  Use a smaller ratio" + (
                    f', or give this layer its own: ratio={{"{name}": {(size - 1) / size:.4g}, "*": {share:g}}}.'
                    if size > 1 else ", or a dict that does not name this layer."
                )
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
        warn(f"prune_filters: less than half a filter to remove, left whole: {narrow}.")
    return np.array(removed)


def _tell_what_stays(channels: Channels, unused: list[str], coupled: bool) -> None:
    """Say which convs keep channels that were asked for, and why, and what the eval-mode forward never came by."""
    kept: dict[str, list[str]] = {}
    for name, why in why_kept(channels, coupled=coupled).items():
        if why not in (TIED, OUTPUT):
            kept.setdefault(why, []).append(name)
    if unused:
        kept["the forward does not use them in eval mode"] = unused
    if kept:
        lines = [f"  {', '.join(names)}: {why}." for why, names in kept.items()]
        warn("prune_filters: these stay as they are:\n" + "\n".join(lines))


def _slices(channels: Channels, removed: np.ndarray) -> dict[str, dict[str, list[int]]]:
    slices: dict[str, dict[str, list[int]]] = {}
    for port in channels.ports:
        kept = np.flatnonzero(~np.isin(port.labels, removed))
        if len(kept) < len(port.labels):
            slices.setdefault(port.name, {})[port.side] = kept.tolist()
    return slices


def _slice_exactly(
    net: nn.Module, slices: Slices, channels: Channels, removed: np.ndarray, example: Tensor
) -> None:
    """Slice `net`: it must go on computing what it computes when every reader of a removed channel sees zero there."""
    x, kind = example.to(device_of(net)), type(net).__name__
    no_tf32, no_autocast = torch.backends.cudnn.flags(allow_tf32=False), torch.autocast(x.device.type, enabled=False)
    with torch.no_grad(), no_tf32, no_autocast:
        with _blind(net, channels, removed):
            expected = net(x)
        slice_modules(net, slices)
        try:
            found = net(x)
        except RuntimeError as err:
            raise NotExact(
                f"prune_filters: {kind} does not run without these channels: {err}\n"
                f"  Its forward counts on fixed numbers of channels; name the layers to prune with ratio={{...}}."
            ) from err
    size = float(expected.abs().max())
    if not math.isfinite(size):
        raise ValueError(
            f"prune_filters: on a random image the outputs of {kind} are not finite.\n"
            f"  Look for NaN or infinity in its weights and in BatchNorm's statistics: did its training diverge?"
        )
    if size == 0:
        warn(
            f"prune_filters: all outputs of {kind} are 0 (an untrained head?), so the slice could not be checked."
        )
    error = float((found - expected).abs().max()) / max(size, 1e-12)
    # Rounding over a deep net stays near 1e-6 in float32; half precision has coarser steps.
    if not error <= max(1e-4, 8 * torch.finfo(found.dtype).eps):
        raise NotExact(
            f"prune_filters: the sliced {kind} differs from the one with zeroed channels "
            f"(relative error {error:.1e}).\n  Something in its forward treats channels in a way that fsc does not see."
        )


@contextmanager
def _blind(net: nn.Module, channels: Channels, removed: np.ndarray) -> Iterator[None]:
    """While it lasts, modules that read a removed channel read zeros there."""
    handles = []
    for port in channels.ports:
        stays = torch.from_numpy(~np.isin(port.labels, removed))
        if port.side == "in" and not stays.all():
            mask = stays.view(-1, 1, 1) if isinstance(port.module, nn.Conv2d) else stays
            reader = net.get_submodule(port.name)
            handles.append(reader.register_forward_pre_hook(partial(_hide, mask), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hide(mask: Tensor, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple[Tensor], dict]:
    x = args[0] if args else kwargs["input"]
    return (x * mask.to(x),), {}
