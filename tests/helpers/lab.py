"""A JupyterLab of its own with a page of Chromium in it, for tests that turn knobs as a reader does."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
from playwright.sync_api import Locator, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update"]
SETTINGS = {
    # Put all cells on the page, not only those in view, so that all their prompts can be read.
    "notebook-extension/tracker": '{"windowingMode": "none"}',
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}
STARTING = 120  # seconds: a first start on a busy machine


class Notebook:
    """A notebook open in JupyterLab; `page` is Playwright's, for whatever has no method here."""

    def __init__(self, page: Page, shots: Path):
        self.page, self.shots = page, shots

    def run_all(self, seconds: float = 300) -> None:
        """Run all cells and wait for the last.

        Raises:
            AssertionError: a cell raised.
            playwright.sync_api.TimeoutError: it took longer.
        """
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        prompts = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(p => p.textContent)"
        self.page.wait_for_function(f"{prompts}.every(p => /\\[\\d+\\]/.test(p))", timeout=1000 * seconds)
        errors = self.page.locator('[data-mime-type="application/vnd.jupyter.error"]')
        assert errors.count() == 0, errors.first.inner_text()

    def knob(self, label: str) -> Locator:
        """The handle of a slider, to be focused and moved with the arrow keys."""
        return self.panel.locator(".widget-slider", has_text=label).get_by_role("slider")

    def button(self, text: str) -> Locator:
        return self.panel.get_by_role("button", name=text, exact=True)

    @property
    def panel(self) -> Locator:
        """The first panel of the notebook."""
        return self.page.locator(".jp-OutputArea-output", has=self.page.locator("[aria-live=polite]")).first

    @property
    def sentence(self) -> Locator:
        """The line under the panel's picture."""
        return self.panel.locator("[aria-live=polite]")

    def shot(self, name: str) -> Path:
        """A screenshot of what is in view."""
        path = self.shots / f"{name}.png"
        self.page.screenshot(path=path)
        return path


@contextlib.contextmanager
def open_notebook(source: Path, folder: Path, chromium: str) -> Iterator[Notebook]:
    """Copy `source` into the empty `folder` and open the copy in a JupyterLab that knows nothing outside it.

    Settings, kernels' files and screenshots go to `folder` as well: nothing of the reader is used or changed.
    """
    work, home, shots = (folder / name for name in ("work", "home", "shots"))
    for path in (work, home, shots):
        path.mkdir()
    shutil.copy(source, work)
    for name, setting in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(setting, encoding="utf-8")
    with _server(work, home) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1300, "height": 1400})
        page.set_default_timeout(60_000)
        page.goto(address.format(path=f"lab/tree/{source.name}"), wait_until="domcontentloaded")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=1000 * STARTING)
        _wait_until(lambda: _kernel_is_ready(address.format(path="api/sessions")), "the kernel did not start")
        page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=1000 * STARTING)
        notebook = Notebook(page, shots)
        try:
            yield notebook
        except BaseException:
            notebook.shot("failed")
            raise
        finally:
            browser.close()


@contextlib.contextmanager
def _server(work: Path, home: Path) -> Iterator[str]:
    """A JupyterLab that serves `work`; its address, with {path} to be filled in."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    places = {"CONFIG_DIR": "config", "RUNTIME_DIR": "runtime", "DATA_DIR": "data"}
    environment = os.environ | {f"JUPYTER_{name}": str(home / place) for name, place in places.items()}
    environment |= {f"JUPYTERLAB_{name.upper()}_DIR": str(home / name) for name in ("settings", "workspaces")}
    environment |= {"IPYTHONDIR": str(home / "ipython"), "FSC_BUDGET": "quick"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={work}"]
    command += [f"--IdentityProvider.token={token}"]
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=work)
        try:
            address = f"http://127.0.0.1:{port}/{{path}}?token={token}"
            status = address.format(path="api/status")
            _wait_until(lambda: _answers(status, server), "JupyterLab did not start")
            yield address
        except TimeoutError as error:
            log_end = (home / "server.log").read_text(encoding="utf-8")[-3000:]
            raise RuntimeError(f"{error}:\n{log_end}") from None
        finally:
            server.terminate()  # it ends its kernels before it goes
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


def _answers(address: str, server: subprocess.Popen) -> bool:
    if server.poll() is not None:
        raise TimeoutError(f"JupyterLab ended with status {server.returncode}")
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
        return True
    return False


def _kernel_is_ready(address: str) -> bool:
    """Whether an idle kernel is connected to the page; before that, JupyterLab would ask for a kernel."""
    with urllib.request.urlopen(address, timeout=5) as answer:
        kernels = [session["kernel"] for session in json.load(answer)]
    return any(kernel["execution_state"] == "idle" and kernel["connections"] > 0 for kernel in kernels)


def _wait_until(true: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + STARTING
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(complaint)
        time.sleep(0.3)


def save_notebook(path: Path, *cells: str) -> Path:
    cells = [nbformat.v4.new_code_cell(textwrap.dedent(cell).strip()) for cell in cells]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path
