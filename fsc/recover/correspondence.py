"""Where a student has `nn.Identity` for a block of its teacher: who answers for what then comes out."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fsc.graph import operations
from fsc.graph.module_regions import regions
from fsc.surgery.recipe import kept_channels

_RELUS = {F.relu, torch.relu, "relu", "relu_"}


class Answer(NamedTuple):
    """What a student's node before a hole answers to.

    Attributes:
        twin: the teacher's node behind the dropped block; of holes in a row, behind the last.
        last: what follows on both sides in the same way, a ReLU say: the student's nodes up to the hole.
        hole: the last hole.
    """

    twin: fx.Node
    last: tuple[fx.Node, ...]
    hole: fx.Node


def answers(teacher: fx.GraphModule, student: fx.GraphModule) -> dict[fx.Node, Answer]:
    """The student's nodes that can make up for a hole, each with its answer.

    Where something else, too, reads what enters the hole, nobody can answer for both, and the hole has no entry.
    """
    blocks, found = regions(teacher), {}
    enters: dict[fx.Node, fx.Node | None] = {}  # hole -> what enters the first of those in a row
    for hole in holes(teacher, student):
        before, block = hole.all_input_nodes[0], blocks[hole.target]
        start = enters.get(before, before) if len(before.users) == 1 else None
        enters[hole] = start
        if start is not None and block.why_not() is None:
            found[start] = block.leaves[0], hole
    return dict(_walk_back(student, mine, teacher, theirs, hole) for mine, (theirs, hole) in found.items())


def holes(teacher: fx.GraphModule, student: fx.GraphModule) -> list[fx.Node]:
    """The student's `nn.Identity` where the teacher has something else."""
    blocks, modules = regions(teacher), dict(teacher.named_modules())
    return [
        node for node in student.graph.nodes
        if node.op == "call_module" and isinstance(student.get_submodule(node.target), nn.Identity)
        and node.target in blocks and not isinstance(modules.get(node.target), nn.Identity)
    ]  # fmt: skip


def kept_behind(net: nn.Module, hole: fx.Node, channels: Tensor | None) -> Tensor | None:
    """Which of the teacher's channels are read behind the hole, by the recipe of the first that reads them all.

    `channels`, those of who answers for the hole, where no recipe knows better.
    """
    front, seen = list(hole.users), set()
    while front:
        node = front.pop(0)
        if node in seen:
            continue
        seen.add(node)
        module = net.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            kept = kept_channels(net, node.target, "in")
            if kept is not None and len(kept) == hole.meta["shape"][1]:
                return kept
        else:
            front.extend(node.users)
    return channels


def _walk_back(
    student: fx.GraphModule, mine: fx.Node, teacher: fx.GraphModule, theirs: fx.Node, hole: fx.Node
) -> tuple[fx.Node, Answer]:
    last: tuple[fx.Node, ...] = ()
    while _alike(student, mine, teacher, theirs) and len(mine.all_input_nodes[0].users) == 1:
        last = mine, *last
        (mine,), (theirs,) = mine.all_input_nodes, theirs.all_input_nodes
    return mine, Answer(theirs, last, hole)


def _alike(student: fx.GraphModule, mine: fx.Node, teacher: fx.GraphModule, theirs: fx.Node) -> bool:
    """Whether both treat every number by itself, and in the same way."""
    does = _does(student, mine)
    return does is not None and does == _does(teacher, theirs)


def _does(graph: fx.GraphModule, node: fx.Node) -> tuple | None:
    """What a node does to each number by itself, to be compared; None for all else."""
    if len(node.all_input_nodes) != 1:
        return None
    if node.op != "call_module":
        given = [given for given in (*node.args, *node.kwargs.items()) if not isinstance(given, fx.Node)]
        kind = "relu" if node.target in _RELUS else (node.target, given)
        return (kind,) if node.target in operations.ELEMENTWISE else None
    module = graph.get_submodule(node.target)
    settings = {k: v for k, v in vars(module).items() if not k.startswith("_") and k not in ("training", "inplace")}
    kind = "relu" if type(module) is nn.ReLU else (type(module), settings)
    return (kind,) if isinstance(module, operations.ELEMENTWISE_MODULES) else None
