"""The methods of a study by name: what each starts from, and how it makes a student of that with a few images."""

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import CodeType
from typing import Any, NamedTuple

import pandas as pd
from torch import Tensor, nn

from fsc.arguments import nearest
from fsc.inputs.tasks import Images
from fsc.recover.baselines import distill, finetune
from fsc.recover.fskd import fskd
from fsc.recover.mir import mir
from fsc.recover.practise import practise
from fsc.recover.training import renew_norms

Own = Callable[[nn.Module, Tensor, float], nn.Module]
"""A user's own method: (teacher, images (N, C, H, W), share of the MACs to remove) -> student."""

BATCH = 512
"""Images whose BatchNorm statistics are taken together, where there are so many."""


class Method(NamedTuple):
    """`make` is called with (teacher, start, few, steps=, seed=, progress=).

    `start` depends on the family: "filters", a pruned student to repair; "blocks", how many blocks to drop, and a table
    of the time that each saves; "own", the share of the MACs to remove; "teacher", itself. `descends`: the number of
    steps counts.
    """

    make: Callable[..., nn.Module]
    family: str = "filters"
    descends: bool = False
    function: Own | None = None


def _untouched(teacher: nn.Module, student: nn.Module, few: Images | None, **_) -> nn.Module:
    return student


def _re_estimated(teacher: nn.Module, student: nn.Module, few: Images, **_) -> nn.Module:
    """The control: nothing is fitted; BatchNorm's statistics become those of the few images."""
    copied = copy.deepcopy(student)
    renew_norms(copied, few.images, batch_size=BATCH)
    return copied


def _finetune(teacher: nn.Module, student: nn.Module, few: Images, **how: Any) -> nn.Module:
    return finetune(teacher, student, few.images, few.labels, **how)


def _distill(teacher: nn.Module, student: nn.Module, few: Images, **how: Any) -> nn.Module:
    return distill(teacher, student, few.images, **how)


def _fskd(teacher: nn.Module, student: nn.Module, few: Images, **how: Any) -> nn.Module:
    return fskd(teacher, student, few.images, **how)


def _mir(teacher: nn.Module, student: nn.Module, few: Images, **how: Any) -> nn.Module:
    return mir(teacher, student, few.images, **how)


def _fskd_then_mir(teacher: nn.Module, student: nn.Module, few: Images, **how: Any) -> nn.Module:
    return _mir(teacher, _fskd(teacher, student, few, **how), few, **how)


def _practise(
    teacher: nn.Module, start: tuple[int, pd.DataFrame], few: Images, *, steps: int, **how: Any
) -> nn.Module:
    blocks, timed = start
    return practise(teacher, few.images, blocks=blocks, timed=timed, mimic_steps=steps, **how)


def _practise_closed(
    teacher: nn.Module, start: tuple[int, pd.DataFrame], few: Images, *, steps: int, **how: Any
) -> nn.Module:
    return _practise(teacher, start, few, steps=0, **how)


def _own(teacher: nn.Module, ratio: float, few: Images, *, function: Own, **_) -> nn.Module:
    return function(teacher, few.images, ratio)


PUBLISHED = {"at": "conv", "intercept": False, "ridge": 0.0, "shortcuts": False}
METHODS = {
    "teacher": Method(_untouched, "teacher"),
    "none": Method(_untouched),
    "bn": Method(_re_estimated),
    "finetune": Method(_finetune, descends=True),
    "kd": Method(_distill, descends=True),
    "fskd": Method(_fskd),
    "fskd-published": Method(partial(_fskd, **PUBLISHED)),
    "fskd-sgd": Method(partial(_fskd, method="sgd"), descends=True),
    "mir": Method(_mir, descends=True),
    "fskd+mir": Method(_fskd_then_mir, descends=True),
    "practise-closed": Method(_practise_closed, "blocks"),
    "practise": Method(_practise, "blocks", descends=True),
}


def methods_of(asked: str | Own | Mapping[str, Own] | Iterable) -> dict[str, Method]:
    """The methods of these names, and the user's own functions by theirs.

    Raises:
        ValueError: an unknown name; a function without a name, with that of another method, or with one that is no
            plain text.
        TypeError: neither a name nor a function.
    """
    found: dict[str, Method] = {}
    for item in [asked] if isinstance(asked, str | Mapping) or callable(asked) else asked:
        if isinstance(item, str):
            if item not in METHODS:
                raise ValueError(
                    f'study: unknown method "{item}".{nearest(item, METHODS)}\n'
                    f"  There are {', '.join(METHODS)}.\n"
                    f'  A method of your own is a function (teacher, images, ratio) -> student: {{"{item}": function}}.'
                )
            found[item] = METHODS[item]
            continue
        for name, function in (item if isinstance(item, Mapping) else {getattr(item, "__name__", ""): item}).items():
            _check_own(name, function, found)
            found[name] = Method(partial(_own, function=function), "own", function=function)
    return found


def _check_own(name: str, function: Own, found: Mapping[str, Method]) -> None:
    if not callable(function):
        raise TypeError(
            f"study: the method {name!r} is a {type(function).__name__}; asked for a name or a function.\n"
            f"  Names are {', '.join(METHODS)}; a function takes (teacher, images, ratio) and returns a student."
        )
    if not isinstance(name, str) or name != " ".join(name.split()) or not name.strip("<>") or name == "<lambda>":
        raise ValueError(
            f"study: a method needs a name that fits into a line; found {name!r}.\n"
            f'  Give it one: methods=[{{"mine": function}}].'
        )
    if name in METHODS or name in found:
        raise ValueError(
            f'study: two methods of the name "{name}".\n  Give your own another: methods=[{{"my {name}": function}}].'
        )


def digest_of(*parts: Any) -> str:
    """A short name of whatever these print as; no spreadsheet takes it for a number."""
    return f"sha256:{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


def code_of(function: Own | None) -> str | None:
    """Which code a function has: another name after an edit of it; what it calls and comments do not count."""
    while isinstance(function, partial):
        function = function.func
    if function is not None and not hasattr(function, "__code__"):
        function = type(function).__call__
    if not hasattr(function, "__code__"):
        return None
    bound = [cell.cell_contents for cell in function.__closure__ or ()]
    return digest_of(_parts(function.__code__), [_plain(value) for value in (*(function.__defaults__ or ()), *bound)])


def _parts(code: CodeType) -> list[Any]:
    constants = [_parts(c) if isinstance(c, CodeType) else _plain(c) for c in code.co_consts]
    return [code.co_code, code.co_names, constants]


def _plain(value: Any) -> Any:
    """What prints the same in every process."""
    if isinstance(value, frozenset | tuple):
        return sorted(repr(_plain(v)) for v in value) if isinstance(value, frozenset) else [_plain(v) for v in value]
    return value if isinstance(value, int | float | complex | str | bytes | None) else type(value).__name__
