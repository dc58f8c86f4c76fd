"""Where things run and how they report: device, seed, budget, progress, evaluation mode."""

import contextlib
import copy
import functools
import hashlib
import os
import platform
import secrets
import stat
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all) after every step of long work; what it raises stops the work."""


_RUNNING: ContextVar[str] = ContextVar("name of the public function that runs", default="")


def public(function: Callable) -> Callable:
    """Mark a function as public: its name stands in front of the errors, warnings and progress bars from inside it.

    This is the one border where errors get a name; no function below is told who called it. Where one public function
    calls another, the inner one gives its name. Errors that other packages raise pass through as they are.
    """
    name = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def named(*args: Any, **kwargs: Any) -> Any:
        token = _RUNNING.set(name)
        try:
            return function(*args, **kwargs)
        except Exception as err:
            _put_name_on(err, name)
            raise
        finally:
            _RUNNING.reset(token)

    return named


def _put_name_on(err: Exception, name: str) -> None:
    *_, (frame, _) = traceback.walk_tb(err.__traceback__)
    raised_here = frame.f_globals.get("__name__", "").startswith("fsc.")
    if raised_here and not hasattr(err, "named_by") and len(err.args) == 1 and isinstance(err.args[0], str):
        err.named_by = name
        if not err.args[0].startswith(f"{name}: "):
            err.args = (f"{name}: {err.args[0]}",)


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn in the name of the public function that runs; the warning points at the line that called it."""
    frame, depth, outermost = sys._getframe(), 0, 0
    while frame is not None:
        depth += 1
        if frame.f_globals.get("__name__", "").startswith("fsc."):
            outermost = depth
        frame = frame.f_back
    name = _RUNNING.get()
    warnings.warn(f"{name}: {text}" if name and not text.startswith(f"{name}: ") else text, category, stacklevel=outermost + 1)


@dataclass(frozen=True)
class Setup:
    """What `setup` found: what a reader quotes beside a number."""

    device: torch.device
    budget: str
    seed: int
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        return self.budget == "full"


@public
def setup(seed: int = 0) -> Setup:
    """Seed torch for the notebook's own cells; print device, versions and budget; return them.

    The budget is "full" where there is a GPU and "quick" elsewhere; the environment variable FSC_BUDGET overrides it.

    Raises:
        ValueError: FSC_BUDGET is neither "quick" nor "full".
    """
    from importlib.metadata import version

    torch.manual_seed(seed)
    device = best_device()
    budget = os.environ.get("FSC_BUDGET", "full" if device.type == "cuda" else "quick")
    if budget not in ("quick", "full"):
        raise ValueError(
            f'setup: unknown budget "{budget}".\n'
            f'  Found in the environment variable FSC_BUDGET; it is "quick" or "full".\n'
            f"  Unset it, or set one of the two."
        )
    versions = {"python": platform.python_version()} | {p: version(p) for p in ("fsc", "torch", "torchvision")}
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"device   {device} ({where})")
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
    """The folder `data/` of the project: beside the package in a checkout, inside it when installed from a wheel."""
    inside = Path(__file__).parent / "_data"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "data"


@contextlib.contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put every submodule in eval mode, and back in its own mode afterwards, whatever happens in between."""
    was = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in was:
            module.training = training


def track(total: int, progress: Progress | None) -> Iterator[int]:
    """Count 0 .. total - 1 and report after each step: to `progress`, or to a bar of `tqdm.auto` where it is None."""
    if progress is None:
        from tqdm.auto import tqdm

        yield from tqdm(range(total), desc=_RUNNING.get(), leave=False, delay=0.5)  # no flicker where work is short
        return
    for step in range(total):
        yield step
        progress(step + 1, total)


def quiet(done: int, total: int) -> None:
    """The `progress` of work whose steps nobody wants to see."""


@contextlib.contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; the file written there becomes `path` at the end.

    So `path` is complete at any moment: a reader finds the old file or the new one. After an error the old file
    is as it was, and the temporary one is gone. The new file gets the permissions of the file that it replaces,
    or those of any new file.
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
    """SHA-256 over the names, shapes and bytes of all parameters and buffers: which network, with which weights."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def clone(net: nn.Module) -> nn.Module:
    """A deep copy whose parameters train: the start of every student. The original is left as it is."""
    # Features that a forward kept belong to its autograd graph and cannot be copied as they are.
    kept = [t for module in net.modules() for t in vars(module).values() if isinstance(t, Tensor) and not t.is_leaf]
    copied = copy.deepcopy(net, {id(tensor): tensor.detach().clone() for tensor in kept})
    for parameter in copied.parameters():
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    return copied


def frozen_copy(net: nn.Module) -> nn.Module:
    """A deep copy in eval mode whose parameters do not train: a teacher to compute with, the original left as it is."""
    return clone(net).eval().requires_grad_(False)


def same_requires_grad(net: nn.Module, like: nn.Module) -> None:
    """Set `requires_grad` of every parameter of `net` to that of the same parameter of `like`, a network of equal structure."""
    for parameter, model in zip(net.parameters(), like.parameters(), strict=True):
        parameter.requires_grad_(model.requires_grad)


@contextlib.contextmanager
def own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's global generators of the CPU and of `device` for a while; restore their states at the end."""
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU of the machine
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield
