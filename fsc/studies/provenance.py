"""Short names for code and machines: by them a stored row says where it comes from."""

import platform
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from types import CodeType
from typing import Any

import torch

from fsc.runtime import digest_of


def code_of(function: Callable | None) -> str | None:
    """A digest of a function's own code: every edit changes it, except one of comments; None without code.

    Values from around the function count, as defaults and closures hold them. Functions that it calls do not
    count. This reads bytecode, not source: functions made by `exec` have no source.
    """
    while isinstance(function, partial):
        function = function.func
    if function is not None and not hasattr(function, "__code__"):
        function = type(function).__call__
    if not hasattr(function, "__code__"):
        return None
    closure = [cell.cell_contents for cell in function.__closure__ or ()]
    around = [*(function.__defaults__ or ()), *closure]
    return digest_of(_code_parts(function.__code__), [_plain(value) for value in around])


def provenance(device: torch.device) -> dict[str, str]:
    """The versions of fsc and torch, and the machine with its number of CPU threads, as a row stores them."""
    threads = torch.get_num_threads()
    where = f"{platform.machine()} CPU, {threads} thread{'' if threads == 1 else 's'}"
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    return {"fsc": version("fsc"), "torch": torch.__version__, "device": where}


def _code_parts(code: CodeType) -> list[Any]:
    constants = [_code_parts(c) if isinstance(c, CodeType) else _plain(c) for c in code.co_consts]
    return [code.co_code, code.co_names, constants]


def _plain(value: Any) -> Any:
    """The value in a form that prints the same in every process."""
    if isinstance(value, frozenset):
        return sorted(repr(_plain(v)) for v in value)
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, int | float | complex | str | bytes | None) else type(value).__name__
