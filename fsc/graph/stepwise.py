"""One network run step by step over all images, so that its features can be read, and changed, on the way."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx


class Stepwise:
    """A traced network under way. All images, in chunks, stand at the same node of its graph.

    A tensor is kept until its last reader has run, and no longer. So all images of a deep network fit into
    memory wherever the features of a few layers do.
    """

    def __init__(self, graph: fx.GraphModule, chunks: Sequence[Tensor | None]):
        self.graph = graph
        self.nodes = list(graph.graph.nodes)  # in the order of execution
        self.place = {node: i for i, node in enumerate(self.nodes)}
        self.values: list[dict[fx.Node, Any]] = [{} for _ in chunks]  # the tensors that are alive, by node
        self._last_use = {node: max(map(self.place.get, node.users), default=-1) for node in self.nodes}
        self._at = [0] * len(chunks)
        self._images = list(chunks)
        self._interpreter = fx.Interpreter(graph, garbage_collect_values=False)

    @property
    def output(self) -> fx.Node:
        return self.nodes[-1].all_input_nodes[0]

    def advance(self, chunk: int, stop: int, keep: set[fx.Node] = frozenset()) -> dict[fx.Node, Any]:
        """Run one chunk up to the node at place `stop`, without that node; return the tensors alive there.

        The tensors of the nodes in `keep` outlive their last reader, until the next call.
        """
        values = self.values[chunk]
        for node in [n for n in values if self._last_use[n] < self._at[chunk] and n not in keep]:
            del values[node]
        for place in range(self._at[chunk], stop):
            node = self.nodes[place]
            values[node] = self._run(node, chunk)
            for used in {*node.all_input_nodes, node}:
                if self._last_use[used] <= place and used not in keep:
                    values.pop(used, None)
        self._at[chunk] = max(self._at[chunk], stop)
        return values

    def finish(self, chunk: int) -> Tensor:
        """Run one chunk to the end and return the network's output for it."""
        return self.advance(chunk, len(self.nodes) - 1)[self.output]

    def branch(self, graph: fx.GraphModule) -> "Stepwise":
        """Another network that goes on from here; up to here its graph must be the same.

        It works on copies of the tensors, so an operation in place on one side does not reach the other side.
        """
        other = Stepwise(graph, [None] * len(self.values))
        other._at = list(self._at)
        for chunk, place in enumerate(self._at):
            alive = [i for i, node in enumerate(other.nodes[:place]) if other._last_use[node] >= place]
            # One deepcopy for all of them: a view remains a view of the tensor that it was a view of.
            copies = copy.deepcopy([self.values[chunk][self.nodes[i]] for i in alive])
            other.values[chunk] = dict(zip((other.nodes[i] for i in alive), copies, strict=True))
        return other

    def apply(self, nodes: Sequence[fx.Node], x: Tensor) -> Tensor:
        """The result of these nodes, of one input each, run one after another on a copy of `x`."""
        x = x.clone()
        for node in nodes:
            args, kwargs = (fx.map_arg(given, lambda _, x=x: x) for given in (node.args, node.kwargs))
            x = getattr(self._interpreter, node.op)(node.target, args, kwargs)
        return x

    def _run(self, node: fx.Node, chunk: int) -> Any:
        if node.op == "placeholder":
            if node.args:  # an optional argument of the forward keeps its default
                return node.args[0]
            images, self._images[chunk] = self._images[chunk], None
            return images.clone()  # a network may work in place, and these are the caller's images
        self._interpreter.env = self.values[chunk]
        return self._interpreter.run_node(node)
