"""Low-rank factorization: two thinner convs replace each conv; a share of its parameters gives their rank."""

import math
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from fsc.arguments import Ratio, checked_ratio
from fsc.compress.shares import UNUSED, first_reasons, shares_of, tell_what_stays
from fsc.graph.operations import is_depthwise
from fsc.graph.tracing import module_of, trace, unused_modules, walk_from
from fsc.runtime import clone, public, warn
from fsc.surgery.convs import is_plain
from fsc.surgery.exactness import NotExact, edited_output, hooked
from fsc.surgery.factorized_convs import SCHEMES, full_rank, split_params
from fsc.surgery.recipe import apply_edit, with_edit

IMAGES = "it reads the images, and is left whole unless the ratio names it"


@public
def factorize(
    teacher: nn.Module,
    ratio: Ratio,
    *,
    scheme: str = "svd",
    example: Tensor | None = None,
) -> nn.Module:
    """A smaller copy of `teacher`: two thinner convs replace each conv (FSKD's second family of students).

    The two are in an `nn.Sequential` of the conv's name; the second has the bias. Each conv gets the largest
    rank that leaves at most 1 - ratio of its parameters, but at least rank 1. Nothing is trained: the weights
    of the two come from the truncated SVD of its weights. The conv that reads the images has few inputs, so
    it stays whole unless the ratio names it.

    Args:
        teacher: any CNN that `torch.fx` traces; not changed. If it is a student, its recipe is continued.
        ratio: share of the parameters to remove, inside (0, 1), the same for every conv; or by name,
            {"layer2.0.conv1": 0.75, "*": 0.5}, where convs that no entry names stay whole.
        scheme: "svd": a k x k conv to few channels, then a 1x1. "spatial": a k x 1 conv, then a 1 x k.
            "decouple": a depthwise k x k conv, then a 1x1.
        example: (N, C, H, W), needed only for nets that take no usual image size.

    Returns:
        The student, in eval mode, where the teacher lives, its parameters trainable, its recipe attached.

    Raises:
        ValueError: a ratio outside (0, 1), an unknown scheme, no conv to factorize, or none of a name.
        NotTraceable: `torch.fx` cannot follow the net.
        NotExact: the forward does not run with the two convs, or does not call them.

    Warns of convs that stay whole, and of convs that keep more parameters than asked for even at rank 1.

    >>> student = factorize(teacher, 0.5)
    >>> recipe_of(student)[0]["splits"]["layer1.0.conv1"]
    {'scheme': 'svd', 'rank': 7}
    """
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}.\n  There are {', '.join(map(repr, SCHEMES))}.")
    ratio = checked_ratio(ratio, "parameters")
    graph = trace(teacher, example)
    called = {node.target: module_of(graph, node) for node in graph.graph.nodes if node.op == "call_module"}
    convs = {name: module for name, module in called.items() if isinstance(module, nn.Conv2d)}
    reasons = _why_whole(teacher, graph, convs, scheme)
    by_name = ratio if isinstance(ratio, Mapping) else {"*": ratio}
    shares = _shares(teacher, by_name, convs, reasons)
    if not shares:
        kind = type(teacher).__name__
        raise ValueError(f"scheme {scheme!r} changes nothing in this {kind}.\n  {first_reasons(reasons)}")
    splits = {name: {"scheme": scheme, "rank": _rank(convs[name], scheme, shares[name])} for name in shares}
    edit = {"edit": "factorize", "asked": {"ratio": ratio, "scheme": scheme}, "slices": {}, "splits": splits}
    student = clone(teacher).eval()
    apply_edit(student, edit)
    _check_runs(student, splits, graph.meta["example"])
    if "*" in by_name:
        tell_what_stays(reasons, [IMAGES])
    _tell_what_is_large(convs, shares, splits)
    return with_edit(student, teacher, edit)


def _why_whole(
    teacher: nn.Module, graph: fx.GraphModule, convs: dict[str, nn.Conv2d], scheme: str
) -> dict[str, str]:
    """Module -> the reason why it must stay whole; convs without a reason are left out."""
    calls = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    names = Counter(id(module) for _, module in teacher.named_modules(remove_duplicate=False))
    owners = Counter(id(p) for module in teacher.modules() for p in module._parameters.values())
    read = {node.target.rpartition(".")[0] for node in graph.graph.nodes if node.op == "get_attr"}
    first = _reading_images(graph)
    reasons = {}
    for name, conv in convs.items():
        hooked_up = conv._forward_hooks or conv._forward_pre_hooks
        if not is_plain(conv) or hooked_up or set(conv._parameters) != {"weight", "bias"}:
            reasons[name] = "it computes its weight or its output in a way of its own"
        elif calls[name] > 1:
            reasons[name] = f"the forward calls it {calls[name]} times"
        elif names[id(conv)] > 1 or any(owners[id(p)] > 1 for p in conv.parameters()) or name in read:
            reasons[name] = "it shares its weights, or the forward reads them elsewhere too"
        elif conv.groups > 1:
            reasons[name] = "it is depthwise" if is_depthwise(conv) else f"it has {conv.groups} groups"
        elif scheme != "svd" and conv.kernel_size == (1, 1):
            reasons[name] = f'it is 1x1, where scheme "{scheme}" saves nothing'
        elif split_params(conv, scheme, 1) >= _params(conv):
            reasons[name] = "it is so narrow that rank 1 has no fewer parameters"
        elif name in first:
            reasons[name] = IMAGES
    return reasons | dict.fromkeys(unused_modules(teacher, graph), UNUSED)


def _reading_images(graph: fx.GraphModule) -> set[str]:
    """The convs with no conv and no linear layer between the images and them."""
    layers = {node for node in graph.graph.nodes if isinstance(module_of(graph, node), nn.Conv2d | nn.Linear)}
    images = [node for node in graph.graph.nodes if node.op == "placeholder"]
    reached = walk_from(images, lambda node: [] if node in layers else node.users)
    return {node.target for node in reached if isinstance(module_of(graph, node), nn.Conv2d)}


def _shares(
    teacher: nn.Module, by_name: Mapping[str, float], convs: dict[str, nn.Conv2d], reasons: dict[str, str]
) -> dict[str, float]:
    """Conv -> the share of its parameters to remove, for the convs that become two."""
    able = [name for name in convs if reasons.get(name, IMAGES) == IMAGES]
    each = shares_of(teacher, by_name, [[name] for name in able], reasons, "factorized")
    shares = {}
    for name, share in zip(able, each, strict=True):
        if share and (name in by_name or name not in reasons):  # "*" leaves out what reads the images
            shares[name] = share
            if not torch.isfinite(convs[name].weight).all():
                raise ValueError(f"the weights of {name} hold NaN or infinity.\n  Did its training diverge?")
    return shares


def _rank(conv: nn.Conv2d, scheme: str, share: float) -> int:
    """The largest rank that leaves at most 1 - share of the parameters; 1 if none does."""
    params, bias = _params(conv), split_params(conv, scheme, 0)
    per_rank = split_params(conv, scheme, 1) - bias
    rank = math.floor(((1 - share) * params - bias) / per_rank + 1e-9)  # (1 - 0.9) * 10 is 0.999...
    return min(max(1, rank), full_rank(conv, scheme))


def _params(conv: nn.Conv2d) -> int:
    return sum(p.numel() for p in conv.parameters())


def _check_runs(student: nn.Module, splits: Mapping, example: Tensor) -> None:
    """The forward must run with two convs in place of each one, and must call them."""
    called: set[nn.Module] = set()
    pairs = {name: student.get_submodule(name) for name in splits}
    hint = "Its forward asks more of a conv than to be called; leave that one out with ratio={...}."
    with hooked(pair.register_forward_hook(lambda pair, *_: called.add(pair)) for pair in pairs.values()):
        edited_output(student, example, "with two convs in the place of one", hint)
    if missed := ", ".join(name for name, pair in pairs.items() if pair not in called):
        found = f"the forward of {type(student).__name__} does not call what stands at {missed}"
        raise NotExact(f"{found}.\n  It keeps the conv elsewhere too; leave it out with ratio={{...}}.")


def _tell_what_is_large(
    convs: Mapping[str, nn.Conv2d], shares: Mapping[str, float], splits: Mapping[str, Mapping]
) -> None:
    """Warn of the convs whose two keep more parameters than asked for."""
    gone = {name: 1 - split_params(convs[name], **splits[name]) / _params(convs[name]) for name in shares}
    large = [f"{name} ({gone[name]:.2g})" for name, share in shares.items() if gone[name] < share - 1e-9]
    if large:
        warn(f"rank 1 removes less than asked for: {', '.join(large)}.")
