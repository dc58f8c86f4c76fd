"""What the arguments of public functions may be, and how the rest is refused in words."""

import difflib
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fsc.runtime import device_of, evaluating, warn

if TYPE_CHECKING:
    import pandas as pd

def renamed(**now: str) -> Callable:
    """Accept old keywords for a release: under `renamed(blocks="count")` a call with blocks=3 means count=3, and warns."""

    def accept(function: Callable) -> Callable:
        name = function.__qualname__.removesuffix(".__init__")  # a class is renamed in its constructor

        @functools.wraps(function)
        def accepting(*args: Any, **kwargs: Any) -> Any:
            for old, new in now.items():
                if old in kwargs:
                    warn(f"{name}: {old}= is now called {new}=; the old name goes with the next release.",
                         FutureWarning)
                    kwargs.setdefault(new, kwargs.pop(old))
            return function(*args, **kwargs)

        return accepting

    return accept


Ratio = float | Mapping[str, float]
"""Share to remove, inside (0, 1), the same everywhere; or by name, {"layer2.0.conv1": 0.75, "*": 0.5}."""


def checked_ratio(ratio: Ratio, of: str) -> float | dict[str, float]:
    """The ratio as plain floats, all inside (0, 1).

    Args:
        of: what it is a share of, in words: "filters", "parameters".

    Raises:
        ValueError: a share that is no number inside (0, 1); a mapping without a name.
    """
    if not isinstance(ratio, Mapping):
        return _checked_share(ratio, "", of)
    if not ratio:
        raise ValueError(
            'the ratio {} names no conv.\n  Name some: {"layer1.0.conv1": 0.5}, or "*" for all.'
        )
    return {str(name): _checked_share(share, f" for {name}", of) for name, share in ratio.items()}


def _checked_share(share: float, where: str, of: str) -> float:
    try:
        plain = math.nan if isinstance(share, str | bool) else float(share)
    except (TypeError, ValueError):
        plain = math.nan
    if not 0 < plain < 1:
        raise ValueError(
            f"ratio {share!r}{where} is not inside (0, 1).\n"
            f"  It is the share of {of} to remove: 0.5 removes half of them."
        )
    return plain


def check_images(images: Any) -> Tensor:
    """The images as a tensor; what `task.sample` gives hands out its own.

    Everything but a non-empty (N, C, H, W) tensor of finite, normalised floats is refused.

    Raises:
        TypeError: not a tensor, or not floating point (uint8: not normalised).
        ValueError: wrong number of dimensions, no images, NaN or infinity, or values as large as raw 0..255 pixels.
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
        raise ValueError(
            f"{int(bad.sum())} of {len(images)} images hold NaN or infinity; the first is image "
            f"{int(bad.nonzero()[0])}.\n"
            f"  Leave those out, or mend what made them."
        )
    if images.abs().max() > 30:
        raise ValueError(
            f"the largest value in the images is {float(images.abs().max()):.4g}; normalised images stay within "
            f"about 10.\n"
            f"  They look like raw 0..255 pixels: use (images / 255 - mean) / std, or take them from task.sample."
        )
    return images


def check_fits(images: Tensor, *models: nn.Module) -> None:
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
                    f"this {type(model).__name__} does not take images of shape {tuple(images.shape)}.\n"
                    f"  It says: {reason}\n"
                    f"  Pass images of the task that the network was trained for."
                ) from err


def check_columns(table: "pd.DataFrame", *columns: str) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(
            f"the table has no column {', '.join(missing)}.\n"
            f"  Asked for: {', '.join(columns)}. Found: {', '.join(map(str, table.columns)) or 'no columns'}."
        )


def one_of(what: str, asked, values: Iterable):
    """The value of the table that is `asked`, to within the rounding of a float.

    Raises:
        ValueError: there is none; lists those there are.
    """
    there = sorted({value for value in values if value == value})  # NaN is not equal to itself
    for value in there:
        if value == asked or (isinstance(value, float) and math.isclose(value, asked, rel_tol=1e-6)):
            return value
    raise ValueError(
        f"the table has no {what} {asked}.\n"
        f"  There are: {', '.join(map(str, there)) or 'none'}. Ask for one of these."
    )


def nearest(word: str, known: Iterable[str]) -> str:
    """For the end of an error message: ' Did you mean "..."?' with the known word most like `word`, or nothing."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f' Did you mean "{close[0]}"?' if close else ""
