"""Low-rank factorization: every conv becomes two thinner ones, of the rank that a share of its parameters allows."""

import difflib
import math
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from fsc.arguments import Ratio, check_images, checked_ratio
from fsc.graph.tracing import trace, unused_modules
from fsc.runtime import clone, device_of, public, warn
from fsc.surgery.convs import is_plain
from fsc.surgery.exactness import NotExact
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
    """A smaller copy of `teacher`: two thinner convs in the place of each (FSKD's second family of students).

    The two stand in an `nn.Sequential` of the conv's name, the bias in the last. Each conv gets the largest rank at
    which its parameters are within 1 - ratio of what they were, and at least rank 1. Nothing is trained: the two come
    of the truncated SVD of its weights. The conv that reads the images, which has few inputs, stays whole unless named.

    Args:
        teacher: any CNN that `torch.fx` traces; not changed. A student goes too: its recipe is continued.
        ratio: share of the parameters to remove, inside (0, 1), the same for every conv; or by name,
            {"layer2.0.conv1": 0.75, "*": 0.5}, where convs that no entry names stay whole.
        scheme: "svd", a k x k conv to few channels, then a 1x1; "spatial", a k x 1 conv, then a 1 x k; "decouple", a
            depthwise k x k conv, then a 1x1.
        example: (N, C, H, W), needed only for nets that take no usual image size.

    Returns:
        The student, in eval mode, where the teacher lives, its parameters trainable, its recipe attached.

    Raises:
        ValueError: a ratio outside (0, 1), an unknown scheme, a name that is no conv to factorize, nothing to do.
        NotTraceable: `torch.fx` cannot follow the net.
        NotExact: the forward does not run, or does not call the two convs, where it called one.

    Warns of convs that stay whole, and of those that even rank 1 leaves with more than asked for.

    >>> student = factorize(teacher, 0.5)
    >>> recipe_of(student)[0]["splits"]["layer1.0.conv1"]
    {'scheme': 'svd', 'rank': 7}
    """
    if scheme not in SCHEMES:
        raise ValueError(f"factorize: unknown scheme {scheme!r}.\n  There are {', '.join(map(repr, SCHEMES))}.")
    ratio = checked_ratio(ratio, "parameters")
    if example is not None:
        check_images(example)
    graph = trace(teacher, example)
    convs = {node.target: teacher.get_submodule(node.target) for node in graph.graph.nodes if _calls(graph, node)}
    whole = _why_whole(teacher, graph, convs, scheme)
    shares = _shares(teacher, ratio, convs, whole)
    splits = {name: {"scheme": scheme, "rank": _rank(convs[name], scheme, share)} for name, share in shares.items()}
    if not splits:
        why = "\n  ".join(f"{name}: {reason}." for name, reason in list(whole.items())[:4]) or "It calls no Conv2d."
        raise ValueError(f"factorize: scheme {scheme!r} changes nothing in this {type(teacher).__name__}.\n  {why}")
    asked = {"ratio": ratio, "scheme": scheme}
    edit = {"edit": "factorize", "asked": asked, "slices": {}, "splits": splits}
    for name in splits:
        if not torch.isfinite(convs[name].weight).all():
            raise ValueError(f"factorize: the weights of {name} hold NaN or infinity.\n  Did its training diverge?")
    student = clone(teacher).eval()
    apply_edit(student, edit)
    _check_runs(student, splits, graph.meta["example"])
    if not isinstance(ratio, Mapping) or "*" in ratio:
        _tell_what_stays(whole, unused_modules(teacher, graph))
    _tell_what_is_large(convs, shares, splits)
    return with_edit(student, teacher, edit)


def _calls(graph: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(graph.get_submodule(node.target), nn.Conv2d)


def _why_whole(teacher: nn.Module, graph: fx.GraphModule, convs: dict[str, nn.Conv2d], scheme: str) -> dict[str, str]:
    """Conv -> the reason why it must not, or cannot, become two; convs without a reason are left out."""
    calls = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    names = Counter(id(module) for _, module in teacher.named_modules(remove_duplicate=False))
    owners = Counter(id(p) for module in teacher.modules() for p in module._parameters.values() if p is not None)
    read = {node.target.rpartition(".")[0] for node in graph.graph.nodes if node.op == "get_attr"}
    first = _reading_images(graph)
    reasons = {}
    for name, conv in convs.items():
        hooked = conv._forward_hooks or conv._forward_pre_hooks
        if not is_plain(conv) or hooked or set(conv._parameters) != {"weight", "bias"}:
            reasons[name] = "it computes its weight or its output in a way of its own"
        elif calls[name] > 1:
            reasons[name] = f"the forward calls it {calls[name]} times"
        elif names[id(conv)] > 1 or any(owners[id(p)] > 1 for p in conv.parameters()) or name in read:
            reasons[name] = "it shares its weights, or the forward reads them elsewhere too"
        elif conv.groups > 1:
            reasons[name] = "it is depthwise" if conv.groups == conv.in_channels else f"it has {conv.groups} groups"
        elif scheme != "svd" and conv.kernel_size == (1, 1):
            reasons[name] = f'it is 1x1, where scheme "{scheme}" saves nothing'
        elif split_params(conv, scheme, 1) >= _params(conv):
            reasons[name] = "it is so narrow that rank 1 has no fewer parameters"
        elif name in first:
            reasons[name] = IMAGES
    return reasons


def _reading_images(graph: fx.GraphModule) -> set[str]:
    """Convs with no conv and no linear layer between the images and them."""
    images: set[fx.Node] = set()
    found = set()
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            images.add(node)
        elif images.intersection(node.all_input_nodes):
            if _calls(graph, node):
                found.add(node.target)
            elif node.op != "call_module" or not isinstance(graph.get_submodule(node.target), nn.Linear):
                images.add(node)
    return found


def _shares(
    teacher: nn.Module, ratio: Ratio, convs: dict[str, nn.Conv2d], whole: dict[str, str]
) -> dict[str, float]:
    """Conv -> the share of its parameters to remove, for the convs that become two."""
    if not isinstance(ratio, Mapping):
        return {name: ratio for name in convs if name not in whole}
    able = [name for name in convs if whole.get(name) in (None, IMAGES)]
    for name in ratio:
        if name in able or name == "*":
            continue
        modules = dict(teacher.named_modules())
        if name in modules:
            kind = type(modules[name]).__name__
            why = whole.get(name, "the forward does not call it" if "Conv" in kind else f"it is a {kind}")
            raise ValueError(
                f"factorize: {name} cannot be factorized: {why}.\n  Those that can: {', '.join(able) or 'none'}."
            )
        near = difflib.get_close_matches(name, able, n=3)
        raise ValueError(
            f'factorize: this {type(teacher).__name__} has no module "{name}".\n'
            f"  {'Near it: ' + ', '.join(near) if near else 'Those that can be factorized: ' + ', '.join(able)}."
        )
    return {name: ratio[name] if name in ratio else ratio["*"] for name in convs
            if name in ratio or ("*" in ratio and name not in whole)}  # fmt: skip


def _rank(conv: nn.Conv2d, scheme: str, share: float) -> int:
    """The largest rank that leaves at most 1 - share of the parameters; 1 where none does."""
    params, bias = _params(conv), split_params(conv, scheme, 0)
    each = split_params(conv, scheme, 1) - bias
    return min(max(1, math.floor(((1 - share) * params - bias) / each + 1e-9)), full_rank(conv, scheme))


def _params(conv: nn.Conv2d) -> int:
    return sum(p.numel() for p in conv.parameters())


def _check_runs(student: nn.Module, splits: Mapping, example: Tensor) -> None:
    """The forward must run with two convs in the place of each one, and must call them."""
    called = set()
    handles = [
        student.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name)) for name in splits
    ]
    try:
        with torch.no_grad():
            student(example.to(device_of(student)))
    except Exception as err:  # whatever a foreign forward raises when it misses an attribute of a Conv2d
        raise NotExact(
            f"factorize: {type(student).__name__} does not run with two convs in the place of one: {err}\n"
            f"  Its forward asks more of a conv than to be called; leave that one out with ratio={{...}}."
        ) from err
    finally:
        for handle in handles:
            handle.remove()
    if missed := [name for name in splits if name not in called]:
        raise NotExact(
            f"factorize: the forward of {type(student).__name__} does not call what stands at {', '.join(missed)}.\n"
            f"  It keeps the conv in another place too; leave it out with ratio={{...}}."
        )


def _tell_what_stays(whole: Mapping[str, str], unused: list[str]) -> None:
    reasons: dict[str, list[str]] = {}
    for name, why in whole.items():
        if why != IMAGES:
            reasons.setdefault(why, []).append(name)
    if unused:
        reasons["the forward does not use them in eval mode"] = unused
    if reasons:
        lines = [f"  {', '.join(names)}: {why}." for why, names in reasons.items()]
        warn("factorize: these stay whole:\n" + "\n".join(lines))


def _tell_what_is_large(convs: dict[str, nn.Conv2d], shares: dict[str, float], splits: Mapping) -> None:
    large = []
    for name, share in shares.items():
        left = split_params(convs[name], **splits[name]) / _params(convs[name])
        if left > 1 - share + 1e-9:
            large.append(f"{name} ({1 - left:.2g})")
    if large:
        warn(f"factorize: rank 1 removes less than asked for: {', '.join(large)}.")
