"""Find the pruning ratio, or the number of blocks, that removes a given share of the MACs."""

import warnings
from fractions import Fraction
from itertools import pairwise

from torch import Tensor, nn

from fsc.compress.blocks import drop_blocks, droppable_blocks
from fsc.compress.channel_groups import find_groups
from fsc.compress.filters import prune_filters
from fsc.graph.channels import follow_channels
from fsc.graph.tracing import trace
from fsc.measure.quality import cost


def filters_to_prune(teacher: nn.Module, ratio: float, example: Tensor) -> float:
    """The ratio for `prune_filters` that removes a share of the MACs as near as possible to `ratio`.

    The number of filters changes only at certain ratios, because round(ratio * n) of n filters go. In a layer
    of 4 filters none goes below 1/8, one from 1/8 to 3/8, two from 3/8 to 5/8 and three from 5/8 to 7/8.
    Beyond 7/8 the layer would be empty. A net with this layer and one of 2 filters has the edges 1/8, 1/4,
    3/8, 5/8 and 3/4; beyond 3/4 its second layer would be empty. So it has four different students, and the
    middles between the edges, 3/16, 5/16, 1/2 and 11/16, make one each. Bisection finds the nearest of them.

    >>> filters_to_prune(teacher, 0.5, task.example)
    0.515625
    """
    groups = find_groups(follow_channels(trace(teacher, example)), coupled=False)
    sizes = {len(group.labels) for group in groups}
    edges = sorted({Fraction(2 * k + 1, 2 * n) for n in sizes for k in range(n)})
    last = 1 - Fraction(1, 2 * min(sizes, default=1))
    middles = [float(low + high) / 2 for low, high in pairwise(edge for edge in edges if edge <= last)]
    middles = middles or [ratio]  # no ratio works: the error of prune_filters says why
    macs = cost(teacher, example).macs
    removed: dict[float, float] = {}  # ratio -> the share of the MACs that it removes
    low, high = 0, len(middles)
    while low < high:
        middle = (low + high) // 2
        student = prune(teacher, middles[middle], example)
        removed[middles[middle]] = 1 - cost(student, example).macs / macs
        if removed[middles[middle]] < ratio:
            low = middle + 1
        else:
            high = middle
    return min(sorted(removed), key=lambda tried: abs(removed[tried] - ratio))


def blocks_to_drop(teacher: nn.Module, ratio: float, example: Tensor) -> int:
    """The number of blocks that removes a share of the MACs as near as possible to `ratio`.

    It counts with the mean MACs of the blocks that can be dropped. `practise` chooses which ones go; where
    they differ in MACs, the share that is really removed depends on that choice.
    """
    names = droppable_blocks(teacher, example=example)
    macs = cost(teacher, example).macs
    left = [cost(drop_blocks(teacher, [name], example=example), example).macs for name in names]
    mean = 1 - sum(left) / len(left) / macs
    return min(range(1, len(names) + 1), key=lambda count: abs(count * mean - ratio))


def prune(teacher: nn.Module, setting: float, example: Tensor) -> nn.Module:
    """`prune_filters` without its warnings: in a search nobody has asked for this very ratio."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return prune_filters(teacher, setting, example=example)


def prune_macs(teacher: nn.Module, ratio: float, example: Tensor) -> nn.Module:
    """A copy of the teacher without its weakest filters, and so without about a share `ratio` of its MACs.

    The methods of a study that repair pruned networks start from it; so can a method of your own.

    >>> student = prune_macs(teacher, 0.5, images)
    """
    return prune(teacher, filters_to_prune(teacher, ratio, example), example)
