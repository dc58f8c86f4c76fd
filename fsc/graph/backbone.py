"""A network's backbone: the part up to the feature that its head reads, found by rule in the graph."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fsc.arguments import near
from fsc.graph.tracing import module_of, trace

_POOLINGS = (
    nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d,
    F.adaptive_avg_pool2d, F.avg_pool2d, F.adaptive_max_pool2d, torch.mean, torch.amax, "mean", "amax",
)  # fmt: skip
_CONVS = (nn.modules.conv._ConvNd, F.conv2d, torch.conv2d)


@dataclass(frozen=True)
class Backbone:
    """A network up to one of its tensors, the feature."""

    body: fx.GraphModule  # images -> feature; its modules and parameters are the network's own, not copies
    name: str  # of the module or operation that makes the feature
    shape: tuple[int, ...]  # the feature's shape for one image: (1, C, H, W), or (1, C) if it was pooled
    head_names: tuple[str, ...]  # what the state_dict has that is used only after the feature


def cut_backbone(net: nn.Module, example: Tensor, feature: str | None = None) -> Backbone:
    """Cut `net` at the feature that its head reads.

    The rule knows operations, not architectures. The feature is the input of the last global pooling, if no
    conv after it sees more than one pixel. In a network without global pooling it is the last (N, C, H, W)
    before the flattening. The graph is that of eval mode, so stochastic depth is off.

    Args:
        example: (1, C, H, W), an image that the net takes.
        feature: the name of a module: cut at its output instead; or "after": cut right after the pooling.

    Raises:
        NotTraceable: `torch.fx` cannot follow the net.
        ValueError: no feature can be told apart from a head, or no module has this name; lists names.
    """
    graph = trace(net, example)
    if feature in (None, "after"):
        node = _read_by_head(net, graph, feature)
    else:
        node = _output_of(net, graph, feature)
    body = _part_up_to(net, graph, node)
    used, before = ({id(t) for t in part.state_dict(keep_vars=True).values()} for part in (graph, body))
    head = tuple(name for name, t in net.state_dict(keep_vars=True).items() if id(t) in used - before)
    return Backbone(body, _label(node), node.meta["shape"], head)


def _read_by_head(net: nn.Module, graph: fx.GraphModule, feature: str | None) -> fx.Node:
    """The input of the last global pooling, or its output for "after"; without pooling the last map."""
    pooling, last = _pooling_and_last_map(graph)
    if pooling is not None:
        return pooling if feature == "after" else pooling.all_input_nodes[0]
    kind = type(net).__name__
    if feature == "after":
        problem = f'feature="after" asks for what comes out of global pooling; this {kind} has none'
    elif last is None or any(user.op == "output" for user in last.users):
        ends = f"it ends in {_label(last)}, still (N, C, H, W)" if last else "it makes no tensor (N, C, H, W)"
        problem = f"where does the head of this {kind} begin? It has no global pooling, and {ends}"
    else:
        return last
    called = [node for node in graph.graph.nodes if node.op == "call_module"]
    maps = [node.target for node in called if len(node.meta.get("shape", ())) == 4]
    name = maps[-1] if maps else "layer4"
    raise ValueError(f'{problem}.\n  Name the module whose output is to be mimicked: feature="{name}".')


def _pooling_and_last_map(graph: fx.GraphModule) -> tuple[fx.Node | None, fx.Node | None]:
    """The last global pooling, and the last (N, C, H, W), among the nodes that the output depends on."""
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
    """True for a pooling from (N, C, H, W) to (N, C) or (N, C, 1, 1)."""
    if not _computes(graph, node, _POOLINGS):
        return False
    before, after = node.all_input_nodes[0].meta.get("shape", ()), node.meta.get("shape")
    return len(before) == 4 and after in (before[:2], (*before[:2], 1, 1))


def _is_wide_conv(graph: fx.GraphModule, node: fx.Node) -> bool:
    """True for a conv of maps. A conv of single pixels is a linear layer, as heads and gates have it."""
    return _computes(graph, node, _CONVS) and node.all_input_nodes[0].meta["shape"][2:] != (1, 1)


def _computes(graph: fx.GraphModule, node: fx.Node, operations: tuple) -> bool:
    """True if the node calls one of these functions, methods or kinds of modules."""
    if node.op == "call_module":
        kinds = tuple(kind for kind in operations if isinstance(kind, type))
        return isinstance(module_of(graph, node), kinds)
    return node.op in ("call_function", "call_method") and node.target in operations


def _output_of(net: nn.Module, graph: fx.GraphModule, feature: str) -> fx.Node:
    """The last tensor made inside module `feature` that is used outside of it or was changed in place."""
    made = [n for n in graph.graph.nodes if feature in _modules_around(n) and n.meta.get("shape")]
    leaving = [node for node in made if not node.users or not set(made) >= node.users.keys()]
    if leaving:
        return leaving[-1]
    names = [name for name, _ in net.named_modules() if name]
    found = "is not used in its forward" if feature in names else "does not exist"
    hint = near(feature, names) or f"Its last modules: {', '.join(names[-5:])}"
    raise ValueError(
        f'feature="{feature}" of this {type(net).__name__} {found}.\n'
        f"  {hint}. Name one whose output is to be mimicked, or leave feature out."
    )


def _modules_around(node: fx.Node) -> list[str]:
    """Names of the modules in whose forward this node is, the outermost first, the module it calls last."""
    around = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
    return [*around, node.target] if node.op == "call_module" else around


def _label(node: fx.Node) -> str:
    """The node's name as a reader of the network's code knows it: "layer4.1.relu", or "add_1 in layer4.1"."""
    around = _modules_around(node)
    if node.op == "call_module":
        return around[-1]
    return f"{node.name} in {around[-1]}" if around else node.name


def _part_up_to(net: nn.Module, graph: fx.GraphModule, feature: fx.Node) -> fx.GraphModule:
    """The nodes that `feature` depends on, and nodes with side effects: those without readers."""
    nodes = list(graph.graph.nodes)
    nodes = nodes[: nodes.index(feature) + 1]
    needed: set[fx.Node] = set()
    for node in reversed(nodes):
        if node is feature or not node.users or node in needed or node.op == "placeholder":
            needed |= {node, *node.all_input_nodes}
    part, copies = fx.Graph(), {}
    for node in nodes:
        if node in needed:
            copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(copies[feature])
    return fx.GraphModule(graph, part)  # the graph also holds the constants of the forward
