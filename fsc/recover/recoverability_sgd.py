"""Recoverability as published: adaptors around the dropped block are trained by SGD, and thrown away again.

Wang, Wu: Practical Network Acceleration with Tiny Sets, CVPR 2023.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fsc.graph import operations
from fsc.graph.channels import follow_channels
from fsc.graph.stepwise import Stepwise
from fsc.graph.tracing import module_of, walk_from
from fsc.recover.adaptors import Adaptor, put_between
from fsc.recover.candidate_blocks import Candidate, Trial, merely_dropped
from fsc.recover.training import Training, descend
from fsc.runtime import nested


def judge_by_sgd(
    teacher: fx.GraphModule, candidates: Sequence[Candidate], trial: Trial, images: Tensor, training: Training
) -> list[dict[str, float]]:
    """One row per candidate: its losses when merely dropped, and with adaptors trained around the block.

    Args:
        images: (N, C, H, W), those to fit.
    """
    rows = []
    for i, candidate in enumerate(candidates):
        begin = time.perf_counter()
        whole = Stepwise(teacher, trial.chunks)
        for chunk in range(len(trial.chunks)):
            whole.advance(chunk, candidate.start)
        row = merely_dropped(whole, candidate, trial)
        each = replace(training, progress=nested(training.progress, i, len(candidates)))
        adapted, adaptors = train_around(teacher, candidate.body, candidate.dropped, images, each)
        found = [adapted(chunk) for chunk in trial.chunks]
        row["recoverability"], row["held_out_recoverability"] = trial.losses(found)
        rows.append(row | {"sites": len(adaptors), "seconds": time.perf_counter() - begin})
    return rows


def train_around(
    teacher: nn.Module, graph: fx.GraphModule, dropped: list[fx.Node], images: Tensor, training: Training
) -> tuple[fx.GraphModule, dict[tuple[str, str], Adaptor]]:
    """The network without the blocks, with trained adaptors; everything else is frozen and in eval mode.

    Args:
        teacher: images -> its feature before pooling; frozen.
        graph: the network without the blocks, images -> its feature; its parameters must be frozen.
    """
    adapted, adaptors = with_adaptors(graph, *places(graph, dropped))

    def loss_of(batch: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = teacher(batch)                                        # (B, C, H, W)
        return F.mse_loss(adapted(batch), wanted)

    if adaptors:
        descend(adapted, loss_of, images, training, beside=[teacher])
    return adapted, adaptors


def places(graph: fx.GraphModule, dropped: list[fx.Node]) -> tuple[list[fx.Node], list[fx.Node]]:
    """The convs before the dropped blocks that make the stream, and the convs behind that read it.

    In a ResNet the convs before are the last conv of each earlier block of the stage and its downsample conv.
    The convs behind are the first conv of each later block of the stage, and the next stage's first conv and
    downsample conv. They are found by following channels: adds make the channels of a stream one. A stem, a
    conv that reads the images, gets no adaptor, as published.
    """
    sides = follow_channels(graph).ports
    read = {side.name: set(side.labels.tolist()) for side in sides if side.side == "in"}
    made = {side.name: set(side.labels.tolist()) for side in sides if side.side == "out"}
    makers = {side.name for side in sides if side.makes}
    order = {node: i for i, node in enumerate(graph.graph.nodes)}
    convs = [node for node in order if isinstance(module_of(graph, node), nn.Conv2d)]
    before: set[fx.Node] = set()
    behind: set[fx.Node] = set()
    for block in dropped:
        stream = _nearest(graph, block, made, lambda node: node.all_input_nodes)
        stream |= _nearest(graph, block, read, lambda node: list(node.users))
        making = [node for node in convs if node.target in makers and made[node.target] & stream]
        reading = [node for node in convs if read.get(node.target, set()) & stream]
        before |= {node for node in making if order[node] < order[block] and not _reads_images(graph, node)}
        behind |= {node for node in reading if order[node] > order[block]}
    return [node for node in order if node in before], [node for node in order if node in behind]


def with_adaptors(
    graph: fx.GraphModule, before: list[fx.Node], behind: list[fx.Node]
) -> tuple[fx.GraphModule, dict[tuple[str, str], Adaptor]]:
    """The graph with adaptors, each the identity so far; and the adaptors by ("after" or "before", conv).

    One adaptor stands right behind each conv of `before`, ahead of its BatchNorm, and one right before each
    conv of `behind`. The other modules are those of `graph`, not copies.
    """
    copied, copy_of = fx.Graph(), {}
    copied.output(copied.graph_copy(graph.graph, copy_of))
    adapted = fx.GraphModule(graph, copied)
    adaptors = {}
    for side, nodes in (("after", before), ("before", behind)):
        for node in nodes:
            conv, here = module_of(graph, node), copy_of[node]
            between = (here, list(here.users)) if side == "after" else (here.all_input_nodes[0], [here])
            channels = conv.out_channels if side == "after" else conv.in_channels
            adaptor = Adaptor(channels, conv.groups).to(conv.weight.device, conv.weight.dtype)
            adaptors[side, node.target] = adaptor
            put_between(adapted, *between, f"adaptor_{len(adaptors)}", adaptor)
    adapted.recompile()
    return adapted.eval(), adaptors


def _nearest(
    graph: fx.GraphModule,
    block: fx.Node,
    labels: dict[str, set[int]],
    onward: Callable[[fx.Node], list[fx.Node]],
) -> set[int]:
    """The labels of the first modules with channels of their own, on the way from the dropped block."""

    def is_labelled(node: fx.Node) -> bool:
        return node.op == "call_module" and node.target in labels

    def further(node: fx.Node) -> list[fx.Node]:
        return [] if is_labelled(node) or not _hands_channels_on(graph, node) else onward(node)

    reached = walk_from(onward(block), further)
    return set().union(*(labels[node.target] for node in reached if is_labelled(node)))


def _hands_channels_on(graph: fx.GraphModule, node: fx.Node) -> bool:
    module = module_of(graph, node)
    if module is not None:
        return operations.hands_channels_on(module, 1) or isinstance(module, nn.BatchNorm2d)
    named = getattr(node.target, "__name__", "") == "stochastic_depth"
    return named or node.target in operations.ELEMENTWISE | operations.SPATIAL | operations.ADDS


def _reads_images(graph: fx.GraphModule, node: fx.Node) -> bool:
    """True if there is no conv and no linear layer between the images and this node."""
    before = walk_from(node.all_input_nodes, lambda n: n.all_input_nodes)
    return not any(isinstance(module_of(graph, n), nn.Conv2d | nn.Linear) for n in before)
