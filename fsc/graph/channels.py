"""The channels of a network that must stay or go together: every channel of every tensor gets a label.

Two channels with the same label can only be removed together. A dense conv makes new labels. BatchNorm,
activations, pooling and depthwise convs hand on the labels that they read. A sum, or a product with a gate,
makes the labels of its two inputs one. A concatenation puts them behind each other. An operation without a
rule *pins* the labels that it reads, with the reason: those channels must stay. The rules are in
`channel_rules`; they know operations, no architectures.

An example is a residual block with 4 channels, between a stem and a classifier with 2 classes:

    operation      labels in          labels out
    image                             0 1 2          pinned: "it is the network's input"
    stem, conv     0 1 2              3 4 5 6
    conv1          3 4 5 6            7 8 9 10
    bn1, relu      7 8 9 10           7 8 9 10
    conv2          7 8 9 10           11 12 13 14
    sum            3 4 5 6            3 4 5 6        11 becomes 3, 12 becomes 4, 13 becomes 5, 14 becomes 6;
                   11 12 13 14                       all of them are joined
    mean           3 4 5 6            3 4 5 6
    classifier     3 4 5 6            15 16          pinned: "it is the network's output"

So a channel with label 7 can go by itself: then conv1 and bn1 lose an output channel, and conv2 loses an
input channel. Label 3 is in the stem, in conv2 and in the classifier: it can only go from all three at once.
"""

from collections import defaultdict
from dataclasses import dataclass, field, replace

import numpy as np
from torch import fx, nn

from fsc.graph.channel_labels import ChannelAxis, Labels
from fsc.graph.channel_rules import Call, rule_of
from fsc.graph.operations import SHAPE_READS, is_depthwise
from fsc.graph.tracing import module_of

OUTPUT = "it is the network's output"
_BatchNorm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True, eq=False)
class Port:
    """One side of one module, its inputs or its outputs, with the labels of the channels there."""

    name: str
    module: nn.Module
    side: str  # "in" or "out"
    labels: np.ndarray
    makes: bool = False  # the labels begin here: the output of a dense conv or of a Linear


@dataclass
class Channels:
    """The labels of a whole network; `pinned` and `joined` are as in `Labels`."""

    ports: list[Port] = field(default_factory=list)  # what is sliced when labels go, in order of execution
    pinned: dict[int, str] = field(default_factory=dict)
    joined: set[int] = field(default_factory=set)
    behind: dict[str, nn.Module] = field(default_factory=dict)  # conv -> the BatchNorm that reads it


def follow_channels(graph: fx.GraphModule) -> Channels:
    """The label of every channel of a graph that `trace` made."""
    return _Follower(graph).run()


class _Follower:
    def __init__(self, graph: fx.GraphModule):
        self.graph = graph
        self.labels = Labels()
        self.known: dict[fx.Node, ChannelAxis] = {}
        self.found = Channels()
        self.first_call: dict[str, tuple[ChannelAxis, ChannelAxis]] = {}  # module -> its channels in and out
        self.owners: dict[int, list[str]] = defaultdict(list)  # id of a parameter -> the modules that hold it
        for name, module in graph.named_modules():
            for parameter in module.parameters(recurse=False):
                self.owners[id(parameter)].append(name)

    def run(self) -> Channels:
        for node in self.graph.graph.nodes:
            self.visit(node)
        root = self.labels.roots()
        pinned: dict[int, str] = {}
        for label, why in self.labels.pinned.items():
            pinned.setdefault(int(root[label]), why)
        return Channels(
            ports=[replace(port, labels=root[port.labels]) for port in self.found.ports],
            pinned=pinned,
            joined={int(root[label]) for label in self.labels.joined},
            behind=self.found.behind,
        )

    def visit(self, node: fx.Node) -> None:
        call = Call(node, module_of(self.graph, node), self.known, self.labels)
        shape = node.meta.get("shape")
        if node.op == "output":
            self.labels.pin(OUTPUT, *call.inputs)
        elif node.op == "placeholder":
            if shape is not None:  # an option left at its default is no tensor
                self.known[node] = self.new_pinned(shape, 1, "it is the network's input")
        elif node.op == "get_attr":
            if shape is not None and len(shape) > 0:
                self.known[node] = self.new_pinned(shape, 0, f"the parameter {node.target} is as wide")
        elif shape is not None:
            channels = self.result_of(call)
            if channels is None:
                self.refuse(call)
                channels = self.new_pinned(shape, 1, f"{call} made its channels")
            self.known[node] = channels
        elif node.target not in SHAPE_READS:  # no tensor comes out: a split into several, an assertion
            self.refuse(call)

    def new_pinned(self, shape: tuple[int, ...], axis: int, why: str) -> ChannelAxis:
        channels = self.labels.new(shape[axis] if len(shape) > axis else 1, axis)
        self.labels.pin(why, channels)
        return channels

    def refuse(self, call: Call) -> None:
        self.labels.pin(f"{call} does not treat channels one by one", *call.inputs)

    def result_of(self, call: Call) -> ChannelAxis | None:
        """The channels of the result, by rule; None where they cannot be followed."""
        rule, shape = rule_of(call), call.node.meta["shape"]
        out = rule(call) if rule else None
        if out is not None and isinstance(call.module, nn.Conv2d | nn.Linear | _BatchNorm):
            out = self.sliced(call, out)
        fits = out is not None and out.axis < len(shape) and shape[out.axis] == len(out.labels)
        return out if fits else None

    def sliced(self, call: Call, out: ChannelAxis) -> ChannelAxis:
        """Write down a module that must be sliced with its channels; returns the channels that leave it."""
        name, module, (into,) = call.node.target, call.module, call.inputs
        if isinstance(module, _BatchNorm):
            before = call.argument(0, "input")
            if before.op == "call_module":
                self.found.behind.setdefault(before.target, module)
        if why := self.why_uncut(name, module):
            self.labels.pin(why, into, out)
        if name in self.first_call:  # all calls of a module must agree
            first_into, first_out = self.first_call[name]
            self.labels.unite(first_into, into)
            self.labels.unite(first_out, out)
            return replace(out, labels=first_out.labels)
        self.first_call[name] = into, out
        layer = not isinstance(module, _BatchNorm)
        if layer:
            self.found.ports.append(Port(name, module, "in", into.labels))
        makes = layer and not is_depthwise(module)
        self.found.ports.append(Port(name, module, "out", out.labels, makes))
        return out

    def why_uncut(self, name: str, module: nn.Module) -> str | None:
        """The reason why this module's own weights cannot be sliced; None if they can."""
        if "weight" not in module._parameters:
            return f"{name} computes its weight anew in each pass (a parametrization or mask)"
        owners = [owner for parameter in module.parameters() for owner in self.owners[id(parameter)]]
        others = [owner for owner in owners if owner != name]
        return f"{name} shares a weight with {others[0]}" if others else None
