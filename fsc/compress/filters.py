"""Filter pruning: in every conv remove the filters of the lowest scores, and slice all that reads them."""

from collections import Counter
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fsc.arguments import Ratio, checked_ratio
from fsc.compress.channel_groups import EXPECTED, Group, find_groups, why_kept
from fsc.compress.criteria import Criterion, score_groups
from fsc.compress.shares import UNUSED, first_reasons, shares_of, tell_what_stays
from fsc.graph.channels import Channels, follow_channels
from fsc.graph.tracing import trace, unused_modules
from fsc.runtime import clone, public, warn
from fsc.surgery.exactness import check_same, edited_output, expected_output, hooked
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
    """A smaller copy of `teacher`: every conv loses a share of its filters, and its readers those channels.

    By default only channels inside blocks go. The channels that blocks hand to each other stay, as in the
    few-sample papers (FSKD, MiR, PRACTISE). The student equals the teacher with the removed channels set to
    zero *behind* their activation. This is checked on a random image before the student is returned.

    Args:
        teacher: any CNN that `torch.fx` traces; not changed. If it is a student, its recipe is continued.
        ratio: share of filters to remove, inside (0, 1), the same for every conv; or by name,
            {"layer2.0.conv1": 0.75, "*": 0.5}, where convs that no entry names stay whole.
        criterion: "l1", "l2", "bn", "random", or a function (conv, bn or None) -> (C_out,); the lowest scores
            go. Both are the teacher's own modules, so a function can look up what it measured on them before.
        coupled: also prune channels that adds, concatenations or the classifier tie together.
        seed: of criterion "random".
        example: (N, C, H, W), needed only for nets that take no usual image size.

    Returns:
        The student, in eval mode, where the teacher lives, its parameters trainable, its recipe attached.

    Raises:
        ValueError: a ratio that is outside (0, 1), empties a layer or removes nothing; no conv of a name.
        NotTraceable: `torch.fx` cannot follow the net.
        NotExact: the student is not the teacher without these channels.

    Warns of convs that stay whole although nothing ties them, and of modules that the forward does not use.

    >>> student = prune_filters(teacher, 0.5)
    >>> recipe_of(student)[0]["slices"]["layer1.0.conv1"]["out"]
    [0, 3, 4, 7, 9, 10, 12, 15]
    """
    ratio = checked_ratio(ratio, "filters")
    graph = trace(teacher, example)
    channels = follow_channels(graph)  # every channel has a label; channels of one label stay or go together
    groups = find_groups(channels, coupled=coupled)
    reasons = why_kept(channels, coupled=coupled) | dict.fromkeys(unused_modules(teacher, graph), UNUSED)
    if not groups:
        raise ValueError(f"no filter of this {type(teacher).__name__} can go.\n  {first_reasons(reasons)}")
    shares = shares_of(teacher, ratio, [group.makers for group in groups], reasons, "pruned")
    losing = _losing(groups, shares)                              # [(group, how many filters it loses), ...]
    all_scores = score_groups([group for group, _ in losing], channels, criterion, seed)
    removed = []  # labels
    for (group, count), scores in zip(losing, all_scores, strict=True):
        removed += [group.labels[i] for i in scores.argsort(stable=True)[:count].tolist()]
    slices = _slices_without(removed, channels)
    student = clone(teacher).eval()
    _slice_exactly(student, slices, channels, removed, graph.meta["example"])
    tell_what_stays(reasons, EXPECTED)
    name = criterion if isinstance(criterion, str) else getattr(criterion, "__name__", "function")
    asked = {"ratio": ratio, "criterion": name, "coupled": bool(coupled), "seed": int(seed)}
    return with_edit(student, teacher, {"edit": "prune_filters", "asked": asked, "slices": slices})


@public
def prunable_layers(
    teacher: nn.Module, *, coupled: bool = False, example: Tensor | None = None
) -> dict[str, int]:
    """The convs that `prune_filters` can prune, in order of execution, each with how many filters may go.

    The dict is empty where no filter may go. Arguments and errors are those of `prune_filters`; coupled convs
    stand under the name of the first.

    >>> fsc.prunable_layers(fsc.load_teacher("resnet20", task))
    {'layer1.0.conv1': 16, 'layer1.1.conv1': 16, ..., 'layer3.2.conv1': 64}
    """
    counts = Counter()
    for group in find_groups(follow_channels(trace(teacher, example)), coupled=coupled):
        counts[group.makers[0]] += len(group.labels)
    return dict(counts)


def _losing(groups: list[Group], shares: list[float]) -> list[tuple[Group, int]]:
    """The groups that lose filters, and how many each of them loses."""
    losing = []
    whole: dict[str, int] = {}  # too small for their share
    for group, share in zip(groups, shares, strict=True):
        size, name = len(group.labels), group.makers[0]
        count = round(share * size)
        if count == size:
            own = f'give this layer its own: ratio={{"{name}": {(size - 1) / size:.4g}, "*": {share:g}}}'
            raise ValueError(
                f"ratio {share:g} leaves {name} with 0 of {size} filters.\n"
                f"  Every layer (every group of a grouped conv) must keep at least 1 filter.\n"
                f"  Use a smaller ratio, or {own if size > 1 else 'a dict that does not name this layer'}."
            )
        if count:
            losing.append((group, count))
        elif share:
            whole[name] = size
    narrow = ", ".join(f"{name} ({size})" for name, size in whole.items())
    if not losing:
        found = f"it is less than half a filter in {narrow or 'every layer'}"
        raise ValueError(f"this ratio removes nothing: {found}.\n  Use a larger ratio.")
    if whole:
        warn(f"less than half a filter to remove, left whole: {narrow}.")
    return losing


def _slices_without(removed: list[int], channels: Channels) -> Slices:
    """The channels that each side of each module keeps, for the sides that lose some."""
    slices: dict[str, dict[str, list[int]]] = {}
    for port in channels.ports:
        kept = np.flatnonzero(~np.isin(port.labels, removed)).tolist()
        if len(kept) < len(port.labels):
            slices.setdefault(port.name, {})[port.side] = kept
    return slices


def _slice_exactly(
    net: nn.Module, slices: Slices, channels: Channels, removed: list[int], example: Tensor
) -> None:
    """Slice `net`. Its output must be what it was when every reader of a removed channel saw zeros there."""
    with hooked(_hide(net, channels, removed)):
        expected = expected_output(net, example)
    slice_modules(net, slices)
    fixed = "Its forward counts on fixed numbers of channels; name the layers to prune with ratio={...}."
    found = edited_output(net, example, "without these channels", fixed)
    what = f"the sliced {type(net).__name__} differs from the one with zeroed channels"
    check_same(found, expected, what, "Its forward treats channels in a way that fsc does not see.")


def _hide(net: nn.Module, channels: Channels, removed: list[int]) -> Iterator[RemovableHandle]:
    """Hooks of `net`; with them, its modules read zeros in place of the removed channels."""

    def hide(mask: Tensor, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple[Tensor], dict]:
        x = args[0] if args else kwargs["input"]
        return (x * mask.to(x),), {}

    for port in channels.ports:
        stays = torch.from_numpy(~np.isin(port.labels, removed))
        if port.side == "in" and not stays.all():
            mask = stays.view(-1, 1, 1) if isinstance(port.module, nn.Conv2d) else stays  # (C, 1, 1), (C,)
            module = net.get_submodule(port.name)
            yield module.register_forward_pre_hook(partial(hide, mask), with_kwargs=True)
