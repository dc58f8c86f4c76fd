"""How filters are ranked: a criterion scores the filters of one conv; the lowest scores go first."""

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fsc.compress.channel_groups import Cell
from fsc.graph.channels import Channels, Port

Criterion = Callable[[nn.Conv2d, nn.Module | None], Tensor]
"""(conv, the BatchNorm right behind it or None) -> (C_out,) scores of its filters."""


def l1(conv: nn.Conv2d, bn: nn.Module | None) -> Tensor:
    """Sum of the absolute weights of each filter (Li et al. 2017)."""
    return conv.weight.abs().flatten(1).sum(1)


def l2(conv: nn.Conv2d, bn: nn.Module | None) -> Tensor:
    """Euclidean norm of each filter."""
    return conv.weight.flatten(1).norm(dim=1)


def bn_scale(conv: nn.Conv2d, bn: nn.Module | None) -> Tensor:
    """|gamma| of the BatchNorm behind the conv (Liu et al. 2017)."""
    if bn is None or bn.weight is None:
        raise ValueError(
            f'prune_filters: criterion "bn" ranks by the BatchNorm right behind a conv; {conv} has none.\n'
            '  Use criterion="l1", or give only convs with BatchNorm a ratio.'
        )
    return bn.weight.abs()


CRITERIA: dict[str, Criterion] = {"l1": l1, "l2": l2, "bn": bn_scale}


def scorer(criterion: str | Criterion, channels: Channels, *, seed: int) -> Callable[[Cell], Tensor]:
    """The function that scores the channels of a cell, (len(cell.labels),) float64.

    A channel that several convs make or carry (a residual stream, a depthwise conv) scores the sum over them.

    Raises:
        ValueError: an unknown name, or a criterion that does not give one finite score a filter.
    """
    if criterion == "random":
        rng = torch.Generator().manual_seed(seed)
        return lambda cell: torch.rand(len(cell.labels), generator=rng, dtype=torch.float64)
    if not callable(criterion) and (not isinstance(criterion, str) or criterion not in CRITERIA):
        names = ", ".join(f'"{name}"' for name in [*CRITERIA, "random"])
        raise ValueError(
            f"prune_filters: unknown criterion {criterion!r}.\n"
            f"  There are {names}, or a function (conv, bn) -> (C_out,) scores."
        )
    rate = criterion if callable(criterion) else CRITERIA[criterion]
    places: dict[int, list[tuple[Port, int]]] = defaultdict(list)  # label -> the filters that make or carry it
    for port in channels.ports:
        if port.side == "out" and isinstance(port.module, nn.Conv2d):
            for place, label in enumerate(port.labels.tolist()):
                places[label].append((port, place))
    known: dict[str, Tensor] = {}

    def of(port: Port) -> Tensor:
        if port.name not in known:
            known[port.name] = _checked(rate(port.module, channels.behind.get(port.name)), port)
        return known[port.name]

    def score(cell: Cell) -> Tensor:
        return torch.stack([sum(of(port)[place] for port, place in places[label]) for label in cell.labels])

    return score


def _checked(scores: Tensor, port: Port) -> Tensor:
    filters = port.module.out_channels
    if not isinstance(scores, Tensor) or scores.shape != (filters,) or not scores.isfinite().all():
        found = f"a tensor {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        if isinstance(scores, Tensor) and scores.shape == (filters,):
            found = "NaN or infinity"
        raise ValueError(
            f"prune_filters: the criterion gave {found} for {port.name}; asked for {filters} finite scores.\n"
            f"  It is called as criterion(conv, bn) and returns a tensor (C_out,)."
        )
    return scores.detach().double().cpu()
