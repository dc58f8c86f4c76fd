"""A network as a `torch.fx` graph in which every node knows its tensor's shape; helpers for such graphs."""

import inspect
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from fsc.arguments import check_images
from fsc.runtime import device_of, evaluating

Step = TypeVar("Step")
_ONE_AT_A_TIME = threading.Lock()

SIZES = (32, 64, 224, 299, 28, 96, 128, 256, 16)
"""Sides of the square images to try, in this order, if no example is given: small images cost least."""


class NotTraceable(ValueError):
    """`torch.fx` cannot follow this network; the message names the module where it stopped."""


def trace(net: nn.Module, example: Tensor | None = None) -> fx.GraphModule:
    """The graph of `net` in eval mode; each node that makes a tensor has its shape in `node.meta["shape"]`.

    Modules of `torch.nn` stay whole; all other modules are traced into. So nodes carry the names of
    `net.named_modules()`. The network itself is left as it was.

    Args:
        net: any module that takes one tensor.
        example: (N, C, H, W), an input of the net. Without it, square images of usual sizes are tried.

    Raises:
        NotTraceable: control flow that depends on values, several inputs, or no image size that fits.
        TypeError, ValueError: the net is no module, or the example is no batch of normalised images.
    """
    if not isinstance(net, nn.Module):
        found = type(net).__name__ if not isinstance(net, type) else f"the class {net.__name__}"
        raise TypeError(f"asked for a network, got {found}.\n  Pass an nn.Module, as load_teacher gives.")
    inputs = None if example is None else [check_images(example)[:1]]
    refusals = []
    with evaluating(net):
        graph = _trace(net)
        for x in inputs or _usual_images(net, graph):
            try:
                with torch.no_grad():
                    _Shapes(graph).run(x.to(device_of(net)))
                graph.meta["example"] = x
                return graph
            except Exception as err:  # a foreign network may raise anything on an input that it does not take
                refusals.append(f"{tuple(x.shape)}: {_first_line(err)}")
    tried = "\n  ".join(refusals[:3])
    raise NotTraceable(
        f"{type(net).__name__} runs on none of the inputs tried:\n  {tried}\n"
        f"  Give example=, a batch of images that the net takes."
    )


def module_of(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that a node calls; None for a node that calls none."""
    return graph.get_submodule(node.target) if node.op == "call_module" else None


def walk_from(starts: Iterable[Step], onward: Callable[[Step], Iterable[Step]]) -> Iterator[Step]:
    """Every node that can be reached from `starts` by `onward`, once each, the nearest first.

    >>> any(node.op == "output" for node in walk_from([conv], lambda node: node.users))
    True
    """
    queue, seen = deque(starts), set()
    while queue:
        step = queue.popleft()
        if step not in seen:
            seen.add(step)
            yield step
            queue.extend(onward(step))


def unused_modules(net: nn.Module, graph: fx.GraphModule) -> list[str]:
    """Modules with parameters of their own that no node of the graph uses, such as heads for training."""
    called = {node.target for node in graph.graph.nodes if node.op == "call_module"}
    read = {node.target.rpartition(".")[0] for node in graph.graph.nodes if node.op == "get_attr"}
    used = tuple(f"{name}." for name in called | read if name)
    owners = [name for name, module in net.named_modules() if [*module.parameters(recurse=False)]]
    return [name for name in owners if not f"{name}.".startswith(used)]


def _trace(net: nn.Module) -> fx.GraphModule:
    tracer = _Tracer()
    before = [(module, dict(vars(module))) for module in net.modules()]
    try:
        parameters = list(inspect.signature(net.forward).parameters.values())
        options = {p.name: p.default for p in parameters[1:] if p.default is not p.empty}
        with _ONE_AT_A_TIME:
            graph = tracer.trace(net, options or None)  # optional arguments stay at their defaults
        _check_ends(net, graph)
        return fx.GraphModule(net, graph)
    except NotTraceable:
        raise
    except Exception as err:  # fx raises many kinds: TraceError, TypeError from a proxy in a bool, ...
        place = tracer.where or f"the forward of {type(net).__name__} itself"
        raise NotTraceable(
            f"torch.fx cannot follow {type(net).__name__}; it stopped in {place}{_at(err)}.\n"
            f"  {type(err).__name__}: {_first_line(err)}\n"
            f"  Decisions must not depend on a tensor's values or shape there: take them out of the forward, "
            f"or write them as arithmetic (torch.where)."
        ) from err
    finally:  # fx leaves constants on the net; a forward that keeps a tensor on its module has kept a proxy
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


def _check_ends(net: nn.Module, graph: fx.Graph) -> None:
    inputs = [node for node in graph.nodes if node.op == "placeholder" and not node.args]
    if len(inputs) != 1:
        names = ", ".join(node.name for node in inputs) or "none"
        found = f"{type(net).__name__} takes {len(inputs)} inputs ({names}); asked for one, a batch of images"
        raise NotTraceable(f"{found}.\n  Wrap it in a module whose forward takes the images alone.")
    (output,) = (node for node in graph.nodes if node.op == "output")
    if not isinstance(output.args[0], fx.Node):
        kind = "a dict" if isinstance(output.args[0], dict) else "several things"
        found = f"{type(net).__name__} returns {kind}; fsc needs one tensor of class scores"
        raise NotTraceable(f"{found}.\n  Wrap it in a module that returns that tensor alone.")


def _usual_images(net: nn.Module, graph: fx.GraphModule) -> list[Tensor]:
    """One random image (1, C, H, W) of each usual size, with as many channels as the first conv reads."""
    called = (module_of(graph, node) for node in graph.graph.nodes)
    first = next((module for module in called if isinstance(module, nn.Conv2d)), None)
    if first is None:
        found = f"{type(net).__name__} calls no Conv2d, so the number of channels of its images is unknown"
        raise NotTraceable(f"{found}.\n  Give example=, a batch of images that the net takes.")
    rng, c_in, dtype = torch.Generator().manual_seed(0), first.in_channels, first.weight.dtype
    return [torch.randn(1, c_in, side, side, generator=rng).to(dtype) for side in SIZES]


def _at(err: Exception) -> str:
    """The line of the network's own code that failed, where its source is known."""
    not_its = (str(Path(torch.__file__).parent), __file__)
    lines = [at.line for at in traceback.extract_tb(err.__traceback__) if not at.filename.startswith(not_its)]
    return f', at "{lines[-1]}"' if lines and lines[-1] else ""


def _first_line(err: Exception) -> str:
    return next(iter(str(err).strip().splitlines()), repr(err))


class _Tracer(fx.Tracer):
    """Remembers the innermost module whose forward was being traced when something went wrong."""

    where: str | None = None

    def __init__(self):
        super().__init__()
        self.thread = threading.get_ident()  # fx patches nn.Module for all threads; the others go on as ever

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        # Also subclasses, such as those of timm, that do not have a forward of their own.
        known = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm)
        own = any(isinstance(module, kind) and type(module).forward is kind.forward for kind in known)
        return own or super().is_leaf_module(module, name)

    def getattr(self, attr: str, attr_val: Any, cache: dict) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, cache)

    def call_module(self, module: nn.Module, forward, args, kwargs) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        try:
            return super().call_module(module, forward, args, kwargs)
        except Exception:
            self.where = self.where or f"{self.path_of_module(module)} ({type(module).__name__})"
            raise


class _Shapes(fx.Interpreter):
    """Writes down the shapes. torch's ShapeProp would print a traceback for every size that does not fit."""

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        if isinstance(result, Tensor):
            node.meta["shape"] = tuple(result.shape)
        return result
