"""The part of a graph that one module's forward makes: inputs, outputs, and whether it can be left out."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import fx, nn

from fsc.graph.operations import ADDS, PRODUCTS
from fsc.graph.tracing import module_of, walk_from

_LINEAR = {F.conv2d, torch.conv2d, F.linear, torch.matmul, torch.bmm, "matmul", "bmm"}


@dataclass
class Region:
    """The nodes that one module's forward makes."""

    name: str
    nodes: list[fx.Node] = field(default_factory=list)  # in the order of execution
    calls: set[str] = field(default_factory=set)  # one key per call: the second call of "act" has "act@1"
    reads: list[fx.Node] = field(default_factory=list)  # nodes outside that it reads
    leaves: list[fx.Node] = field(default_factory=list)  # its own nodes that are read outside

    def why_not(self) -> str | None:
        """The reason why `nn.Identity` cannot replace the module; None if it can."""
        if len(self.calls) != 1:
            return f"the forward calls it {len(self.calls)} times, each time on something else"
        if len(self.reads) != 1:
            return f"it reads {len(self.reads)} things from outside: {_names(self.reads)}"
        if len(self.leaves) != 1:
            return f"of what it makes, {len(self.leaves)} things are read outside: {_names(self.leaves)}"
        into, out = self.reads[0].meta.get("shape"), self.leaves[0].meta.get("shape")
        if into is None or into != out:
            return f"it makes {out} of {into}, and only what keeps the shape (1, C, H, W) can be left out"
        return None


def regions(graph: fx.GraphModule) -> dict[str, Region]:
    """The region of every module, except the net itself, whose forward makes a node of this graph."""
    found: dict[str, Region] = {}
    for node in graph.graph.nodes:
        for key, (name, _) in node.meta.get("nn_module_stack", {}).items():
            if name:
                region = found.setdefault(name, Region(name))
                region.nodes.append(node)
                region.calls.add(key)
    for region in found.values():
        inside = set(region.nodes)
        read = [n for node in region.nodes for n in node.all_input_nodes if n not in inside]
        region.reads = list(dict.fromkeys(read))
        region.leaves = [node for node in region.nodes if any(user not in inside for user in node.users)]
    return found


def has_shortcut(graph: fx.GraphModule, region: Region) -> bool:
    """True if the region's input reaches its output through an add and through no conv, Linear or product."""
    inside = set(region.nodes)

    def onward(node: fx.Node, added: bool) -> Iterator[tuple[fx.Node, bool]]:
        for user in node.users:
            if user in inside and "shape" in user.meta and not _mixes_or_scales(graph, user):
                yield user, added or (user.target in ADDS and len(user.all_input_nodes) > 1)

    steps = walk_from(onward(region.reads[0], False), lambda step: onward(*step))
    return (region.leaves[0], True) in steps


def _mixes_or_scales(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(module_of(graph, node), nn.modules.conv._ConvNd | nn.Linear)
    return node.target in PRODUCTS | _LINEAR


def _names(nodes: list[fx.Node]) -> str:
    found = [str(node.target) if node.op == "call_module" else node.name for node in nodes]
    return ", ".join(found[:3] + ["..."] * (len(found) > 3)) or "none"
