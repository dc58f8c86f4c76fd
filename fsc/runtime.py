"""Device, seed and budget; names in errors and warnings; progress; evaluation mode; copies of networks."""

import contextlib
import copy
import functools
import hashlib
import operator
import os
import platform
import secrets
import stat
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all) after every step of long work; what it raises stops the work."""

_RUNNING: ContextVar[str] = ContextVar("name of the public function that runs", default="")


def public(function: Callable) -> Callable:
    """Mark a function as public: its name then opens the errors, warnings and progress bars from inside it.

    Where one public function calls another, the inner one gives its name. Only errors that this package
    raises itself are changed: an error of torch, or of a function that the user passed in, goes through as it
    is. Methods can be marked, and `__init__`, which gives the name of its class. Generator functions cannot:
    their body runs after the call has returned.

    >>> fsc.fskd(teacher, student, few.images[:0])
    ValueError: fskd: images have shape (0, 3, 32, 32); asked for (N, C, H, W) with N at least 1.
    """
    name = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def named(*args: Any, **kwargs: Any) -> Any:
        token = _RUNNING.set(name)
        try:
            return function(*args, **kwargs)
        except (TypeError, ValueError, OSError, RuntimeError, FloatingPointError) as err:
            *_, (frame, _) = traceback.walk_tb(err.__traceback__)  # the frame that raised it
            if _is_ours(frame) and not hasattr(err, "named_by") and len(err.args) == 1:
                err.named_by, err.args = name, (f"{name}: {err.args[0]}",)
            raise
        finally:
            _RUNNING.reset(token)

    return named


def _is_ours(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__", "").startswith("fsc.")


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn in the name of the public function that runs; the warning points at the line that called it."""
    stack = traceback.walk_stack(sys._getframe())
    ours = [depth for depth, (frame, _) in enumerate(stack, 1) if _is_ours(frame)]
    name = _RUNNING.get()
    warnings.warn(f"{name}: {text}" if name else text, category, stacklevel=max(ours) + 1)


@dataclass(frozen=True)
class Setup:
    """The machine and the budget that `setup` found: what a reader quotes beside a number."""

    device: torch.device
    budget: str
    seed: int
    versions: dict[str, str]

    @property
    def full(self) -> bool:
        return self.budget == "full"


@public
def setup(seed: int = 0) -> Setup:
    """Seed torch for the notebook's own cells; print device, versions and budget; return them.

    The budget is "full" where there is a GPU and "quick" elsewhere; the environment variable FSC_BUDGET
    overrides it.

    Raises:
        ValueError: FSC_BUDGET is neither "quick" nor "full".
    """
    from importlib.metadata import version

    torch.manual_seed(seed)
    device = best_device()
    budget = os.environ.get("FSC_BUDGET", "full" if device.type == "cuda" else "quick")
    if budget not in ("quick", "full"):
        found = 'Found in the environment variable FSC_BUDGET; it is "quick" or "full".'
        raise ValueError(f'unknown budget "{budget}".\n  {found}\n  Unset it, or set one of the two.')
    versions = {name: version(name) for name in ("fsc", "torch", "torchvision")}
    versions = {"python": platform.python_version()} | versions
    cpu = f"CPU, {torch.get_num_threads()} threads"
    print(f"device   {device} ({torch.cuda.get_device_name(device) if device.type == 'cuda' else cpu})")
    print("versions " + ", ".join(f"{name} {number}" for name, number in versions.items()))
    print(f"budget   {budget}; seed {seed}")
    return Setup(device, budget, seed, versions)


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(model: nn.Module) -> torch.device:
    """The device of the first parameter or buffer; the CPU for a net that has neither."""
    tensor = next(iter([*model.parameters(), *model.buffers()]), None)
    return torch.device("cpu") if tensor is None else tensor.device


def data_dir() -> Path:
    """The project's folder `data/`: beside the package in a checkout, inside it if installed from a wheel."""
    inside = Path(__file__).parent / "_data"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "data"


@contextlib.contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put every submodule in eval mode, and give each its own mode back at the end, after an error too."""
    was = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in was:
            module.training = training


def track(total: int, progress: Progress | None) -> Iterator[int]:
    """Count 0 .. total - 1 and report each step: to `progress`, or to a bar of `tqdm.auto` if it is None."""
    if progress is None:
        from tqdm.auto import tqdm

        # The delay: no flicker where work is short.
        yield from tqdm(range(total), desc=_RUNNING.get(), leave=False, delay=0.5)
        return
    for step in range(total):
        yield step
        progress(step + 1, total)


def nested(progress: Progress | None, part: int, parts: int) -> Progress | None:
    """The `progress` of one of several equal parts of the work, number `part` of `parts`; None stays None."""
    return None if progress is None else lambda done, total: progress(part * total + done, parts * total)


def quiet(done: int, total: int) -> None:
    """Show nothing: the `progress` of work whose steps nobody wants to see."""


@contextlib.contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; the file written there becomes `path` at the end.

    So a reader finds the old file or the new one, both complete. After an error the old file is as it was,
    and the temporary one is gone. The new file gets the permissions of the file that it replaces.
    """
    path = Path(path)
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    beside.touch(exist_ok=False)
    mode = (path if path.exists() else beside).stat().st_mode
    try:
        yield beside
        with open(beside, "r+b") as file:
            os.fsync(file.fileno())  # otherwise a power cut could leave an empty file of the right name
        beside.chmod(stat.S_IMODE(mode))  # some writers, such as safetensors, let nobody else read
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and bytes of all parameters and buffers of a network."""
    return checksum(model.state_dict())


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes, in this order of the tensors."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def digest_of(*parts: Any) -> str:
    """A short SHA-256 of the parts as they print; with its prefix, no spreadsheet takes it for a number."""
    return f"sha256:{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


def clone(net: nn.Module) -> nn.Module:
    """A deep copy of the network, with parameters that can be trained: every student starts as one."""
    # deepcopy refuses a tensor of an autograd graph, which a module may have kept from its last forward pass.
    values = [value for module in net.modules() for value in vars(module).values()]
    kept = [value for value in values if isinstance(value, Tensor) and not value.is_leaf]
    copied = copy.deepcopy(net, {id(tensor): tensor.detach().clone() for tensor in kept})
    for parameter in copied.parameters():
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    return copied


def frozen_copy(net: nn.Module) -> nn.Module:
    """A deep copy in eval mode whose parameters do not train: a teacher to compute with."""
    return clone(net).eval().requires_grad_(False)


def same_requires_grad(net: nn.Module, like: nn.Module) -> None:
    """Give every parameter of `net` the `requires_grad` of its counterpart in `like`."""
    for mine, its in zip(net.parameters(), like.parameters(), strict=True):
        mine.requires_grad_(its.requires_grad)


def generator(seed: int) -> torch.Generator:
    """A random generator of its own, on the CPU.

    Raises:
        TypeError: the seed is no whole number, of Python, numpy or torch.
    """
    try:
        return torch.Generator().manual_seed(operator.index(seed))
    except TypeError:
        raise TypeError(f"seed={seed!r}; asked for a whole number, such as seed=0.") from None


@contextlib.contextmanager
def own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's global generators of the CPU and of `device` for a while; restore them at the end."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        torch.default_generator.manual_seed(int(seed))  # torch.manual_seed would seed every GPU, too
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(int(seed))
        yield
