"""Numbers in words, the same in the sentences of all figures."""

from collections.abc import Iterable

import pandas as pd


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def short_percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def counted(numbers: Iterable[float], noun: str) -> str:
    """The smallest and the largest number with their noun: "1 image", "50 to 500 images"."""
    numbers = ends(sorted(set(numbers)))
    return f"{' to '.join(f'{n:.0f}' for n in numbers)} {noun}{'' if numbers == [1] else 's'}"


def mean_sd(mean: float, sd: float | None) -> str:
    """Mean and standard deviation over the draws. A single draw has no deviation: None or NaN."""
    return percent(mean) if pd.isna(sd) else f"{percent(mean)} ± {100 * sd:.1f}"


def beside(teacher: float | None) -> str:
    """The teacher's accuracy, for the end of a sentence; nothing where it is not known."""
    return "" if teacher is None else f"; teacher {percent(teacher)}"


def ends(values: Iterable) -> list:
    """The first and the last value, or the only one."""
    first, *rest = values
    return [first, *rest[-1:]]
