"""A button that does long work in a thread, says how far it is, and can be stopped."""

import html
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ipywidgets

from fsc.runtime import Progress


class Stopped(Exception):
    """Stop was pressed: `progress` raises it inside the work."""


class Work:
    """The buttons Recompute and Stop, a note, and a bar while the work runs.

    The work runs in a thread, because a kernel handles one message at a time: if the button's own callback
    did the work, the message of Stop would come after its end.

    `do` takes progress, which it calls after each step, and gives the result. `lock` is called with True
    before the work and with False after it, `fail` with any exception of `do` other than `Stopped`.
    """

    def __init__(self, do: Callable[[Progress], Any], *, lock: Callable[[bool], None], fail: Callable):
        self.running = False
        self._do, self._lock, self._fail = do, lock, fail
        self._stop, self._thread, self._reported = threading.Event(), None, 0.0
        self.button = new_button("Recompute", lambda _: self.start())
        self.stop_button = new_button("Stop", lambda _: self.stop())
        self.note, self.bar = ipywidgets.HTML(), ipywidgets.IntProgress(layout={"width": "160px"})
        self.widgets = (self.button, self.note, self.stop_button, self.bar)
        self._set_running(False)

    def run(self) -> Any:
        """Do the work here and now; return its result, or raise its exception."""
        if self.running:
            raise RuntimeError("it is running already.\n  Stop it (panel.stop()), or wait (panel.wait()).")
        self._set_running(True)
        return self._run()

    def start(self) -> None:
        """Do the work in a thread; an exception goes to `fail` alone."""
        if not self.running:
            self._set_running(True)
            self._thread = threading.Thread(target=self._run_quietly, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def wait(self, timeout: float | None = None) -> None:
        if self._thread is not None:
            self._thread.join(timeout)

    def say(self, text: str) -> None:
        self.note.value = html.escape(text)

    def _run(self) -> Any:
        try:
            return self._do(self._progress)
        except Stopped:
            self.say("stopped; nothing has changed")
            raise
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._set_running(False)

    def _run_quietly(self) -> None:
        with suppress(Exception):  # `fail` has it
            self._run()

    def _progress(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise Stopped("Stop was pressed.")
        if done == total or time.monotonic() - self._reported > 0.1:  # each one is a message to the browser
            self._reported = time.monotonic()
            self.bar.max, self.bar.value = total, done
            self.say(f"{done} of {total}")

    def _set_running(self, running: bool) -> None:
        self.running = running
        self._stop.clear()
        self.button.disabled, self.stop_button.disabled = running, not running
        self.bar.value, self.bar.layout.display = 0, None if running else "none"
        self._lock(running)


def new_button(text: str, pressed: Callable) -> ipywidgets.Button:
    button = ipywidgets.Button(description=text, layout={"width": "auto"})
    button.on_click(pressed)
    return button
