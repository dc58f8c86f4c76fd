"""Which part of a graph a module's forward makes: what goes into it, what comes out, and whether it can be left out."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import fx, nn

from fsc.graph import operations

_LINEAR = {F.conv2d, torch.conv2d, F.linear, torch.matmul, torch.bmm, "matmul", "bmm"}


@dataclass
class Region:
    """The nodes that one module's forward makes.

    Attributes:
        nodes: in the order of execution.
        calls: how many times the net calls the module.
        reads: nodes outside that it reads.
        leaves: nodes of its own that are read outside.
    """

    name: str
    nodes: list[fx.Node] = field(default_factory=list)
    calls: int = 0
    reads: list[fx.Node] = field(default_factory=list)
    leaves: list[fx.Node] = field(default_factory=list)

    def why_not(self) -> str | None:
        """Why `nn.Identity` cannot stand in its place; None if it can."""
        if self.calls != 1:
            return f"the forward calls it {self.calls} times, each time on something else"
        if len(self.reads) != 1:
            return f"it reads {len(self.reads)} things from outside: {_names(self.reads)}"
        if len(self.leaves) != 1:
            return f"of what it makes, {len(self.leaves)} things are read outside: {_names(self.leaves)}"
        into, out = self.reads[0].meta.get("shape"), self.leaves[0].meta.get("shape")
        if into is None or into != out:
            return f"it makes {out} of {into}, and only what keeps the shape (1, C, H, W) can be left out"
        return None


def regions(graph: fx.GraphModule) -> dict[str, Region]:
    """Every module, but the net itself, inside whose forward a node of the graph of `graph.trace` was made."""
    found: dict[str, Region] = {}
    keys: dict[str, set[str]] = {}
    for node in graph.graph.nodes:
        for key, (name, _) in node.meta.get("nn_module_stack", {}).items():
            if name:
                found.setdefault(name, Region(name)).nodes.append(node)
                keys.setdefault(name, set()).add(key)  # the second call of "act" has the key "act@1"
    for name, region in found.items():
        inside = set(region.nodes)
        region.calls = len(keys[name])
        region.reads = list(dict.fromkeys(n for node in region.nodes for n in node.all_input_nodes if n not in inside))
        region.leaves = [node for node in region.nodes if any(user not in inside for user in node.users)]
    return found


def has_shortcut(graph: fx.GraphModule, region: Region) -> bool:
    """Whether what goes in comes out through an add that it reaches without a conv, a Linear or a product."""
    inside, seen = set(region.nodes), set()
    front = [(user, False) for user in region.reads[0].users if user in inside]
    while front:
        node, added = front.pop()
        added = added or (node.target in operations.ADDS and len(node.all_input_nodes) > 1)
        if (node, added) in seen or "shape" not in node.meta or _mixes(graph, node):
            continue
        seen.add((node, added))
        if added and node is region.leaves[0]:
            return True
        front.extend((user, added) for user in node.users if user in inside)
    return False


def _mixes(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(graph.get_submodule(node.target), nn.modules.conv._ConvNd | nn.Linear)
    return node.target in operations.PRODUCTS | _LINEAR


def _names(nodes: list[fx.Node]) -> str:
    found = [str(node.target) if node.op == "call_module" else node.name for node in nodes]
    return ", ".join(found[:3] + ["..."] * (len(found) > 3)) or "none"
