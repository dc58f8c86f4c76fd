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
def isolated(
    seed: int, threads: int | None, device: torch.device, progress: Progress
) -> Iterator[Progress]:
    """Seed torch, set its number of CPU threads (None keeps it) and hide warnings; restore all afterwards.

    Only one thread of this process is inside at a time. It gets a `progress` to pass on. An error from that,
    and a Ctrl-C, is raised again at the end if it was caught inside, as `mir` catches a Ctrl-C.
    """
    stopped: list[BaseException] = []

    def report(done: int, total: int) -> None:
        try:
            progress(done, total)
        except BaseException as err:
            stopped.append(err)
            raise

    def note(number: int, frame: Any) -> None:
        stopped.append(KeyboardInterrupt())
        handler(number, frame)

    handler = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()  # elsewhere no Ctrl-C arrives
    watched = in_main_thread and callable(handler)
    with _ONE_AT_A_TIME, warnings.catch_warnings(), own_randomness(device, seed):
        warnings.simplefilter("ignore")
        threads_before = torch.get_num_threads()
        torch.set_num_threads(threads or threads_before)
        if watched:
            signal.signal(signal.SIGINT, note)
        try:
            yield report
        finally:
            torch.set_num_threads(threads_before)
            if watched:
                signal.signal(signal.SIGINT, handler)
    if stopped:
        raise stopped[0]
