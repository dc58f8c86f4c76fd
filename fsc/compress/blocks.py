"""Block dropping: which blocks a net can do without, and the net with `nn.Identity` in their place."""

import copy
import difflib
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from fsc.arguments import check_images
from fsc.graph.module_regions import Region, has_shortcut, regions
from fsc.graph.tracing import trace
from fsc.runtime import clone, device_of, evaluating, public
from fsc.surgery.exactness import NotExact
from fsc.surgery.recipe import apply_edit, with_edit


@public
def droppable_blocks(net: nn.Module, example: Tensor | None = None) -> list[str]:
    """The blocks that can be left out and leave a network that still computes something alike, in order of execution.

    The rule knows no architecture: a module with a conv inside that reads one tensor, hands on one of the same shape,
    is called once, and adds to what it reads: a shortcut leads from what goes in to what comes out. Of modules inside
    each other it is the innermost. For ResNets, MobileNetV2 and their like these are the blocks of the PRACTISE paper,
    and the first of a stage, too, where it changes no shape.

    Args:
        net: any CNN that `torch.fx` traces, a student too.
        example: (N, C, H, W), needed only for nets that take no usual image size.

    Raises:
        NotTraceable: `torch.fx` cannot follow the net.
        ValueError: there are none; says why.

    >>> fsc.droppable_blocks(fsc.load_teacher("resnet20", task))[:3]
    ['layer1.0', 'layer1.1', 'layer1.2']
    """
    if example is not None:
        check_images(example)
    graph = trace(net, example)
    inside = regions(graph)
    found = [name for name, region in inside.items() if _is_block(graph, region)]
    found = [name for name in found if not any(other.startswith(f"{name}.") for other in found)]
    if not found:
        raise ValueError(
            f"droppable_blocks: no block of this {type(net).__name__} can be dropped: {_why_none(graph, inside)}.\n"
            f"  drop_blocks takes any module by name whose output has the shape of its input."
        )
    return sorted(found, key=list(inside).index)


@public
def drop_blocks(teacher: nn.Module, names: Sequence[str], *, example: Tensor | None = None) -> nn.Module:
    """A copy of the teacher with `nn.Identity` in the place of the named blocks; all other modules keep their names.

    Args:
        teacher: any CNN that `torch.fx` traces; not changed. A student goes too: its recipe is continued.
        names: as of `droppable_blocks`; or of any modules that read one tensor and hand on one of the same shape.
        example: (N, C, H, W), needed only for nets that take no usual image size.

    Returns:
        The student, in eval mode, where the teacher lives, its parameters trainable, its recipe attached. Every other
        weight is the teacher's; `fskd` and `mir` recover it.

    Raises:
        ValueError: a name that there is not, or twice; a module that cannot be left out, with the reason.
        NotTraceable: `torch.fx` cannot follow the net.
        NotExact: the student is not the teacher with these blocks passing on what they get.

    >>> student = fsc.drop_blocks(teacher, ["layer1.1", "layer2.2"])
    >>> student.layer1[1]
    Identity()
    """
    if example is not None:
        check_images(example)
    names = _checked_names(names)
    graph = trace(teacher, example)
    check_droppable("drop_blocks", teacher, graph, names)
    edit = {"edit": "drop_blocks", "asked": {"names": names}, "slices": {}, "dropped": names}
    student = clone(teacher).eval()
    apply_edit(student, edit)
    _check_exact(teacher, student, names, graph.meta["example"])
    return with_edit(student, teacher, edit)


def check_droppable(
    who: str, net: nn.Module, graph: fx.GraphModule, names: Sequence[str], *, together: bool = True
) -> None:
    """Refuse names that are not of modules which can be left out, all together or each alone.

    Raises:
        ValueError: says which name, and why.
    """
    modules, inside = dict(net.named_modules()), regions(graph)
    for name in names:
        if name not in modules or not name:
            near = difflib.get_close_matches(name, [other for other in inside if not inside[other].why_not()], n=3)
            raise ValueError(
                f'{who}: this {type(net).__name__} has no module "{name}".\n'
                f"  {'Near it: ' + ', '.join(near) if near else 'fsc.droppable_blocks(net) lists its blocks'}."
            )
        why = inside[name].why_not() if name in inside else "the forward computes nothing in it"
        if isinstance(modules[name], nn.Identity):
            why = "it is nn.Identity already"
        if together and (outer := [other for other in names if name.startswith(f"{other}.")]):
            why = f"it lies inside {outer[0]}, which was named too"
        if why:
            raise ValueError(
                f"{who}: {name} cannot be dropped: {why}.\n  fsc.droppable_blocks(net) lists the blocks that can."
            )


def hollow(net: nn.Module, names: Sequence[str]) -> nn.Module:
    """The net with `nn.Identity` for these modules, in eval mode; its weights are those of `net`, not copies.

    It is there to measure with. It has no recipe: to it, `net` is the teacher.
    """
    held = [t for module in net.modules() for t in vars(module).values() if isinstance(t, Tensor)]
    shared = {id(t): t for t in [*net.parameters(), *net.buffers(), *held]}
    copied = copy.deepcopy(net, shared)
    vars(copied).pop("fsc_recipe", None)
    apply_edit(copied, {"dropped": names})
    return copied.eval()


def _is_block(graph: fx.GraphModule, region: Region) -> bool:
    convs = any(_is_conv(graph, node) for node in region.nodes)
    return convs and region.why_not() is None and has_shortcut(graph, region)


def _why_none(graph: fx.GraphModule, inside: dict[str, Region]) -> str:
    """The one most common reason, as one module of the net shows it."""
    whole = [r for r in inside.values() if len(r.nodes) > 1 and any(_is_conv(graph, node) for node in r.nodes)]
    keeping = [region.name for region in whole if region.why_not() is None]
    if keeping:
        return f"{keeping[0]} hands on the shape that it reads, but adds nothing to it; without it that would be lost"
    if whole:
        return f"{whole[-1].name}, for one, cannot: {whole[-1].why_not()}"
    return "it has no module with several operations around a conv"


def _is_conv(graph: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(graph.get_submodule(node.target), nn.Conv2d)


def _checked_names(names: Sequence[str]) -> list[str]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f'drop_blocks: asked for {names!r}; names are a list of strings, such as ["layer1.1"].')
    names = list(names)
    if not names:
        raise ValueError("drop_blocks: no names, so nothing would change.\n  fsc.droppable_blocks(net) lists them.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"drop_blocks: named more than once: {', '.join(twice)}.\n  Name each block once.")
    return names


def _check_exact(teacher: nn.Module, student: nn.Module, names: list[str], example: Tensor) -> None:
    """The student must compute what the teacher computes when these blocks, untouched, hand on what they read."""
    wanted, image = _bypassed(teacher, names, example.to(device_of(teacher))), example.to(device_of(student))
    try:
        with torch.no_grad():
            found = student(image)
    except Exception as err:  # whatever a foreign forward raises when it misses an attribute of its block
        raise NotExact(
            f"drop_blocks: {type(student).__name__} does not run with nn.Identity for {', '.join(names)}: {err}\n"
            f"  Its forward asks more of that module than to be called."
        ) from err
    if not torch.allclose(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()), equal_nan=True):
        raise NotExact(
            f"drop_blocks: the student's output is off by {float((found - wanted).abs().max()):.2g} from the teacher's "
            f"with {', '.join(names)} passed by.\n  Its forward keeps a block in another place, too."
        )


def _bypassed(net: nn.Module, names: list[str], x: Tensor) -> Tensor:
    before: dict[nn.Module, Tensor] = {}

    def enter(module: nn.Module, args: tuple) -> tuple:
        before[module] = args[0]
        return (args[0].clone(), *args[1:])  # the block may work in place

    modules = [net.get_submodule(name) for name in names]
    handles = [module.register_forward_pre_hook(enter) for module in modules]
    handles += [module.register_forward_hook(lambda module, args, out: before.pop(module)) for module in modules]
    try:
        with torch.no_grad(), evaluating(net):
            return net(x)
    finally:
        for handle in handles:
            handle.remove()
