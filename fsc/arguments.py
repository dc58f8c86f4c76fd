"""Checks of the arguments of public functions: what does not fit is refused in words."""

import difflib
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fsc.runtime import device_of, evaluating, public, warn

if TYPE_CHECKING:
    import pandas as pd


def renamed(**now: str) -> Callable:
    """Accept old keywords for one release, with a warning.

    Under `renamed(blocks="count")` a call with blocks=3 means count=3; one with both raises a TypeError.
    """

    def accept(function: Callable) -> Callable:
        @public
        @functools.wraps(function)
        def accepting(*args: Any, **kwargs: Any) -> Any:
            for old, new in now.items():
                if old in kwargs and new in kwargs:
                    raise TypeError(f"got {old}= and {new}=, two names of one argument.\n  Pass {new}= only.")
                if old in kwargs:
                    warn(f"{old}= is now called {new}=; the next release knows {new}= only.", FutureWarning)
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return accepting

    return accept


def by_keyword(name: str) -> Callable:
    """Accept for a release, with a warning, a second positional argument: `name` is now keyword-only."""

    def accept(function: Callable) -> Callable:
        @public
        @functools.wraps(function)
        def accepting(*args: Any, **kwargs: Any) -> Any:
            if len(args) == 2 and name not in kwargs:
                warn(f"write {name}=...; soon only that works.", FutureWarning)
                *args, kwargs[name] = args
            return function(*args, **kwargs)

        return accepting

    return accept


Ratio = float | Mapping[str, float]
"""Share to remove, inside (0, 1), the same everywhere; or by name, {"layer2.0.conv1": 0.75, "*": 0.5}."""


def checked_ratio(ratio: Ratio, of: str) -> float | dict[str, float]:
    """The ratio as plain floats, all inside (0, 1); `of` names the whole in the message, as in "filters"."""
    if not isinstance(ratio, Mapping):
        return _checked_share(ratio, "", of)
    if not ratio:
        raise ValueError('the ratio {} names no conv.\n  Name some: {"layer1.0.conv1": 0.5}, or "*" for all.')
    return {str(name): _checked_share(share, f" for {name}", of) for name, share in ratio.items()}


def _checked_share(share: float, where: str, of: str) -> float:
    plain = float(share) if isinstance(share, Real | Tensor) else math.nan
    if not 0 < plain < 1:
        meaning = f"It is the share of {of} to remove: 0.5 removes half of them."
        raise ValueError(f"ratio {share!r}{where} is not inside (0, 1).\n  {meaning}")
    return plain


def check_images(images: Any) -> Tensor:
    """The images of a tensor or of a sample of a task: a non-empty (N, C, H, W) of finite, normalised floats.

    Raises:
        TypeError: not a tensor, or not floating point.
        ValueError: wrong shape, no images, NaN or infinity, or values as large as raw pixels.
    """
    if not isinstance(images, Tensor):
        images = getattr(images, "images", images)
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images must be a tensor (N, C, H, W), got {type(images).__name__}.\n"
            f"  Pass few = task.sample(50) or few.images, not the task itself."
        )
    if not images.is_floating_point():
        raise TypeError(
            f"images are {images.dtype}, shape {tuple(images.shape)}; networks take normalised floats.\n"
            f"  Convert with (images / 255 - mean) / std, or take them from task.sample."
        )
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(
            f"images have shape {tuple(images.shape)}; asked for (N, C, H, W) with N at least 1.\n"
            f"  A single image becomes a batch with images[None]."
        )
    bad = ~torch.isfinite(images).flatten(1).all(1)
    if bad.any():
        first = int(bad.nonzero()[0])
        raise ValueError(
            f"{int(bad.sum())} of {len(images)} images hold NaN or infinity; the first is image {first}.\n"
            f"  Leave those out, or mend what made them."
        )
    if (largest := float(images.abs().max())) > 30:
        raise ValueError(
            f"the largest value in the images is {largest:.4g}; normalised images stay within about 10.\n"
            f"  They look like raw 0..255 pixels: use (images / 255 - mean) / std, or images of task.sample."
        )
    return images.detach()


def check_fits(images: Tensor, *models: nn.Module) -> None:
    """Refuse images that one of the networks does not take; each network runs on the first image."""
    with torch.no_grad(), evaluating(*models):
        for model in models:
            try:
                model(images[:1].to(device_of(model)))
            except RuntimeError as err:
                reason = next(iter(str(err).strip().splitlines()), repr(err))
                raise ValueError(
                    f"this {type(model).__name__} does not take images of shape {tuple(images.shape)}.\n"
                    f"  It says: {reason}\n"
                    f"  Pass images of the task that the network was trained for."
                ) from err


def check_columns(table: "pd.DataFrame", *columns: str) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        found = ", ".join(map(str, table.columns)) or "no columns"
        asked = f"Asked for: {', '.join(columns)}. Found: {found}."
        raise ValueError(f"the table has no column {', '.join(missing)}.\n  {asked}")


def one_of(what: str, asked, values: Iterable):
    """The value of the table that equals `asked`, to within the rounding of a float; a ValueError if none."""
    there = sorted({value for value in values if value == value})  # NaN is not equal to itself
    for value in there:
        if value == asked or (isinstance(value, float) and math.isclose(value, asked, rel_tol=1e-6)):
            return value
    listed = ", ".join(map(str, there)) or "none"
    raise ValueError(f"the table has no {what} {asked}.\n  There are: {listed}. Ask for one of these.")


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message, ' Did you mean "..."?' with the most similar known word, or ""."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f' Did you mean "{close[0]}"?' if close else ""


def near(word: str, known: Iterable[str], n: int = 3) -> str:
    """For an error message: "Near it: a, b, c", the known words most like `word`, at most `n`; or nothing."""
    close = difflib.get_close_matches(str(word), list(known), n=n)
    return f"Near it: {', '.join(close)}" if close else ""
