"""Labels of channels: numbers that become one where two channels must stay or go together."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ChannelAxis:
    """The channels of one tensor: one label per position along `axis`."""

    labels: np.ndarray
    axis: int = 1


class Labels:
    """All labels of a network, in sets of equal ones (union-find)."""

    def __init__(self):
        self.pinned: dict[int, str] = {}  # label -> why its channel must stay
        self.joined: set[int] = set()  # in a sum, a concatenation or before a Linear: not of one block alone
        self._parent: list[int] = []  # a label that is its own parent stands for its whole set

    def new(self, count: int, axis: int = 1) -> ChannelAxis:
        """`count` channels with labels that nothing else has."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return ChannelAxis(np.arange(start, start + count), axis)

    def unite(self, a: ChannelAxis, b: ChannelAxis) -> None:
        """Make the labels of two tensors one, position by position."""
        for x, y in zip(a.labels.tolist(), b.labels.tolist(), strict=True):
            x, y = self._root(x), self._root(y)
            self._parent[max(x, y)] = min(x, y)

    def pin(self, why: str, *tensors: ChannelAxis) -> None:
        """These channels must stay. The first reason given for a label is the one that is kept."""
        for channels in tensors:
            for label in channels.labels.tolist():
                self.pinned.setdefault(label, why)

    def join(self, *tensors: ChannelAxis) -> None:
        for channels in tensors:
            self.joined.update(channels.labels.tolist())

    def roots(self) -> np.ndarray:
        """(labels made,) the label that stands for the set of each."""
        return np.array([self._root(label) for label in range(len(self._parent))], dtype=np.int64)

    def _root(self, label: int) -> int:
        while self._parent[label] != label:
            self._parent[label] = self._parent[self._parent[label]]  # halves the way for the next time
            label = self._parent[label]
        return label
