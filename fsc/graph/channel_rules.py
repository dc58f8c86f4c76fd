"""Rules for labels of channels: one function per kind of operation, and a table from operations to rules.

To teach the package another operation, add one line to the table: `RULES[torch.softmax] = same`.
"""

import math
import operator
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from fsc.graph import operations
from fsc.graph.channel_labels import ChannelAxis, Labels


@dataclass(frozen=True)
class Call:
    """One operation of the graph as its rule sees it."""

    node: fx.Node
    module: nn.Module | None  # the module that the operation calls
    known: dict[fx.Node, ChannelAxis]  # the channels of the tensors of all nodes so far
    labels: Labels  # a rule makes new labels here, unites them, pins them and joins them

    @property
    def inputs(self) -> list[ChannelAxis]:
        """The channels of the tensors that the operation reads."""
        return [self.known[node] for node in self.node.all_input_nodes if node in self.known]

    @property
    def rank(self) -> int:
        """The number of axes of the first tensor that the operation reads."""
        return len(self.argument(0, "input").meta["shape"])

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument of the operation, given by place or by name."""
        return self.node.args[place] if len(self.node.args) > place else self.node.kwargs.get(name, default)

    def __str__(self) -> str:
        """The operation and where it stands, for messages: "pad in layer2.0.shortcut"."""
        target = self.node.target
        if self.module is not None:
            return f"the module {target}"
        inside = list(self.node.meta.get("nn_module_stack", {}))
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        return f"{name} in {inside[-1] if inside else 'the outermost forward'}"


Rule = Callable[[Call], ChannelAxis | None]
"""Call -> the channels of its result; None if it cannot follow them: then those that it reads are pinned."""


def conv(call: Call) -> ChannelAxis | None:
    """A dense conv makes new labels. A depthwise conv repeats each label for the outputs of that channel."""
    (into,) = call.inputs
    if into.axis != 1:
        return None
    if operations.is_depthwise(call.module):
        return ChannelAxis(into.labels.repeat(call.module.out_channels // call.module.in_channels))
    return call.labels.new(call.module.out_channels)


def linear(call: Call) -> ChannelAxis | None:
    (into,) = call.inputs
    if into.axis != call.rank - 1:
        return None
    call.labels.join(into)
    return call.labels.new(call.module.out_features, into.axis)


def same(call: Call) -> ChannelAxis | None:
    """Each channel of the result depends on the same channel of the one input."""
    return call.inputs[0] if len(call.inputs) == 1 else None


def same_in_maps(call: Call) -> ChannelAxis | None:
    """As `same`, if the channels are on axis 1: the operation mixes what lies on the axes after it."""
    return call.inputs[0] if len(call.inputs) == 1 and call.inputs[0].axis == 1 else None


def add(call: Call) -> ChannelAxis | None:
    """The sum of two tensors makes their labels one, and joins them."""
    return _pointwise(call, joins=True)


def multiply(call: Call) -> ChannelAxis | None:
    """The product of two tensors, such as a feature and its gate, makes their labels one."""
    return _pointwise(call, joins=False)


def _pointwise(call: Call, *, joins: bool) -> ChannelAxis | None:
    node, read = call.node, call.node.all_input_nodes
    if len(read) == 1:  # with a number, or a tensor with itself
        if joins and [*node.args, *node.kwargs.values()].count(read[0]) > 1:
            call.labels.join(call.inputs[0])
        return call.inputs[0]
    tensors = [n for n in read if n.op != "get_attr" or math.prod(n.meta["shape"]) > 1]
    if len(tensors) == 1:  # the others are single learned numbers
        return call.known.get(tensors[0])
    full = [n for n in read if n in call.known and len(n.meta["shape"]) == len(node.meta["shape"])]
    if len(full) != 2 or any(n.op == "get_attr" for n in read if n in call.known):
        return None
    a, b = (call.known[n] for n in full)
    if a.axis != b.axis:
        return None
    if joins:
        call.labels.join(a, b)
    if len(a.labels) == len(b.labels):
        call.labels.unite(a, b)
        return a
    narrow, wide = sorted((a, b), key=lambda channels: len(channels.labels))
    call.labels.pin(f"{call} spreads it over all channels", narrow)
    return wide


def concatenate(call: Call) -> ChannelAxis | None:
    """A concatenation along the channels puts the lists of labels behind each other, and joins them."""
    parts, axis = call.argument(0, "tensors"), call.argument(1, "dim", 0) % len(call.node.meta["shape"])
    if not isinstance(parts, list | tuple) or not all(part in call.known for part in parts):
        return None
    channels = [call.known[part] for part in parts]
    if any(part.axis != axis for part in channels):
        return None
    call.labels.join(*channels)
    return ChannelAxis(np.concatenate([part.labels for part in channels]), axis)


def reshape(call: Call) -> ChannelAxis | None:
    """(N, C, ...) to (N, C, ...) keeps the labels; (N, C, H, W) to (N, C H W) repeats each H W times."""
    into = same_in_maps(call)
    if into is None:
        return None
    before, after = call.argument(0, "input").meta["shape"], call.node.meta["shape"]
    if len(after) < 2 or before[0] != after[0]:
        return None
    if after[1] == before[1]:
        return into
    return ChannelAxis(into.labels.repeat(after[1] // before[1])) if len(after) == 2 else None


def reduce(call: Call) -> ChannelAxis | None:
    """A mean or maximum over other axes keeps the labels; their axis moves where axes before it vanish."""
    into, axes = call.inputs[0], call.argument(1, "dim")
    if axes is None:
        return None
    axes = {axis % call.rank for axis in (axes if isinstance(axes, tuple | list) else (axes,))}
    gone = 0 if call.argument(2, "keepdim", False) else sum(axis < into.axis for axis in axes)
    return None if into.axis in axes else ChannelAxis(into.labels, into.axis - gone)


def permute(call: Call) -> ChannelAxis | None:
    into, order = call.inputs[0], call.argument(1, "dims")
    order = order if isinstance(order, tuple | list) else call.node.args[1:]
    return ChannelAxis(into.labels, [axis % len(order) for axis in order].index(into.axis))


def index(call: Call) -> ChannelAxis | None:
    """x[:, :, ::2] keeps the labels: slices only, and the whole axis of the channels."""
    into, slices = call.inputs[0], call.node.args[1]
    slices = slices if isinstance(slices, tuple) else (slices,)
    whole = into.axis >= len(slices) or slices[into.axis] == slice(None)
    return into if whole and all(isinstance(part, slice) for part in slices) else None


def pad(call: Call) -> ChannelAxis | None:
    """`F.pad` names the last axes first; it keeps the labels where it does not come to the channels."""
    into, padding = call.inputs[0], call.argument(1, "pad")
    return into if into.axis < call.rank - len(padding) // 2 else None


RULES: dict[Hashable, Rule] = {
    **dict.fromkeys((*operations.ELEMENTWISE_MODULES, *operations.ELEMENTWISE), same),
    **dict.fromkeys((*operations.SPATIAL_MODULES, *operations.SPATIAL), same_in_maps),
    nn.modules.batchnorm._BatchNorm: same_in_maps,
    nn.Conv2d: conv,
    nn.Linear: linear,
    **dict.fromkeys(operations.ADDS, add),
    **dict.fromkeys(operations.PRODUCTS, multiply),
    **dict.fromkeys((torch.cat, torch.concat), concatenate),
    **dict.fromkeys((nn.Flatten, torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze), reshape),
    **dict.fromkeys(("flatten", "reshape", "view", "squeeze", "unsqueeze"), reshape),
    **dict.fromkeys((torch.mean, "mean", torch.amax, "amax"), reduce),
    **dict.fromkeys((torch.permute, "permute"), permute),
    operator.getitem: index,
    F.pad: pad,
    "torchvision.ops.stochastic_depth.stochastic_depth": same,
}
"""Module type, function, name of a tensor's method, or dotted name of a function -> its rule.

For a module, the rule of its nearest base class counts.
"""


def rule_of(call: Call) -> Rule | None:
    """The rule for an operation; None if there is none."""
    if call.module is not None:
        kinds = type(call.module).__mro__
        return next((RULES[kind] for kind in kinds if kind in RULES), None) if len(call.inputs) == 1 else None
    target = call.node.target
    name = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
    return RULES.get(target, RULES.get(name)) if call.inputs else None
