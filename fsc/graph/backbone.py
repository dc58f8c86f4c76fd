"""The feature that a net's head reads: found by rule in the graph of the net, and the net cut off behind it."""

import difflib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fsc.graph.tracing import trace

_POOLING_MODULES = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d)
_POOLINGS = {
    F.adaptive_avg_pool2d, F.avg_pool2d, F.adaptive_max_pool2d, torch.mean, torch.amax, "mean", "amax",
}  # fmt: skip
_CONVS = {F.conv2d, torch.conv2d}


@dataclass(frozen=True)
class Cut:
    """A net up to one of its tensors.

    Attributes:
        body: images -> the feature; its modules and parameters are the net's own, not copies.
        name: the module or operation that makes the feature.
        shape: of the feature, for one image: (1, C, H, W), or (1, C) behind the pooling.
        behind: names in the net's state_dict of all that is used behind the feature only: the head.
    """

    body: fx.GraphModule
    name: str
    shape: tuple[int, ...]
    behind: tuple[str, ...]


def cut(who: str, net: nn.Module, example: Tensor, feature: str | None = None) -> Cut:
    """Cut `net` at the feature that its head reads.

    The rule knows operations, no architectures: the feature is what the last global pooling reads, where no conv
    follows that sees more than a pixel; in a net without pooling, the last (N, C, H, W) before the flattening. As
    elsewhere the graph is that of eval mode, so stochastic depth, which a forward decides on by itself, stays off.

    Args:
        who: the public function, for errors.
        example: (1, C, H, W), an image that the net takes.
        feature: the name of a module, to cut behind that one instead; "after", to cut right behind the pooling.

    Raises:
        NotTraceable: `torch.fx` cannot follow the net.
        ValueError: no feature can be told apart from a head, or none of this name; says what there is.
    """
    graph = trace(net, example)
    node = _named(who, net, graph, feature) if feature not in (None, "after") else _found(who, net, graph, feature)
    body = _up_to(net, graph, node)
    used, before = ({id(t) for t in g.state_dict(keep_vars=True).values()} for g in (graph, body))
    behind = [name for name, t in net.state_dict(keep_vars=True).items() if id(t) in used - before]
    return Cut(body, _label(node), node.meta["shape"], tuple(behind))


def _found(who: str, net: nn.Module, graph: fx.GraphModule, feature: str | None) -> fx.Node:
    pooling, last = _pooling_and_last_map(graph)
    if feature == "after":
        if pooling is None:
            raise ValueError(
                f'{who}: feature="after" asks for what comes out of global pooling; this {type(net).__name__} has none.'
                f"\n  Name the module whose output is to be mimicked: feature={_example_of(graph)}."
            )
        return pooling
    if pooling is not None:
        return _read_by(pooling)
    if last is None or any(user.op == "output" for user in last.users):
        found = "it makes no tensor (N, C, H, W)" if last is None else f"it ends in {_label(last)}, still (N, C, H, W)"
        raise ValueError(
            f"{who}: where does the head of this {type(net).__name__} begin? It has no global pooling, and {found}.\n"
            f"  Name the module whose output is to be mimicked: feature={_example_of(graph)}."
        )
    return last


def _pooling_and_last_map(graph: fx.GraphModule) -> tuple[fx.Node | None, fx.Node | None]:
    """The last global pooling, and the last (N, C, H, W), on the way to the output."""
    used, before_conv, last = set(), set(), None
    for node in reversed(graph.graph.nodes):
        if node.op != "output" and not any(user in used for user in node.users):
            continue
        used.add(node)
        if any(user in before_conv or _is_wide_conv(graph, user) for user in node.users):
            before_conv.add(node)
        elif _is_global_pooling(graph, node):
            return node, last
        if last is None and node.op.startswith("call_") and len(node.meta.get("shape", ())) == 4:
            last = node
    return None, last


def _is_global_pooling(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        pools = isinstance(graph.get_submodule(node.target), _POOLING_MODULES)
    else:
        pools = node.op in ("call_function", "call_method") and node.target in _POOLINGS
    read = _read_by(node).meta.get("shape", ()) if pools else ()
    return len(read) == 4 and node.meta.get("shape") in (read[:2], (*read[:2], 1, 1))


def _is_wide_conv(graph: fx.GraphModule, node: fx.Node) -> bool:
    """A conv of maps; on single pixels a conv is a linear layer, as heads and gates have."""
    if node.op == "call_module":
        conv = isinstance(graph.get_submodule(node.target), nn.modules.conv._ConvNd)
    else:
        conv = node.op == "call_function" and node.target in _CONVS
    return conv and _read_by(node).meta["shape"][2:] != (1, 1)


def _read_by(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _named(who: str, net: nn.Module, graph: fx.GraphModule, feature: str) -> fx.Node:
    """The last tensor made inside module `feature` that is used outside of it, or changed where it lies."""
    inside = [node for node in graph.graph.nodes if feature in _modules_around(node) and node.meta.get("shape")]
    leaving = [node for node in inside if not node.users or not set(inside) >= node.users.keys()]
    if leaving:
        return leaving[-1]
    names = [name for name, _ in net.named_modules() if name]
    near = difflib.get_close_matches(feature, names, n=3) or names[-5:]
    there = "is not used in its forward" if feature in names else "does not exist"
    raise ValueError(
        f'{who}: feature="{feature}" of this {type(net).__name__} {there}.\n'
        f"  Name a module whose output is to be mimicked: {', '.join(near)}; or leave feature out."
    )


def _modules_around(node: fx.Node) -> list[str]:
    """Names of the modules in whose forward this node is, outermost first, its own at the end."""
    around = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
    return [*around, node.target] if node.op == "call_module" else around


def _label(node: fx.Node) -> str:
    """As a reader of the net's code would name it."""
    around = _modules_around(node)
    if node.op == "call_module":
        return around[-1]
    return f"{node.name} in {around[-1]}" if around else node.name


def _example_of(graph: fx.GraphModule) -> str:
    convs = [n.target for n in graph.graph.nodes if n.op == "call_module" and len(n.meta.get("shape", ())) == 4]
    return f'"{convs[-1]}"' if convs else '"layer4"'


def _up_to(net: nn.Module, graph: fx.GraphModule, feature: fx.Node) -> fx.GraphModule:
    """What is needed for `feature`, and what nobody reads: a node without readers is there for what it does."""
    nodes = list(graph.graph.nodes)
    nodes = nodes[: nodes.index(feature) + 1]
    needed: set[fx.Node] = set()
    for node in reversed(nodes):
        if node is feature or not node.users or node in needed or node.op == "placeholder":
            needed |= {node, *node.all_input_nodes}
    short, copies = fx.Graph(), {}
    for node in nodes:
        if node in needed:
            copies[node] = short.node_copy(node, copies.__getitem__)
    short.output(copies[feature])
    return fx.GraphModule(net, short)
