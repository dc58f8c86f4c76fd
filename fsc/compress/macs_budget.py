"""How much to take away so that a given share of the MACs goes: for each family of students, what comes closest."""

import bisect
import functools
import itertools
import warnings
from fractions import Fraction

from torch import Tensor, nn

from fsc.compress.blocks import drop_blocks, droppable_blocks
from fsc.compress.channel_groups import find_cells
from fsc.compress.filters import prune_filters
from fsc.graph.channels import follow_channels
from fsc.graph.tracing import trace
from fsc.measure.quality import cost


def filters_to_prune(teacher: nn.Module, ratio: float, example: Tensor) -> float:
    """The ratio of `prune_filters` with which the share of MACs that goes is as near to `ratio` as it can be.

    The number of filters that go from a layer changes only at certain ratios; between two of them all students have the
    same shape. Of these shapes the nearest is found by bisection.

    Args:
        ratio: share of the MACs of one image, inside (0, 1).
        example: (N, C, H, W), an input of the network.

    Raises:
        ValueError: no filter of this network can go.

    >>> filters_to_prune(teacher, 0.5, task.example)
    0.515625
    """
    sizes = {len(cell.labels) for cell in find_cells(follow_channels(trace(teacher, example)), coupled=False)}
    # Of n filters round(ratio * n) go, so that the number changes half-way; beyond `most` a layer would be empty.
    most = min((1 - Fraction(1, 2 * n) for n in sizes), default=Fraction(0))
    changes = {Fraction(2 * k + 1, 2 * n) for n in sizes for k in range(n)}
    edges = [*sorted(edge for edge in changes if edge < most), most]
    settings = [float(low + high) / 2 for low, high in itertools.pairwise(edges)] or [ratio]
    whole = cost(teacher, example).macs

    @functools.cache
    def gone(setting: float) -> float:
        return 1 - cost(prune(teacher, setting, example), example).macs / whole

    at = bisect.bisect_left(settings, ratio, key=gone)
    return min(settings[max(at - 1, 0) : at + 1], key=lambda setting: abs(gone(setting) - ratio))


def blocks_to_drop(teacher: nn.Module, ratio: float, example: Tensor) -> int:
    """How many blocks, of the mean MACs of those that can be dropped, are nearest to a share `ratio` of all MACs.

    Which blocks they are is for `practise` to choose; where they differ in MACs, what is reached depends on it.

    Raises:
        ValueError: no block of this network can be dropped.
    """
    names = droppable_blocks(teacher, example)
    whole = cost(teacher, example).macs
    left = [cost(drop_blocks(teacher, [name], example=example), example).macs for name in names]
    mean = 1 - sum(left) / len(left) / whole
    return min(range(1, len(names) + 1), key=lambda blocks: abs(blocks * mean - ratio))


def prune(teacher: nn.Module, setting: float, example: Tensor) -> nn.Module:
    """`prune_filters` without its remarks: in a search nobody has asked for this very ratio."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return prune_filters(teacher, setting, example=example)


def prune_macs(teacher: nn.Module, ratio: float, example: Tensor) -> nn.Module:
    """A copy of the teacher without its weakest filters, and without as nearly a share `ratio` of its MACs as can be.

    It is what the methods of a study that repair pruned networks start from; for a method of your own, too.

    >>> student = prune_macs(teacher, 0.5, images)
    """
    return prune(teacher, filters_to_prune(teacher, ratio, example), example)
