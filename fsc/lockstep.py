"""Teacher and student side by side: a graph run node by node over all images; a tensor lives until its last use."""

from typing import Any

from torch import Tensor, fx


class Walk:
    """One network under way over many images, in chunks; every chunk stands at the same node.

    What a later node reads is kept, nothing else: so all images of a deep net fit where a few layers' features do.
    """

    def __init__(self, graph: fx.GraphModule, chunks: list[Tensor]):
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

    def _run(self, node: fx.Node, chunk: int) -> Any:
        if node.op == "placeholder":
            if node.args:  # an option of the forward, at its default
                return node.args[0]
            images, self._chunks[chunk] = self._chunks[chunk], None
            return images
        values = self.values[chunk]
        args, kwargs = (fx.map_arg(given, values.__getitem__) for given in (node.args, node.kwargs))
        return getattr(self._interpreter, node.op)(node.target, args, kwargs)
