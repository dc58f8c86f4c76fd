"""The correspondence of teacher and student: the teacher's channels and features to reproduce.

Module names are the correspondence: a conv of the student should make what the conv of the same name makes in
the teacher, as far as channels were kept. Only before a dropped block it is different. Example: `layer1.1`
was dropped.

    teacher    layer1.0.bn2 -> add -> relu -> layer1.1 ... add -> relu -> layer2.0
    student    layer1.0.bn2 -> add -> relu -> layer1.1 (nn.Identity)   -> layer2.0

The student's first add now feeds `layer2.0` directly, so it should reproduce the teacher's *second* add. The
ReLU that follows on both sides is the `tail`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fsc.graph import operations
from fsc.graph.module_regions import regions
from fsc.graph.tracing import module_of, walk_from
from fsc.surgery.recipe import kept_channels, teacher_name

Kept = Mapping[str, Sequence[int]]
"""Conv -> the teacher's filters that the student still has, for students without a recipe."""

_RELUS = {F.relu, torch.relu, "relu", "relu_"}


class Replacement(NamedTuple):
    """The teacher's feature that a student's node before a dropped block should reproduce."""

    teacher_node: fx.Node  # behind the dropped block; of several dropped in a row, behind the last
    tail: tuple[fx.Node, ...]  # the student's nodes up to the block; the teacher has the same operations
    identity: fx.Node  # the student's `nn.Identity` in the place of the last dropped block


def replacements(teacher: fx.GraphModule, student: fx.GraphModule) -> dict[fx.Node, Replacement]:
    """The student's nodes that can make up for a dropped block, each with its replacement.

    Where something else reads the input of the dropped block too, no node can serve both, and none is listed.
    """
    blocks, modules, found = regions(teacher), dict(teacher.named_modules()), {}
    inputs: dict[fx.Node, fx.Node | None] = {}  # nn.Identity -> the input of the first of those in a row
    for node in student.graph.nodes:
        is_identity = isinstance(module_of(student, node), nn.Identity) and node.target in blocks
        if not is_identity or isinstance(modules[node.target], nn.Identity):
            continue
        (read,), block = node.all_input_nodes, blocks[node.target]
        inputs[node] = inputs.get(read, read) if len(read.users) == 1 else None
        if inputs[node] is not None and block.why_not() is None:
            found[inputs[node]] = block.leaves[0], node
    return dict(_before_the_tail(student, mine, teacher, *there) for mine, there in found.items())


def kept_behind(net: nn.Module, identity: fx.Node, channels: Tensor | None) -> Tensor | None:
    """The teacher's channels that are read behind a dropped block, by the recipe; else `channels`."""

    def reads(node: fx.Node) -> bool:
        module = module_of(net, node)
        return isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d)

    for node in walk_from(identity.users, lambda node: [] if reads(node) else node.users):
        kept = kept_channels(net, node.target, "in") if reads(node) else None
        if kept is not None and len(kept) == identity.meta["shape"][1]:
            return kept
    return channels


def kept_filters(net: nn.Module, name: str, teacher: fx.GraphModule, given: Kept | None) -> Tensor | None:
    """The teacher's filters that the student's conv `name` still has; None: all.

    Args:
        given: the filters that the user named, for students without a recipe.
    """
    kept, origin = kept_channels(net, name), teacher_name(net, name)
    conv, original = net.get_submodule(name), teacher.get_submodule(origin)
    if given is not None and origin in given:
        kept = torch.as_tensor(given[origin], dtype=torch.long).flatten()
        if len({*kept.tolist()} & {*range(original.out_channels)}) != len(kept):
            raise ValueError(
                f"kept[{origin!r}] must be different filters of the teacher's {original.out_channels}, "
                f"counted from 0; given {kept.tolist()}.\n"
                f"  Pass the indices of the filters that the student still has."
            )
    count = original.out_channels if kept is None else len(kept)
    if count != conv.out_channels:
        cause = "its recipe, or kept=, says" if kept is not None else "without a recipe it should have"
        raise ValueError(
            f"teacher and student do not correspond at {name}: the student has {conv.out_channels} "
            f"filters of the teacher's {original.out_channels}; {cause} {count}.\n"
            f"  A student pruned by hand or by another tool needs the filters that it kept, "
            f'kept={{"{origin}": [0, 2, ...], ...}}, for every pruned conv.'
        )
    return kept


def check_names(teacher: fx.GraphModule, student: fx.GraphModule, net: nn.Module) -> None:
    """Refuse a student that has a conv or BatchNorm of another name, or lacks a conv that was not dropped."""
    called = [node for node in teacher.graph.nodes if node.op == "call_module"]
    theirs = {node.target: module_of(teacher, node) for node in called}
    for node in student.graph.nodes:
        module = module_of(student, node)
        name = teacher_name(net, node.target) if isinstance(module, nn.Conv2d | nn.BatchNorm2d) else None
        if name is None or isinstance(theirs.get(name), nn.Conv2d | nn.BatchNorm2d):
            continue  # no conv, or the first of the two convs of a factorized one
        found = type(theirs[name]).__name__ if name in theirs else "nothing that its forward calls"
        raise ValueError(
            f"teacher and student do not correspond at {node.target}: a {type(module).__name__} in the "
            f"student, {found} in the teacher.\n"
            f"  Module names are the correspondence: make the student from this teacher, or keep its names."
        )
    mine = {node.target: module_of(student, node) for node in student.graph.nodes if node.op == "call_module"}
    dropped = tuple(name for name, module in mine.items() if isinstance(module, nn.Identity))
    known = {teacher_name(net, name) for name in mine}
    for name, module in theirs.items():
        if not isinstance(module, nn.Conv2d | nn.Linear) or name in known:
            continue
        if not any(name == block or name.startswith(f"{block}.") for block in dropped):
            raise ValueError(
                f"teacher and student do not correspond at {name}: a {type(module).__name__} in the teacher, "
                f"nothing in the student, and no nn.Identity for a dropped block.\n"
                f"  This student is not one of this teacher: pass the network that it was made from."
            )


def same_maps(mine: fx.Node, theirs: fx.Node, kept: Tensor | None) -> bool:
    """True if two features have maps of the same size, and the student's has the channels that were kept."""
    a, b = mine.meta.get("shape"), theirs.meta.get("shape")
    if a is None or b is None or a[2:] != b[2:]:
        return False
    return a[1] == (b[1] if kept is None else len(kept))


def _before_the_tail(
    student: fx.GraphModule, mine: fx.Node, teacher: fx.GraphModule, theirs: fx.Node, identity: fx.Node
) -> tuple[fx.Node, Replacement]:
    """Step back on both sides over operations that are the same."""
    tail: tuple[fx.Node, ...] = ()
    while (what := _elementwise(student, mine)) is not None and what == _elementwise(teacher, theirs):
        if len(mine.all_input_nodes[0].users) != 1:
            break
        tail = mine, *tail
        (mine,), (theirs,) = mine.all_input_nodes, theirs.all_input_nodes
    return mine, Replacement(theirs, tail, identity)


def _elementwise(graph: fx.GraphModule, node: fx.Node) -> object:
    """The elementwise operation of a node, in a form that can be compared; None for any other operation."""
    module = module_of(graph, node)
    if len(node.all_input_nodes) != 1:
        return None
    if module is None:
        settings = [given for given in (*node.args, *node.kwargs.items()) if not isinstance(given, fx.Node)]
        kind = "relu" if node.target in _RELUS else (node.target, settings)
        return kind if node.target in operations.ELEMENTWISE else None
    ignored = ("_", "training", "inplace")
    settings = {name: value for name, value in vars(module).items() if not name.startswith(ignored)}
    kind = "relu" if type(module) is nn.ReLU else (type(module), settings)
    return kind if isinstance(module, operations.ELEMENTWISE_MODULES) else None
