"""Where things run and how they report: device, seed, budget, progress, evaluation mode."""

import contextlib
import hashlib
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all) after every step of long work; what it raises stops the work."""


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


def track(total: int, what: str, progress: Progress | None) -> Iterator[int]:
    """Count 0 .. total - 1 and report after each step: to `progress`, or to a bar of `tqdm.auto` where it is None."""
    if progress is None:
        from tqdm.auto import tqdm

        yield from tqdm(range(total), desc=what, leave=False, delay=0.5)  # no flicker where work is short
        return
    for step in range(total):
        yield step
        progress(step + 1, total)


def quiet(done: int, total: int) -> None:
    """The `progress` of work whose steps nobody wants to see."""


def check_images(who: str, images: Tensor) -> None:
    """Refuse all but a non-empty (N, C, H, W) tensor of finite, normalised floats.

    Raises:
        TypeError: not a tensor, or not floating point (uint8: not normalised).
        ValueError: wrong number of dimensions, no images, NaN or infinity, or values as large as raw 0..255 pixels.
    """
    if not isinstance(images, Tensor):
        raise TypeError(
            f"{who}: images must be a tensor (N, C, H, W), got {type(images).__name__}.\n"
            f"  Pass few.images of few = task.sample(50), not the sample or the task itself."
        )
    if not images.is_floating_point():
        raise TypeError(
            f"{who}: images are {images.dtype}, shape {tuple(images.shape)}; networks take normalised floats.\n"
            f"  Convert with (images / 255 - mean) / std, or take them from task.sample."
        )
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(
            f"{who}: images have shape {tuple(images.shape)}; asked for (N, C, H, W) with N at least 1.\n"
            f"  A single image becomes a batch with images[None]."
        )
    bad = ~torch.isfinite(images).flatten(1).all(1)
    if bad.any():
        raise ValueError(
            f"{who}: {int(bad.sum())} of {len(images)} images hold NaN or infinity; the first is image "
            f"{int(bad.nonzero()[0])}.\n"
            f"  Leave those out, or mend what made them."
        )
    if images.abs().max() > 30:
        raise ValueError(
            f"{who}: the largest value in the images is {float(images.abs().max()):.4g}; normalised images stay within "
            f"about 10.\n"
            f"  They look like raw 0..255 pixels: use (images / 255 - mean) / std, or take them from task.sample."
        )


def check_fits(who: str, images: Tensor, *models: nn.Module) -> None:
    """Refuse images that one of the networks does not take, by trying the first one.

    Raises:
        ValueError: wrong number of channels, wrong size; says what the network said.
    """
    with torch.no_grad(), evaluating(*models):
        for model in models:
            try:
                model(images[:1].to(device_of(model)))
            except RuntimeError as err:
                reason = next(iter(str(err).strip().splitlines()), repr(err))
                raise ValueError(
                    f"{who}: this {type(model).__name__} does not take images of shape {tuple(images.shape)}.\n"
                    f"  It says: {reason}\n"
                    f"  Pass images of the task that the network was trained for."
                ) from err


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and bytes of all parameters and buffers: which network, with which weights."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
