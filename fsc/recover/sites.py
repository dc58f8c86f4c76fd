"""Places where a 1x1 conv can be fitted to the teacher's feature and merged away, and the merge itself."""

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from fsc.graph import operations
from fsc.graph.tracing import module_of, walk_from
from fsc.recover.correspondence import Kept, check_names, kept_behind, kept_filters, replacements, same_maps
from fsc.recover.lstsq import Fit, Sums
from fsc.surgery.convs import is_plain
from fsc.surgery.merges import fold_bn, merge_after, neutral_bn
from fsc.surgery.recipe import teacher_name


@dataclass(frozen=True, eq=False)
class Site:
    """The place right behind a conv of the student, or behind the BatchNorm that alone reads that conv."""

    conv: str
    norm: str | None  # the BatchNorm
    node: fx.Node  # the student's feature
    # The teacher's feature to reproduce: the same one; before a dropped block, the one behind that block.
    teacher_node: fx.Node
    kept: Tensor | None  # (C,) the teacher's channels that the student's feature has; None: all
    # The student's tensor that an add puts on the feature next. With it, `teacher_node` is for the sum.
    shortcut: fx.Node | None
    stop: int  # place in the student's graph of the first reader; the 1x1 conv must be there before it runs
    groups: int  # the 1x1 conv may mix channels only inside each of this many groups, as the conv does
    bias: bool  # whether a bias can be merged too
    # The student's nodes from here to a dropped block, such as a ReLU. The block ends in the same operations.
    tail: tuple[fx.Node, ...] = ()

    @property
    def name(self) -> str:
        return self.norm or self.conv


def find_sites(
    teacher: fx.GraphModule, student: fx.GraphModule, net: nn.Module, *,
    at: str, shortcuts: bool = True, kept: Kept | None = None,
) -> tuple[list[Site], dict[str, str]]:
    """All sites of `net` in the order of execution; and for each conv that has none, the reason.

    Args:
        teacher, student: graphs of `graph.tracing.trace`.
        net: the student that was traced, for its recipe.
        at: "block": behind the last conv of each branch, of each factorized conv and of each plain layer;
            "conv": behind every conv.
        shortcuts: where a shortcut is added next, compare the sums.
        kept: for a student without a recipe.

    Raises:
        ValueError: teacher and student do not correspond; names the first module that differs.
    """
    check_names(teacher, student, net)
    theirs = {node.target: node for node in teacher.graph.nodes if node.op == "call_module"}
    place = {node: i for i, node in enumerate(student.graph.nodes)}
    replaced = replacements(teacher, student)
    sites, without = [], {}
    for node in student.graph.nodes:
        conv = module_of(student, node)
        origin = teacher_name(net, node.target) if isinstance(conv, nn.Conv2d) and node.users else None
        if origin is None:
            continue
        channels = kept_filters(net, node.target, teacher, kept)
        if at == "block" and not _ends_a_block(student, node, net):
            continue
        if why := _why_not(student, node):
            without[node.target] = why
            continue
        norm = _norm_behind(student, node)
        feature, teacher_node, tail = norm or node, theirs[norm.target if norm else origin], ()
        (add, shortcut), (teacher_sum, _) = _added(feature), _added(teacher_node)
        if feature in replaced:
            teacher_node, tail, identity = replaced[feature]
            channels = kept_behind(net, identity, channels)
        if not same_maps(feature, teacher_node, channels):
            raise ValueError(
                f"teacher and student do not correspond at {feature.target}: feature maps (1, C, H, W) of "
                f"{feature.meta['shape']} in the student, {teacher_node.meta['shape']} in the teacher.\n"
                f"  A student may have fewer channels than its teacher, but its maps must be as large."
            )
        sum_tail = ()
        if add in replaced:  # the add feeds a dropped block
            teacher_sum, sum_tail, _ = replaced[add]
        if shortcuts and shortcut and teacher_sum and same_maps(shortcut, teacher_sum, channels):
            teacher_node, tail = teacher_sum, sum_tail
        else:
            shortcut = None
        stop, bias = min(place[user] for user in feature.users), norm is not None or conv.bias is not None
        where = (node.target, norm and norm.target, feature, teacher_node, channels, shortcut)
        sites.append(Site(*where, stop, conv.groups, bias, tail))
    return sorted(sites, key=lambda site: site.stop), without


def merge_at(net: nn.Module, site: Site, fit: Fit, sums: Sums) -> None:
    """Merge the fitted 1x1 conv into the conv and BatchNorm before it, in place: W' = Q W (theorem 1).

    The BatchNorm becomes neutral: it keeps the mean and variance of the fitted feature. So it passes its
    input on in eval mode, and training can go on from there.
    """
    conv = net.get_submodule(site.conv)
    bn = None if site.norm is None else net.get_submodule(site.norm)
    merged = merge_after(conv if bn is None else fold_bn(conv, bn), fit.q, fit.bias)
    with torch.no_grad():
        conv.weight.copy_(merged.weight)
        if conv.bias is not None:
            conv.bias.copy_(merged.bias)
        if bn is None:
            return
        mean, var = sums.mean_and_variance(fit)                              # (C,) each
        neutral = neutral_bn(mean, var, eps=bn.eps)
        if conv.bias is None:
            # A conv without a bias cannot add the merged bias. BatchNorm adds it by a smaller mean.
            neutral.running_mean = mean - merged.bias.to(mean)
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(bn, name).copy_(getattr(neutral, name))


def _ends_a_block(graph: fx.GraphModule, node: fx.Node, net: nn.Module) -> bool:
    """True for the last conv of a branch or of a factorized conv, and for one that all paths pass."""
    is_factorized = teacher_name(net, node.target) != node.target
    return is_factorized or _is_passed_by_all_paths(graph, node) or _reaches_a_join(graph, node)


def _added(feature: fx.Node) -> tuple[fx.Node | None, fx.Node | None]:
    """The add that alone reads the feature, and its other term."""
    (reader, *others) = feature.users
    subtracts = "sub" in getattr(reader.target, "__name__", str(reader.target))
    terms = [arg for arg in reader.args if isinstance(arg, fx.Node)]
    if others or reader.kwargs or reader.target not in operations.ADDS or subtracts:
        return None, None
    if len(terms) != 2 or len(reader.args) != 2 or terms[0] is terms[1]:
        return None, None
    return reader, terms[terms[0] is feature]


def _is_passed_by_all_paths(graph: fx.GraphModule, node: fx.Node) -> bool:
    """True if no tensor that was made before the node is read after it."""
    place = {n: i for i, n in enumerate(graph.graph.nodes)}
    tensors = [n for n in place if "shape" in n.meta and n.op != "get_attr" and n is not node]
    return not any(place[n] < place[node] < place[user] for n in tensors for user in n.users)


def _reaches_a_join(graph: fx.GraphModule, node: fx.Node) -> bool:
    """True if a path from the conv comes to an add or a concatenation before another conv or a product."""

    def joins(user: fx.Node) -> bool:
        adds = user.target in operations.ADDS and len(user.all_input_nodes) > 1
        return adds or user.target in (torch.cat, torch.concat)

    def onward(user: fx.Node) -> list[fx.Node]:
        mixes = isinstance(module_of(graph, user), nn.Conv2d | nn.Linear)
        return [] if mixes or joins(user) or user.target in operations.PRODUCTS else list(user.users)

    return any(joins(user) for user in walk_from(node.users, onward))


def _norm_behind(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The BatchNorm that is the only reader of a conv, if everything that is merged into it fits in there."""
    (first, *others) = node.users
    norm = module_of(graph, first)
    if others or not first.users or not isinstance(norm, nn.BatchNorm2d) or _is_called_twice(graph, first):
        return None
    is_plain_norm = norm.affine and norm.track_running_stats and set(norm._parameters) == {"weight", "bias"}
    return first if is_plain_norm and not norm._forward_hooks and not norm._forward_pre_hooks else None


def _is_called_twice(graph: fx.GraphModule, node: fx.Node) -> bool:
    return sum(n.op == "call_module" and n.target == node.target for n in graph.graph.nodes) > 1


def _why_not(graph: fx.GraphModule, node: fx.Node) -> str | None:
    """The reason why nothing can be merged into a conv, if there is one."""
    conv = module_of(graph, node)
    if _is_called_twice(graph, node):
        return "it is called more than once, and an adaptor would act in all its places"
    if not is_plain(conv) or set(conv._parameters) != {"weight", "bias"}:
        return "it computes its weight or its output in a way of its own"
    if conv._forward_hooks:
        return "it has a forward hook, which would act on the merged output"
    if any(n.op == "get_attr" and n.target.rpartition(".")[0] == node.target for n in graph.graph.nodes):
        return "the forward reads its weight in another place too"
    for name, module in graph.named_modules():
        if name != node.target and any(p is conv.weight for p in module.parameters(recurse=False)):
            return f"it shares its weight with {name}"
    return None
