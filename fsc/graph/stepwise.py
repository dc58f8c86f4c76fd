"""Teacher and student side by side: a graph run node by node over all images; a tensor lives until its last use."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx


class Walk:
    """One network under way over many images, in chunks; every chunk stands at the same node.

    What a later node reads is kept, nothing else: so all images of a deep net fit where a few layers' features do.
    """

    def __init__(self, graph: fx.GraphModule, chunks: list[Tensor | None]):
        self.nodes = list(graph.graph.nodes)
        self.place = {node: i for i, node in enumerate(self.nodes)}
        self.last_use = {node: max((self.place[user] for user in node.users), default=-1) for node in self.nodes}
        self.values: list[dict[fx.Node, Any]] = [{} for _ in chunks]
        self.at = [0] * len(chunks)
        self._chunks: list[Tensor | None] = list(chunks)
        self._interpreter = fx.Interpreter(graph, garbage_collect_values=False)

    def advance(self, chunk: int, stop: int, reads: set[fx.Node]) -> dict[fx.Node, Any]:
        """Run one chunk up to the node at place `stop`, without it; returns what is alive there.

        Args:
            reads: kept beyond their last use, until the next call.
        """
        values = self.values[chunk]
        for node in [n for n in values if self.last_use[n] < self.at[chunk] and n not in reads]:
            del values[node]
        for place in range(self.at[chunk], stop):
            node = self.nodes[place]
            values[node] = self._run(node, chunk)
            for used in {*node.all_input_nodes, node}:
                if self.last_use[used] <= place and used not in reads:
                    values.pop(used, None)
        self.at[chunk] = max(self.at[chunk], stop)
        return values

    def branch(self, graph: fx.GraphModule) -> "Walk":
        """A walk of another graph from where this one stands; up to there the two graphs must be the same.

        It works on copies: what either does in place, the other does not see.
        """
        other = Walk(graph, [None] * len(self.values))
        other.at = list(self.at)
        for chunk, place in enumerate(self.at):
            alive = [i for i, node in enumerate(other.nodes[:place]) if other.last_use[node] >= place]
            # One deepcopy for all: a view stays a view of what it was a view of.
            copies = copy.deepcopy([self.values[chunk][self.nodes[i]] for i in alive])
            other.values[chunk] = dict(zip((other.nodes[i] for i in alive), copies, strict=True))
        return other

    def through(self, nodes: Sequence[fx.Node], x: Tensor) -> Tensor:
        """What these nodes, of one input each, make of `x`, which stays as it is."""
        x = x.clone()
        for node in nodes:
            args, kwargs = (fx.map_arg(given, lambda _, x=x: x) for given in (node.args, node.kwargs))
            x = getattr(self._interpreter, node.op)(node.target, args, kwargs)
        return x

    def _run(self, node: fx.Node, chunk: int) -> Any:
        if node.op == "placeholder":
            if node.args:  # an option of the forward, at its default
                return node.args[0]
            images, self._chunks[chunk] = self._chunks[chunk], None
            return images
        values = self.values[chunk]
        args, kwargs = (fx.map_arg(given, values.__getitem__) for given in (node.args, node.kwargs))
        return getattr(self._interpreter, node.op)(node.target, args, kwargs)
