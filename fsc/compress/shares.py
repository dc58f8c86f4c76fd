"""The share to remove from each layer, as the user gave it by name; the layers that stay, and why."""

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence

from torch import nn

from fsc.arguments import Ratio, near
from fsc.runtime import warn

UNUSED = "the forward does not use it in eval mode"


def shares_of(
    teacher: nn.Module, ratio: Ratio, layers: Sequence[Sequence[str]], reasons: Mapping[str, str], done: str
) -> list[float]:
    """The share to remove from each layer: that of its name, else that of "*", else 0.

    Args:
        layers: the layers that can be made smaller; each has one name, or those of all convs of a group.
        reasons: module -> why it cannot be made smaller.
        done: for errors, what happens to the layers: "pruned".
    """
    if not isinstance(ratio, Mapping):
        return [ratio] * len(layers)
    able = [name for names in layers for name in names]
    modules = dict(teacher.named_modules())
    for name in ratio:
        if name == "*" or name in able:
            continue
        firsts = ", ".join(dict.fromkeys(names[0] for names in layers))
        listed = f"Those that can be {done}: {firsts or 'none'}"
        if name not in modules:
            hint = near(name, able) or listed
            raise ValueError(f'this {type(teacher).__name__} has no module "{name}".\n  {hint}.')
        why = reasons.get(name, f"it is a {type(modules[name]).__name__}, not a conv that makes new channels")
        raise ValueError(f"{name} cannot be {done}: {why}.\n  {listed}.")
    shares = []
    for names in layers:
        given = {name: ratio[name] for name in names if name in ratio}
        if len(set(given.values())) > 1:
            both = f"{' and '.join(given)} share their channels but were given different ratios: {given}"
            raise ValueError(f"{both}.\n  Give a ratio to one of them only.")
        shares.append(next(iter(given.values()), ratio.get("*", 0.0)))
    return shares


def first_reasons(reasons: Mapping[str, str]) -> str:
    """The first four of the reasons, one per line, for an error that says why there is nothing to do."""
    return "\n  ".join(f"{name}: {why}." for name, why in list(reasons.items())[:4]) or "It calls no Conv2d."


def tell_what_stays(reasons: Mapping[str, str], expected: Container[str]) -> None:
    """Warn of the modules that stay as they are, one line per reason; the `expected` reasons are left out."""
    names = defaultdict(list)
    for name, why in reasons.items():
        if why not in expected:
            names[why].append(name)
    if names:
        lines = [f"  {', '.join(stay)}: {why}." for why, stay in names.items()]
        warn("these stay as they are:\n" + "\n".join(lines))
