"""Block dropping: the blocks that a network can do without, and the network with `nn.Identity` instead."""

import copy
from collections.abc import Iterator, Sequence

from torch import Tensor, fx, nn
from torch.utils.hooks import RemovableHandle

from fsc.arguments import by_keyword, near, renamed
from fsc.graph.module_regions import Region, has_shortcut, regions
from fsc.graph.tracing import module_of, trace
from fsc.runtime import clone, frozen_copy, public
from fsc.surgery.exactness import check_same, edited_output, expected_output, hooked
from fsc.surgery.recipe import apply_edit, set_aside, with_edit


@public
def drop_blocks(teacher: nn.Module, names: Sequence[str], *, example: Tensor | None = None) -> nn.Module:
    """A copy of the teacher with `nn.Identity` in place of the named blocks; other modules keep their names.

    Args:
        teacher: any CNN that `torch.fx` traces; not changed. If it is a student, its recipe is continued.
        names: from `droppable_blocks`, or of any modules that read one tensor and keep its shape.
        example: (N, C, H, W), needed only for nets that take no usual image size.

    Returns:
        The student, in eval mode, where the teacher lives, its parameters trainable, its recipe attached.
        Its weights are the teacher's; `fskd` and `mir` recover it.

    Raises:
        ValueError: a name that does not exist or comes twice; a module that cannot be dropped, and why.
        NotTraceable: `torch.fx` cannot follow the net.
        NotExact: the student is not the teacher whose blocks pass on what they read.

    >>> student = fsc.drop_blocks(teacher, ["layer1.1", "layer2.2"])
    >>> student.layer1[1]
    Identity()
    """
    names = _checked_names(names)
    graph = trace(teacher, example)
    check_droppable(teacher, graph, names)
    whole = frozen_copy(teacher)  # hooked in the place of the teacher, which others may be using
    with hooked(_bypass(whole, names)):
        expected = expected_output(whole, graph.meta["example"])
    edit = {"edit": "drop_blocks", "asked": {"names": names}, "slices": {}, "dropped": names}
    student = clone(teacher).eval()
    apply_edit(student, edit)
    listed = ", ".join(names)
    called = "Its forward asks more of that module than to be called."
    found = edited_output(student, graph.meta["example"], f"with nn.Identity for {listed}", called)
    what = f"the student differs from the teacher with {listed} passed by"
    check_same(found, expected, what, "Its forward keeps a block in another place, too.", tolerance=1e-5)
    return with_edit(student, teacher, edit)


@renamed(net="teacher")
@by_keyword("example")
@public
def droppable_blocks(teacher: nn.Module, *, example: Tensor | None = None) -> list[str]:
    """The names of the blocks that can be dropped, in order of execution; a list that is never empty.

    The rule knows no architecture. A block is a module with a conv inside that is called once, reads one
    tensor, and makes one of the same shape; inside it, a shortcut leads from its input to an add. Where such
    modules lie inside each other, only the innermost counts. In ResNets, MobileNetV2 and similar networks
    these are the blocks of the PRACTISE paper, and the first block of a stage, too, if it keeps the shape.

    The arguments are those of `drop_blocks`.

    Raises:
        NotTraceable: `torch.fx` cannot follow the net.
        ValueError: there is no such block; says why.

    >>> fsc.droppable_blocks(fsc.load_teacher("resnet20", task))[:3]
    ['layer1.0', 'layer1.1', 'layer1.2']
    """
    graph = trace(teacher, example)
    convs = {node for node in graph.graph.nodes if isinstance(module_of(graph, node), nn.Conv2d)}
    with_conv = [region for region in regions(graph).values() if convs.intersection(region.nodes)]
    blocks = [r.name for r in with_conv if r.why_not() is None and has_shortcut(graph, r)]
    if not blocks:
        raise ValueError(
            f"no block of this {type(teacher).__name__} can be dropped: {_why_none(with_conv)}.\n"
            f"  drop_blocks takes any module by name whose output has the shape of its input."
        )
    return [name for name in blocks if not any(other.startswith(f"{name}.") for other in blocks)]


def without_blocks(net: nn.Module, names: Sequence[str]) -> nn.Module:
    """The net with Identity for these modules, in eval mode, for measurements: no recipe, shared weights."""
    held = [t for module in net.modules() for t in vars(module).values() if isinstance(t, Tensor)]
    shared = {id(t): t for t in [*net.parameters(), *net.buffers(), *held]}
    copied = copy.deepcopy(net, shared)
    apply_edit(copied, {"dropped": names})
    return set_aside(copied).eval()


def check_droppable(
    net: nn.Module, graph: fx.GraphModule, names: Sequence[str], *, together: bool = True
) -> None:
    """Refuse modules that cannot be dropped, all of them together or each of them alone."""
    modules, inside = dict(net.named_modules()), regions(graph)
    for name in names:
        if name not in modules or not name:
            able = [other for other, region in inside.items() if region.why_not() is None]
            hint = near(name, able) or "fsc.droppable_blocks(net) lists its blocks"
            raise ValueError(f'this {type(net).__name__} has no module "{name}".\n  {hint}.')
        outer = [other for other in names if name.startswith(f"{other}.")]
        if together and outer:
            why = f"it lies inside {outer[0]}, which was named too"
        elif isinstance(modules[name], nn.Identity):
            why = "it is nn.Identity already"
        else:
            why = inside[name].why_not() if name in inside else "the forward computes nothing in it"
        if why:
            raise ValueError(f"{name} cannot be dropped: {why}.\n  fsc.droppable_blocks(net) lists what can.")


def _why_none(with_conv: list[Region]) -> str:
    """The most common reason, as one module of the net shows it."""
    whole = [region for region in with_conv if len(region.nodes) > 1]
    keeping = [region.name for region in whole if region.why_not() is None]
    if keeping:
        return f"{keeping[0]} keeps the shape of what it reads, but adds nothing to it; there is no shortcut"
    if whole:
        return f"{whole[-1].name}, for example, cannot: {whole[-1].why_not()}"
    return "it has no module with several operations around a conv"


def _checked_names(names: Sequence[str]) -> list[str]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f'asked for {names!r}; names are a list of strings, such as ["layer1.1"].')
    names = list(names)
    if not names:
        raise ValueError("no names, so nothing would change.\n  fsc.droppable_blocks(net) lists them.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"named more than once: {', '.join(twice)}.\n  Name each block once.")
    return names


def _bypass(net: nn.Module, names: list[str]) -> Iterator[RemovableHandle]:
    """Hooks of `net`; with them, these modules run but pass on what they read."""
    read: dict[nn.Module, Tensor] = {}

    def enter(module: nn.Module, args: tuple) -> tuple:
        read[module] = args[0]
        return (args[0].clone(), *args[1:])  # the block may work in place

    for module in map(net.get_submodule, names):
        yield module.register_forward_pre_hook(enter)
        yield module.register_forward_hook(lambda module, args, out: read.pop(module))
