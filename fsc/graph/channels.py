"""Which channels are one: every channel of every tensor has a label, the same where they must live or die together.

A dense conv makes new labels. BatchNorm, activations, pooling and depthwise convs hand theirs on; an add, or a product
with a gate, makes two labels one; a concatenation puts lists of labels behind each other. What is not known to treat
channels one by one *pins* the labels that enter it, with the reason. No architecture is known here, only operations.
"""

import operator
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from fsc.graph import operations
from fsc.graph.operations import ADDS, PRODUCTS

OUTPUT = "it is the network's output"


@dataclass
class Lane:
    """The channels of one tensor: a label for each position along `axis`."""

    labels: np.ndarray
    axis: int = 1


@dataclass(frozen=True, eq=False)
class Port:
    """One side of one module: which label each of its input or output channels bears."""

    name: str
    module: nn.Module
    side: str  # "in" or "out"
    labels: np.ndarray
    makes: bool = False  # a dense conv or Linear: these labels begin here


@dataclass
class Channels:
    """The labels of a whole network.

    Attributes:
        ports: every module side that must be sliced when a label goes, in the order of execution.
        pinned: label -> why it must stay.
        joined: labels that an add or a concatenation touches, or that a Linear reads: not a block's own business.
        behind: conv -> the BatchNorm that reads it.
    """

    ports: list[Port] = field(default_factory=list)
    pinned: dict[int, str] = field(default_factory=dict)
    joined: set[int] = field(default_factory=set)
    behind: dict[str, nn.Module] = field(default_factory=dict)


def follow_channels(graph: fx.GraphModule) -> Channels:
    """Label every channel of a graph made by `graph.trace`."""
    return _Follower(graph).run()


class _Follower:
    def __init__(self, graph: fx.GraphModule):
        self.graph = graph
        self.lanes: dict[fx.Node, Lane] = {}
        self.parent: list[int] = []
        self.found = Channels()
        self.first_seen: dict[str, tuple[Lane, Lane]] = {}
        self.owners: dict[int, list[str]] = defaultdict(list)  # id of a parameter -> the modules that hold it
        for name, module in graph.named_modules():
            for parameter in module.parameters(recurse=False):
                self.owners[id(parameter)].append(name)

    def run(self) -> Channels:
        for node in self.graph.graph.nodes:
            self.visit(node)
        root = np.array([self.root(i) for i in range(len(self.parent))], dtype=np.int64)
        raw = self.found
        ports = [Port(p.name, p.module, p.side, root[p.labels], p.makes) for p in raw.ports]
        pinned = {}
        for label, why in raw.pinned.items():
            pinned.setdefault(int(root[label]), why)
        return Channels(ports, pinned, {int(root[label]) for label in raw.joined}, raw.behind)

    def new(self, count: int, axis: int = 1) -> Lane:
        start = len(self.parent)
        self.parent.extend(range(start, start + count))
        return Lane(np.arange(start, start + count), axis)

    def root(self, label: int) -> int:
        while self.parent[label] != label:
            self.parent[label] = self.parent[self.parent[label]]
            label = self.parent[label]
        return label

    def unite(self, a: np.ndarray, b: np.ndarray) -> None:
        for x, y in zip(a.tolist(), b.tolist(), strict=True):
            x, y = self.root(x), self.root(y)
            self.parent[max(x, y)] = min(x, y)

    def pin(self, lane: Lane, why: str) -> None:
        for label in lane.labels.tolist():
            self.found.pinned.setdefault(label, why)

    def join(self, lane: Lane) -> None:
        self.found.joined.update(lane.labels.tolist())

    def visit(self, node: fx.Node) -> None:
        lanes = [self.lanes[n] for n in node.all_input_nodes if n in self.lanes]
        shape = node.meta.get("shape")
        if node.op == "output":
            for lane in lanes:
                self.pin(lane, OUTPUT)
        elif node.op == "placeholder":
            if shape is not None:  # an option left at its default is no tensor
                self.lanes[node] = self.fresh(shape, "it is the network's input")
        elif node.op == "get_attr":
            if shape is not None and len(shape) > 0:
                self.lanes[node] = self.fresh(shape, f"the parameter {node.target} is as wide", axis=0)
        elif shape is None:  # a size, a split into several tensors, an assertion
            if node.target not in operations.SHAPE_READS:
                self.refuse(node, lanes)
        else:
            lane = self.module(node, lanes) if node.op == "call_module" else self.function(node, lanes)
            if lane is not None and (lane.axis >= len(shape) or shape[lane.axis] != len(lane.labels)):
                lane = None
            if lane is None:
                self.refuse(node, lanes)
                lane = self.fresh(shape, f"{_called(node)} made its channels")
            self.lanes[node] = lane

    def fresh(self, shape: tuple[int, ...], why: str, axis: int = 1) -> Lane:
        lane = self.new(shape[axis] if len(shape) > axis else 1, axis)
        self.pin(lane, why)
        return lane

    def refuse(self, node: fx.Node, lanes: list[Lane]) -> None:
        for lane in lanes:
            self.pin(lane, f"{_called(node)} does not treat channels one by one")

    # -- modules: (node, lanes in) -> lane out, or None where channels cannot be followed -------------------------

    def module(self, node: fx.Node, lanes: list[Lane]) -> Lane | None:
        module = self.graph.get_submodule(node.target)
        if len(lanes) != 1:
            return None
        (lane,) = lanes
        if operations.hands_channels_on(module, lane.axis):
            return lane
        if isinstance(module, nn.Flatten):
            return self.reshape(node, lane)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and lane.axis == 1:
            out = lane
            source = _positional(node, 0, "input")
            if source.op == "call_module":
                self.found.behind.setdefault(source.target, module)
        elif isinstance(module, nn.Conv2d) and lane.axis == 1:
            out = self.conv_out(module, lane)
        elif isinstance(module, nn.Linear) and lane.axis == len(_positional(node, 0, "input").meta["shape"]) - 1:
            out = self.new(module.out_features, lane.axis)
            self.join(lane)
        else:
            return None
        if why := self.why_uncut(node.target, module):
            self.pin(lane, why)
            self.pin(out, why)
        if node.target in self.first_seen:  # called twice: both calls must agree
            before_in, before_out = self.first_seen[node.target]
            self.unite(before_in.labels, lane.labels)
            self.unite(before_out.labels, out.labels)
            return Lane(before_out.labels, out.axis)
        self.first_seen[node.target] = lane, out
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            self.found.ports.append(Port(node.target, module, "in", lane.labels))
        makes = isinstance(module, nn.Conv2d | nn.Linear) and not _depthwise(module)
        self.found.ports.append(Port(node.target, module, "out", out.labels, makes))
        return out

    def why_uncut(self, name: str, module: nn.Module) -> str | None:
        """Why this module's own weights cannot be sliced, if they cannot."""
        if "weight" not in module._parameters:
            return f"{name} computes its weight anew in each pass (a parametrization or mask)"
        others = [other for parameter in module.parameters() for other in self.owners[id(parameter)] if other != name]
        return f"{name} shares a weight with {others[0]}" if others else None

    def conv_out(self, conv: nn.Conv2d, lane: Lane) -> Lane:
        if _depthwise(conv):
            return Lane(lane.labels.repeat(conv.out_channels // conv.in_channels), 1)
        return self.new(conv.out_channels)

    def function(self, node: fx.Node, lanes: list[Lane]) -> Lane | None:
        target = node.target
        if not lanes:
            return None
        if target in operations.ELEMENTWISE or getattr(target, "__name__", "") == "stochastic_depth":
            return lanes[0] if len(lanes) == 1 else None
        if target in operations.SPATIAL:
            return lanes[0] if len(lanes) == 1 and lanes[0].axis == 1 else None
        if target in ADDS | PRODUCTS:
            return self.pointwise(node, lanes, adds=target in ADDS)
        if target in (torch.cat, torch.concat):
            return self.concatenate(node, lanes)
        if target in (torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze) or target in (
            "flatten", "view", "reshape", "squeeze", "unsqueeze",
        ):
            return self.reshape(node, lanes[0]) if len(lanes) == 1 else None
        if target in (torch.mean, "mean", torch.amax, "amax"):
            return self.reduce(node, lanes[0])
        if target in (torch.permute, "permute"):
            order = _positional(node, 1, "dims")
            order = order if isinstance(order, tuple | list) else node.args[1:]
            return Lane(lanes[0].labels, [d % len(order) for d in order].index(lanes[0].axis))
        if target is operator.getitem and lanes:
            index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
            keeps = all(isinstance(i, slice) for i in index) and index[lanes[0].axis : lanes[0].axis + 1] in (
                (), (slice(None),),
            )  # fmt: skip
            return lanes[0] if keeps else None
        if target is F.pad:
            padding = _positional(node, 1, "pad")
            untouched = lanes[0].axis < len(_positional(node, 0, "input").meta["shape"]) - len(padding) // 2
            return lanes[0] if untouched else None
        return None

    def pointwise(self, node: fx.Node, lanes: list[Lane], *, adds: bool) -> Lane | None:
        if len(lanes) == 1 and len(node.all_input_nodes) == 1:
            if adds and [*node.args, *node.kwargs.values()].count(node.all_input_nodes[0]) > 1:
                self.join(lanes[0])
            return lanes[0]
        tensors = [n for n in node.all_input_nodes if n.op != "get_attr" or np.prod(n.meta["shape"]) > 1]
        if len(tensors) == 1:  # the rest are single learned numbers
            return self.lanes.get(tensors[0])
        nodes = [n for n in node.all_input_nodes if n in self.lanes]
        rank = len(node.meta["shape"])
        wide = [(n, lane) for n, lane in zip(nodes, lanes, strict=True) if len(n.meta["shape"]) == rank]
        if any(n.op == "get_attr" for n in nodes) or len(wide) != 2:
            return None
        (_, a), (_, b) = wide
        if a.axis != b.axis:
            return None
        if adds:
            self.join(a)
            self.join(b)
        if len(a.labels) == len(b.labels):
            self.unite(a.labels, b.labels)
            return a
        thin, broad = sorted((a, b), key=lambda lane: len(lane.labels))
        self.pin(thin, f"{_called(node)} spreads it over all channels")
        return broad

    def concatenate(self, node: fx.Node, lanes: list[Lane]) -> Lane | None:
        parts = _positional(node, 0, "tensors")
        axis = _positional(node, 1, "dim", 0)
        lanes = [self.lanes[n] for n in parts if n in self.lanes] if isinstance(parts, list | tuple) else []
        if not lanes or len(lanes) != len(parts) or any(lane.axis != axis % len(node.meta["shape"]) for lane in lanes):
            return None
        for lane in lanes:
            self.join(lane)
        return Lane(np.concatenate([lane.labels for lane in lanes]), lanes[0].axis)

    def reshape(self, node: fx.Node, lane: Lane) -> Lane | None:
        """(N, C, ...) to (N, C, ...) keeps the labels; (N, C, H, W) to (N, C H W) repeats each for its H W pixels."""
        before, after = _positional(node, 0, "input").meta["shape"], node.meta["shape"]
        if lane.axis != 1 or len(after) < 2 or before[0] != after[0]:
            return None
        if after[1] == before[1]:
            return lane
        if len(after) == 2:
            return Lane(lane.labels.repeat(after[1] // before[1]), 1)
        return None

    def reduce(self, node: fx.Node, lane: Lane) -> Lane | None:
        dims = _positional(node, 1, "dim")
        rank = len(_positional(node, 0, "input").meta["shape"])
        if dims is None:
            return None
        dims = {d % rank for d in (dims if isinstance(dims, tuple | list) else (dims,))}
        if lane.axis in dims:
            return None
        keep = _positional(node, 2, "keepdim", False)
        return Lane(lane.labels, lane.axis if keep else lane.axis - sum(d < lane.axis for d in dims))


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups > 1 and module.groups == module.in_channels


def _positional(node: fx.Node, place: int, name: str, default=None):
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _called(node: fx.Node) -> str:
    """The operation and where it stands, for an error: "pad in layer2.0.shortcut"."""
    if node.op == "call_module":
        return f"the module {node.target}"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    inside = list(node.meta.get("nn_module_stack", {}))
    return f"{name} in {inside[-1] if inside else 'the outermost forward'}"
