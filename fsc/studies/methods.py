"""The methods of a study by name: what each one starts from, and how it makes a student with a few images."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
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
"""Batch size for BatchNorm's statistics; fewer images make one smaller batch."""


class Method(NamedTuple):
    """One method of a study.

    Fields:
        make: is called as make(teacher, start, few, steps=, seed=, progress=) and returns the student.
        family: says what `start` is. "filters": a pruned student to recover. "blocks": the number of blocks
            to drop, and a table of the time that each saves. "own": the share of the MACs to remove.
            "teacher": the teacher.
        descends: True if it takes gradient descent, so that the number of steps counts.
        function: the user's own function; None for a method of this package.
    """

    make: Callable[..., nn.Module]
    family: str = "filters"
    descends: bool = False
    function: Own | None = None


def _unchanged(teacher: nn.Module, start: nn.Module, few: Images | None, **_) -> nn.Module:
    return start


def _renew_norms(teacher: nn.Module, start: nn.Module, few: Images, **_) -> nn.Module:
    """The control: nothing is fitted; BatchNorm's statistics become those of the few images."""
    student = copy.deepcopy(start)
    renew_norms(student, few.images, batch_size=BATCH)
    return student


def _recover(
    recoveries: Sequence[Callable], teacher: nn.Module, student: nn.Module, few: Images, **options: Any
) -> nn.Module:
    """Apply the recoveries one after the other, each with the few images."""
    for recover in recoveries:
        student = recover(teacher, student, few.images, **options)
    return student


def _finetune(teacher: nn.Module, student: nn.Module, few: Images, **options: Any) -> nn.Module:
    return finetune(teacher, student, few.images, few.labels, **options)


def _practise(
    teacher: nn.Module, start: tuple[int, pd.DataFrame], few: Images, *, steps: int, **options: Any
) -> nn.Module:
    count, timed = start
    return practise(teacher, few.images, count=count, timed=timed, mimic_steps=steps, **options)


def _practise_closed(*args: Any, steps: int, **options: Any) -> nn.Module:
    return _practise(*args, steps=0, **options)


def _own(teacher: nn.Module, ratio: float, few: Images, *, function: Own, **_) -> nn.Module:
    return function(teacher, few.images, ratio)


PUBLISHED = {"at": "conv", "intercept": False, "ridge": 0.0, "shortcuts": False}
METHODS = {
    "teacher": Method(_unchanged, "teacher"),
    "none": Method(_unchanged),
    "bn": Method(_renew_norms),
    "finetune": Method(_finetune, descends=True),
    "kd": Method(partial(_recover, [distill]), descends=True),
    "fskd": Method(partial(_recover, [fskd])),
    "fskd-published": Method(partial(_recover, [fskd], **PUBLISHED)),
    "fskd-sgd": Method(partial(_recover, [fskd], method="sgd"), descends=True),
    "mir": Method(partial(_recover, [mir]), descends=True),
    "fskd+mir": Method(partial(_recover, [fskd, mir]), descends=True),
    "practise-closed": Method(_practise_closed, "blocks"),
    "practise": Method(_practise, "blocks", descends=True),
}


def methods_of(asked: str | Own | Mapping[str, Own] | Iterable) -> dict[str, Method]:
    """The methods of these names, and the user's own functions by their names."""
    found: dict[str, Method] = {}
    for item in [asked] if isinstance(asked, str | Mapping) or callable(asked) else asked:
        if isinstance(item, str):
            _check_known(item)
            found[item] = METHODS[item]
            continue
        named = item if isinstance(item, Mapping) else {getattr(item, "__name__", ""): item}
        for name, function in named.items():
            _check_own(name, function, found)
            found[name] = Method(partial(_own, function=function), "own", function=function)
    return found


def _check_known(name: str) -> None:
    if name not in METHODS:
        own = f'function (teacher, images, ratio) -> student: {{"{name}": function}}.'
        raise ValueError(
            f'unknown method "{name}".{nearest(name, METHODS)}\n'
            f"  There are {', '.join(METHODS)}.\n  A method of your own is a {own}"
        )


def _check_own(name: str, function: Own, found: Mapping[str, Method]) -> None:
    if not callable(function):
        raise TypeError(
            f"the method {name!r} is a {type(function).__name__}; asked for a name or a function.\n"
            f"  Names are {', '.join(METHODS)}.\n"
            f"  A function takes (teacher, images, ratio) and returns a student."
        )
    if not isinstance(name, str) or name != " ".join(name.split()) or name in ("", "<lambda>"):
        remedy = 'Give it one: methods=[{"mine": function}].'
        raise ValueError(f"a method needs a name that fits into a line; found {name!r}.\n  {remedy}")
    if name in METHODS or name in found:
        remedy = f'Give yours another: methods=[{{"my {name}": function}}].'
        raise ValueError(f'two methods have the name "{name}".\n  {remedy}')
