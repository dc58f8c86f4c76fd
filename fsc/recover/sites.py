"""Where a 1x1 adaptor can sit in a student and be merged away, and which feature of the teacher answers to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from fsc.graph import operations
from fsc.graph.tracing import module_of
from fsc.recover.correspondence import answers, kept_behind
from fsc.surgery.merges import fold_bn, merge_after, neutral_bn
from fsc.surgery.recipe import kept_channels, teacher_name

Kept = Mapping[str, Sequence[int]]
"""Conv -> the teacher's filters that the student still has, for students without a recipe."""


@dataclass(frozen=True, eq=False)
class Site:
    """The place right behind a conv of the student, or behind the BatchNorm that alone reads it.

    What comes before a dropped block answers to what the teacher has behind that block: so it makes up for the hole.

    Attributes:
        conv, norm: names of the conv and of that BatchNorm, or None.
        node, twin: the feature there, in the student's and in the teacher's graph.
        kept: (C,) which of the teacher's channels the student's answer to; None: all.
        other: what an add puts on the feature next, such as the shortcut of a residual block; or None.
        twin_sum: the teacher's sum that answers to that add, or None.
        stop: the place in the student's graph before which the adaptor must be there: its first reader.
        groups: the adaptor may only mix channels inside each of so many groups, as the conv does.
        bias: a bias can be merged too.
        last: what the student still does before a hole, such as a ReLU; the dropped block ends in the same.
    """

    conv: str
    norm: str | None
    node: fx.Node
    twin: fx.Node
    kept: Tensor | None
    other: fx.Node | None
    twin_sum: fx.Node | None
    stop: int
    groups: int
    bias: bool
    last: tuple[fx.Node, ...] = ()

    @property
    def name(self) -> str:
        return self.norm or self.conv


def find_sites(
    teacher: fx.GraphModule, student: fx.GraphModule, net: nn.Module, *, at: str, kept: Kept | None = None
) -> tuple[list[Site], dict[str, str]]:
    """All sites of `net` in the order of execution, and conv -> why it has none.

    Args:
        teacher, student: graphs of `graph.trace`.
        net: the student that was traced, for its recipe.
        at: "block", behind the last conv of each branch, of each factorized conv and of each plain layer; or "conv",
            behind every conv.
        kept: for a student without a recipe.

    Raises:
        ValueError: teacher and student do not correspond; names the first module that differs.
    """
    theirs = {node.target: node for node in teacher.graph.nodes if node.op == "call_module"}
    place = {node: i for i, node in enumerate(student.graph.nodes)}
    sites, without = [], {}
    absorbs = answers(teacher, student)
    _check_names(teacher, student, net, theirs)
    for node in student.graph.nodes:
        conv = module_of(student, node)
        if not isinstance(conv, nn.Conv2d) or teacher_name(net, node.target) is None or not node.users:
            continue
        channels = _kept(net, node.target, conv, module_of(teacher, theirs[teacher_name(net, node.target)]), kept)
        if at == "block" and not ends_a_block(student, node, net):
            continue
        if why := _why_not(student, node):
            without[node.target] = why
            continue
        norm = _norm_behind(student, node)
        feature = norm or node
        twin = theirs[norm.target if norm else teacher_name(net, node.target)]
        last: tuple[fx.Node, ...] = ()
        (add, other), (twin_sum, _) = _added(feature), _added(twin)
        if feature in absorbs:
            twin, last, hole = absorbs[feature]
            channels = kept_behind(net, hole, channels)
        elif add in absorbs:
            twin_sum, last, _ = absorbs[add]
        if other is None or twin_sum is None or not _same_maps(other, twin_sum, channels):
            other = twin_sum = None
        _check_maps(feature, twin, channels)
        sites.append(Site(
            conv=node.target, norm=norm.target if norm else None, node=feature, twin=twin, kept=channels,
            other=other, twin_sum=twin_sum, stop=min(place[user] for user in feature.users), groups=conv.groups,
            bias=norm is not None or conv.bias is not None, last=last,
        ))  # fmt: skip
    return sorted(sites, key=lambda site: site.stop), without


def ends_a_block(graph: fx.GraphModule, node: fx.Node, net: nn.Module) -> bool:
    """Whether a conv is the last of a branch, of a factorized conv, or stands on the trunk, where all paths pass."""
    return teacher_name(net, node.target) != node.target or _on_the_trunk(graph, node) or _reaches_a_join(graph, node)


def _on_the_trunk(graph: fx.GraphModule, node: fx.Node) -> bool:
    """No tensor made before the node is read after it."""
    place = {n: i for i, n in enumerate(graph.graph.nodes)}
    here = place[node]
    return not any(
        place[n] < here < place[user]
        for n in graph.graph.nodes if "shape" in n.meta and n.op != "get_attr" and n is not node
        for user in n.users
    )  # fmt: skip


def _reaches_a_join(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Some way from the conv comes to an add or a concatenation before it comes to another conv or to a product."""
    front, seen = list(node.users), set()
    while front:
        user = front.pop()
        if user in seen:
            continue
        seen.add(user)
        adds = user.target in operations.ADDS and len(user.all_input_nodes) > 1
        if adds or user.target in (torch.cat, torch.concat):
            return True
        if user.target in operations.PRODUCTS or isinstance(module_of(graph, user), nn.Conv2d | nn.Linear):
            continue
        front.extend(user.users)
    return False


def _norm_behind(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The BatchNorm that is the only reader of a conv, if it can take up whatever is merged into it."""
    (first, *others) = node.users
    norm = module_of(graph, first)
    fits = isinstance(norm, nn.BatchNorm2d) and norm.affine and norm.track_running_stats
    return first if fits and not others and first.users and not _calls_twice(graph, first) else None


def _calls_twice(graph: fx.GraphModule, node: fx.Node) -> bool:
    return sum(n.op == "call_module" and n.target == node.target for n in graph.graph.nodes) > 1


def _why_not(graph: fx.GraphModule, node: fx.Node) -> str | None:
    conv = module_of(graph, node)
    if _calls_twice(graph, node):
        return "it is called more than once, and an adaptor would act in all its places"
    if "weight" not in conv._parameters:
        return "it computes its weight anew in each pass (a parametrization or mask)"
    owners = [name for name, m in graph.named_modules() if any(p is conv.weight for p in m.parameters(recurse=False))]
    return f"it shares its weight with {next(n for n in owners if n != node.target)}" if len(owners) > 1 else None


def _added(feature: fx.Node) -> tuple[fx.Node | None, fx.Node | None]:
    """The add that alone reads the feature, and what it puts on it."""
    (reader, *others) = feature.users
    plus = reader.target in operations.ADDS and "sub" not in getattr(reader.target, "__name__", str(reader.target))
    terms = [arg for arg in reader.args if isinstance(arg, fx.Node)]
    if others or not plus or len(terms) != 2 or len(reader.args) != 2 or reader.kwargs or terms[0] is terms[1]:
        return None, None
    return reader, terms[terms[0] is feature]


def _same_maps(mine: fx.Node, theirs: fx.Node, kept: Tensor | None) -> bool:
    a, b = mine.meta.get("shape"), theirs.meta.get("shape")
    return a is not None and b is not None and a[2:] == b[2:] and a[1] == (b[1] if kept is None else len(kept))


def merge_at(net: nn.Module, site: Site, q: Tensor, bias: Tensor | None, mean: Tensor, var: Tensor) -> None:
    """Put the 1x1 conv `q` (C, C) with its `bias` (C,) into the conv and BatchNorm before it, in place, exactly.

    The BatchNorm becomes neutral. `mean` and `var` (C,) are those of what leaves the adaptor: in train mode, too, the
    BatchNorm goes on from there.
    """
    conv = net.get_submodule(site.conv)
    bn = None if site.norm is None else net.get_submodule(site.norm)
    merged = merge_after(conv if bn is None else fold_bn(conv, bn), q, bias)
    with torch.no_grad():
        conv.weight.copy_(merged.weight)
        if conv.bias is not None:
            conv.bias.copy_(merged.bias)
        if bn is None:
            return
        neutral = neutral_bn(mean, var, eps=bn.eps)
        bn.weight.copy_(neutral.weight)
        bn.bias.copy_(neutral.bias)
        bn.running_var.copy_(neutral.running_var)
        # Where the conv has no bias, BatchNorm makes that shift: it expects the mean without it.
        bn.running_mean.copy_(neutral.running_mean if conv.bias is not None else mean - merged.bias.to(mean))


# -- do the two correspond? ---------------------------------------------------------------------------------------


def _check_names(teacher, student, net, theirs: dict[str, fx.Node]) -> None:
    """Every conv and BatchNorm of the student has a twin of its name in the teacher."""
    for node in student.graph.nodes:
        module = module_of(student, node)
        if not isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            continue
        name = teacher_name(net, node.target)
        if name is None:  # the first half of a factorized conv
            continue
        twin = theirs.get(name)
        found = "nothing that its forward calls" if twin is None else type(module_of(teacher, twin)).__name__
        if twin is None or not isinstance(module_of(teacher, twin), nn.Conv2d | nn.BatchNorm2d):
            raise ValueError(
                f"fskd: teacher and student do not correspond at {node.target}: a {type(module).__name__} in the "
                f"student, {found} in the teacher.\n"
                f"  Module names are the correspondence: make the student from this teacher, or keep its names."
            )


def _kept(net: nn.Module, name: str, conv: nn.Conv2d, twin: nn.Conv2d, given: Kept | None) -> Tensor | None:
    """The teacher's filters that the student's conv still has."""
    recorded = kept_channels(net, name)
    origin = teacher_name(net, name)
    if given is not None and origin in given:
        recorded = torch.as_tensor(given[origin], dtype=torch.long).flatten()
        wrong = len(recorded) and (int(recorded.max()) >= twin.out_channels or int(recorded.min()) < 0)
        if wrong or len(recorded.unique()) != len(recorded):
            raise ValueError(
                f"fskd: kept[{origin!r}] must be different filters of the teacher's {twin.out_channels}, counted from "
                f"0; given {recorded.tolist()}.\n  Pass the indices of the filters that the student still has."
            )
    count = twin.out_channels if recorded is None else len(recorded)
    if count != conv.out_channels:
        cause = "its recipe, or kept=, says" if recorded is not None else "without a recipe it should have"
        raise ValueError(
            f"fskd: teacher and student do not correspond at {name}: the student has {conv.out_channels} filters of "
            f"the teacher's {twin.out_channels}; {cause} {count}.\n"
            f"  A student pruned by hand or by another tool needs the filters that it kept, "
            f'kept={{"{origin}": [0, 2, ...], ...}}, for every pruned conv.'
        )
    return recorded


def _check_maps(feature: fx.Node, twin: fx.Node, kept: Tensor | None) -> None:
    if not _same_maps(feature, twin, kept):
        raise ValueError(
            f"fskd: teacher and student do not correspond at {feature.target}: feature maps (1, C, H, W) of "
            f"{feature.meta['shape']} in the student, {twin.meta['shape']} in the teacher.\n"
            f"  A student may have fewer channels than its teacher, but its maps must be as large."
        )
