"""The table of all public functions in README.md: `python tests/helpers/api_table.py` writes it there."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import fsc

README = Path(__file__).resolve().parents[2] / "README.md"
SECTION = re.compile(r"(?<=<!-- api -->\n).*?(?=<!-- end api -->)", re.DOTALL)


def table() -> str:
    """One row per room, and below it one row per public function: its signature and its first sentence."""
    lines = ["| name | what it does |", "|---|---|"]
    for room in map(fsc.__getattr__, fsc._MODULES):
        if names := public_names(room):
            lines.append(f"| **{room.__name__.removeprefix('fsc.')}** | *{sentence(room)}* |")
        lines += [f"| `{name}{signature(value)}` | {sentence(value)} |" for name, value in names.items()]
    return "\n".join(lines) + "\n"


def public_names(room: ModuleType) -> dict[str, Callable]:
    """What can be called from this room, as a user writes it: "fsc.mir", "fsc.plots.overview"."""
    homes = [home for home in fsc._HOMES if f"fsc.{home}.".startswith(f"{room.__name__}.")]
    found = {f"fsc.{name}": getattr(fsc, name) for home in homes for name in fsc._HOMES[home]}
    found |= {f"{room.__name__}.{name}": getattr(room, name) for name in getattr(room, "__all__", [])}
    return {name: value for name, value in found.items() if callable(value)}


def sentence(found: Callable | ModuleType) -> str:
    return inspect.getdoc(found).splitlines()[0].replace("|", "\\|")


def signature(found: Callable) -> str:
    """The arguments with their defaults, without types; nothing for an error."""
    if inspect.isclass(found) and issubclass(found, BaseException):
        return ""
    arguments = [p.replace(annotation=p.empty) for p in inspect.signature(found).parameters.values()]
    return str(inspect.Signature(arguments)).replace("'", '"')


if __name__ == "__main__":
    README.write_text(SECTION.sub(lambda _: table(), README.read_text()))
