"""The check of an exact edit: the edited network must compute what it should, or the edit is refused."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fsc.runtime import device_of, evaluating, warn


class NotExact(ValueError):
    """An edit that should be exact cannot be exact, or its check failed; the edit is refused."""


def expected_output(net: nn.Module, example: Tensor) -> Tensor:
    """The output that the edited network must reproduce; hooks on `net` may do what the edit will do.

    Raises:
        ValueError: the output holds NaN or infinity, so nothing can be compared with it.

    Warns when all outputs are 0: then every edit looks exact.
    """
    output, kind = _run(net, example), type(net).__name__
    if not torch.isfinite(output).all():
        raise ValueError(
            f"on a random image the outputs of {kind} are not finite.\n"
            "  Look for NaN or infinity in its weights and BatchNorm statistics: did its training diverge?"
        )
    if not output.any():
        warn(f"all outputs of {kind} are 0 (an untrained head?), so the edit could not be checked.")
    return output


def edited_output(net: nn.Module, example: Tensor, edit: str, hint: str) -> Tensor:
    """The output of the edited network on the example.

    Raises:
        NotExact: "ResNet does not run {edit}: {why}", then the hint, which says what to do.
    """
    try:
        return _run(net, example)
    except Exception as err:  # a foreign forward may raise anything when it misses an attribute or a channel
        raise NotExact(f"{type(net).__name__} does not run {edit}: {err}\n  {hint}") from err


def check_same(found: Tensor, expected: Tensor, what: str, hint: str, tolerance: float = 1e-4) -> None:
    """Refuse an edit if the two outputs differ by more than rounding.

    Args:
        what, hint: first and last line of the error: the difference in words; the likely cause or remedy.
        tolerance: largest allowed difference, relative to the largest expected value. Half precision is
            coarser: there 8 steps of the dtype are allowed. Rounding in float32 stays near 1e-6.

    Raises:
        NotExact: says how large the difference is.
    """
    error = float((found - expected).abs().max()) / max(float(expected.abs().max()), 1e-12)
    if not error <= max(tolerance, 8 * torch.finfo(found.dtype).eps):  # NaN is refused, too
        raise NotExact(f"{what} (relative error {error:.1e}).\n  {hint}")


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove these hooks when the block ends, whatever happens in it; `handles` may be a generator."""
    with ExitStack() as stack:
        for handle in handles:
            stack.enter_context(handle)
        yield


def _run(net: nn.Module, example: Tensor) -> Tensor:
    x = example.to(device_of(net))
    no_tf32 = torch.backends.cudnn.flags(allow_tf32=False)
    no_autocast = torch.autocast(x.device.type, enabled=False)
    with torch.no_grad(), evaluating(net), no_tf32, no_autocast:
        return net(x)
