"""Criteria of filter pruning: each scores the filters of one conv; those of the lowest scores go first."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fsc.compress.channel_groups import Group
from fsc.graph.channels import Channels
from fsc.runtime import generator

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
        found = f'criterion "bn" ranks by the BatchNorm right behind a conv; {conv} has none'
        raise ValueError(f'{found}.\n  Use criterion="l1", or give only convs with BatchNorm a ratio.')
    return bn.weight.abs()


CRITERIA: dict[str, Criterion] = {"l1": l1, "l2": l2, "bn": bn_scale}


def score_groups(
    groups: Sequence[Group], channels: Channels, criterion: str | Criterion, seed: int
) -> list[Tensor]:
    """The scores of the channels of each group: one float64 tensor (len(group.labels),) per group.

    The score of a channel is the sum over all filters that make or carry it: the filters of several convs in
    a residual stream; the filter of a depthwise conv beside that of the conv before it.
    """
    if criterion == "random":
        rng = generator(seed)
        return [torch.rand(len(group.labels), generator=rng, dtype=torch.float64) for group in groups]
    if not callable(criterion) and criterion not in list(CRITERIA):
        names = ", ".join(f'"{name}"' for name in [*CRITERIA, "random"])
        hint = f"There are {names}, or a function (conv, bn) -> (C_out,) scores."
        raise ValueError(f"unknown criterion {criterion!r}.\n  {hint}")
    score_of = criterion if callable(criterion) else CRITERIA[criterion]
    wanted = {label for group in groups for label in group.labels}
    scores: dict[int, float] = defaultdict(float)  # label -> score
    for port in channels.ports:
        labels = port.labels.tolist()
        if port.side == "out" and isinstance(port.module, nn.Conv2d) and wanted.intersection(labels):
            of_filters = score_of(port.module, channels.behind.get(port.name))           # (C_out,)
            for label, score in zip(labels, _checked(of_filters, port.name, len(labels)), strict=True):
                scores[label] += score
    return [torch.tensor([scores[label] for label in group.labels], dtype=torch.float64) for group in groups]


def _checked(scores: Tensor, name: str, filters: int) -> list[float]:
    if not isinstance(scores, Tensor):
        found = type(scores).__name__
    elif scores.shape != (filters,):
        found = f"a tensor {tuple(scores.shape)}"
    elif scores.isfinite().all():
        return scores.detach().double().tolist()
    else:
        found = "NaN or infinity"
    raise ValueError(
        f"the criterion gave {found} for {name}; asked for {filters} finite scores.\n"
        f"  It is called as criterion(conv, bn) and returns a tensor (C_out,)."
    )
