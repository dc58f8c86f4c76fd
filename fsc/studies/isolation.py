"""Run a method with its own random numbers and threads, without its warnings, and without losing a Ctrl-C."""

import contextlib
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from fsc.runtime import Progress, own_randomness

_ONE_AT_A_TIME = threading.Lock()  # torch's generators and its number of threads belong to the whole process


@contextlib.contextmanager
def isolated(seed: int, threads: int | None, device: torch.device) -> Iterator[None]:
    """Seed torch, set its number of CPU threads (None keeps it) and hide warnings; restore all afterwards.

    Only one thread of this process is inside at a time.

    Raises:
        KeyboardInterrupt: Ctrl-C came inside, even if it was caught there, as `mir` does.
        BaseException: what a `progress` raised that was passed through `halting`.
    """
    with _ONE_AT_A_TIME, _no_lost_interrupt(), warnings.catch_warnings(), own_randomness(device, seed):
        warnings.simplefilter("ignore")
        threads_before = torch.get_num_threads()
        torch.set_num_threads(threads or threads_before)
        try:
            yield
        except _Halted as halted:
            raise halted.__cause__ from None
        finally:
            torch.set_num_threads(threads_before)


def halting(progress: Progress) -> Progress:
    """The same `progress`; but what it raises leaves `isolated`, past every `except Exception` on the way."""

    def report(done: int, total: int) -> None:
        try:
            progress(done, total)
        except BaseException as err:
            raise _Halted from err

    return report


class _Halted(BaseException):
    """Carries what `progress` raised: no method catches it, and no row calls it a failure of the method."""


@contextlib.contextmanager
def _no_lost_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end if Ctrl-C came inside and was caught there."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    interrupts = []

    def note(number: int, frame: Any) -> None:
        interrupts.append(number)
        handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if interrupts:
        raise KeyboardInterrupt
