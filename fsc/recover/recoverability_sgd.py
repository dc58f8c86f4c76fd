"""PRACTISE's own way to judge a dropped block: adaptors around the hole, trained by SGD, and thrown away again.

Wang, Wu: Practical Network Acceleration with Tiny Sets, CVPR 2023.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fsc.graph import operations
from fsc.graph.channels import follow_channels
from fsc.graph.tracing import module_of
from fsc.recover.adaptors import Adaptor, put_before, put_behind
from fsc.recover.training import Training, descend


def places(graph: fx.GraphModule, holes: list[fx.Node]) -> tuple[list[fx.Node], list[fx.Node]]:
    """The convs that make the stream which passes the holes, before them; and those that read it, behind them.

    In a ResNet the first are the last conv of each earlier block of the stage and its downsample conv, the others the
    first conv of each later block of the stage, the next stage's first and its downsample conv. Found by the channels:
    a stream is what adds make one. A conv that reads the images, a stem, gets none, as published.
    """
    ports = follow_channels(graph).ports
    sides: dict[str, dict[str, set[int]]] = {"in": {}, "out": {}}
    for port in ports:
        sides[port.side][port.name] = set(port.labels.tolist())
    makers = {port.name for port in ports if port.makes}
    order = list(graph.graph.nodes)
    before: set[fx.Node] = set()
    behind: set[fx.Node] = set()
    for hole in holes:
        stream = _stream(graph, hole, sides)
        here = order.index(hole)
        convs = [node for node in order if isinstance(module_of(graph, node), nn.Conv2d)]
        reading = {node for node in convs if sides["in"].get(node.target, set()) & stream}
        making = {node for node in convs if node.target in makers and sides["out"][node.target] & stream}
        before |= {node for node in making if order.index(node) < here and not _reads_images(graph, node)}
        behind |= {node for node in reading if order.index(node) > here}
    return [node for node in order if node in before], [node for node in order if node in behind]


def with_adaptors(
    graph: fx.GraphModule, before: list[fx.Node], behind: list[fx.Node]
) -> tuple[fx.GraphModule, dict[tuple[str, str], Adaptor]]:
    """The graph with adaptors, identities so far, and the adaptors by ("after" or "before", conv).

    One sits right behind each conv that is `before` the hole, ahead of its BatchNorm; one right before each that is
    `behind` it. The other modules are those of `graph`, not copies.
    """
    copied, twins = fx.Graph(), {}
    copied.output(copied.graph_copy(graph.graph, twins))
    adapted = fx.GraphModule(graph, copied)
    adaptors = {}
    for side, nodes in (("after", before), ("before", behind)):
        for node in nodes:
            conv, twin = module_of(graph, node), twins[node]
            channels = conv.out_channels if side == "after" else conv.in_channels
            adaptor = Adaptor(channels, conv.groups).to(conv.weight.device, conv.weight.dtype)
            adaptors[side, node.target] = adaptor
            name = f"adaptor_{len(adaptors)}"
            if side == "after":
                put_behind(adapted, twin, name, adaptor)
            else:
                put_before(adapted, twin, name, adaptor)
    adapted.recompile()
    return adapted.eval(), adaptors


def train_around(
    teacher: nn.Module, graph: fx.GraphModule, holes: list[fx.Node], images: Tensor, training: Training
) -> tuple[fx.GraphModule, dict[tuple[str, str], Adaptor]]:
    """The dropped net with trained adaptors: mean squared error of its feature, everything else frozen, eval mode.

    Args:
        teacher: images -> its feature; frozen.
        graph: the dropped net, images -> its feature; its parameters must be frozen.
    """
    adapted, adaptors = with_adaptors(graph, *places(graph, holes))

    def loss_of(batch: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = teacher(batch)                                        # (B, C, H, W)
        return F.mse_loss(adapted(batch), wanted)

    if adaptors:
        descend(adapted, loss_of, images, training, beside=[teacher])
    return adapted, adaptors


def _stream(graph: fx.GraphModule, hole: fx.Node, sides: dict[str, dict[str, set[int]]]) -> set[int]:
    """The labels of the channels that pass the hole: of who makes them, of who reads them."""
    found: set[int] = set()
    for side, onward in (("out", lambda n: n.all_input_nodes), ("in", lambda n: list(n.users))):
        front, seen = onward(hole), set()
        while front:
            node = front.pop()
            if node in seen:
                continue
            seen.add(node)
            if node.target in sides[side] and node.op == "call_module":
                found |= sides[side][node.target]
            elif _hands_on(graph, node):
                front = [*front, *onward(node)]
    return found


def _hands_on(graph: fx.GraphModule, node: fx.Node) -> bool:
    module = module_of(graph, node)
    if module is not None:
        return operations.hands_channels_on(module, 1) or isinstance(module, nn.BatchNorm2d)
    named = getattr(node.target, "__name__", "") == "stochastic_depth"
    return named or node.target in operations.ELEMENTWISE | operations.SPATIAL | operations.ADDS


def _reads_images(graph: fx.GraphModule, node: fx.Node) -> bool:
    front, seen = list(node.all_input_nodes), set()
    while front:
        back = front.pop()
        if isinstance(module_of(graph, back), nn.Conv2d | nn.Linear):
            return False
        if back not in seen:
            seen.add(back)
            front.extend(back.all_input_nodes)
    return True
