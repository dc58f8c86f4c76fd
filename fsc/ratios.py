"""The ratio of an edit: one share for every conv, or shares by name; refused in words where it cannot be meant."""

import math
from collections.abc import Mapping

Ratio = float | Mapping[str, float]
"""Share to remove, inside (0, 1), the same everywhere; or by name, {"layer2.0.conv1": 0.75, "*": 0.5}."""


def checked_ratio(who: str, ratio: Ratio, of: str) -> float | dict[str, float]:
    """The ratio as plain floats, all inside (0, 1).

    Args:
        who: the public function, for errors.
        of: what it is a share of, in words: "filters", "parameters".

    Raises:
        ValueError: a share that is no number inside (0, 1); a mapping without a name.
    """
    if not isinstance(ratio, Mapping):
        return _checked_share(who, ratio, "", of)
    if not ratio:
        raise ValueError(
            f'{who}: the ratio {{}} names no conv.\n  Name some: {{"layer1.0.conv1": 0.5}}, or "*" for all.'
        )
    return {str(name): _checked_share(who, share, f" for {name}", of) for name, share in ratio.items()}


def _checked_share(who: str, share: float, where: str, of: str) -> float:
    try:
        plain = math.nan if isinstance(share, str | bool) else float(share)
    except (TypeError, ValueError):
        plain = math.nan
    if not 0 < plain < 1:
        raise ValueError(
            f"{who}: ratio {share!r}{where} is not inside (0, 1).\n"
            f"  It is the share of {of} to remove: 0.5 removes half of them."
        )
    return plain
