"""The demo page in a real browser: a running `applause demo`, and a page of a fresh Chromium."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.absence import not_run
from tests.support.folders import own_environment, prepare

if TYPE_CHECKING:
    from playwright.async_api import Browser, Locator, Page

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER_ARGS: Final = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
START_S: Final = 60  # the first start initialises a database
STOP_S: Final = 20
PATIENCE_MS: Final = 15_000
IN_BROWSER: Final = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]  # on the loop of the run's one


def browser_path() -> str:
    """Where the system's Chromium is; skips, naming what is missing, where the journey can't run."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        not_run("browser", f"no browser: none of {', '.join(BROWSERS)} is on the PATH (apt-get install -y chromium)")
    try:
        import playwright  # noqa: F401
    except ImportError:
        not_run("browser", "the Python package `playwright` is missing (pip install playwright)")
    return found


@asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    """The system's Chromium, without a window."""
    executable = browser_path()
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=BROWSER_ARGS)
        yield browser
        await browser.close()


@asynccontextmanager
async def fresh_page(browser: Browser) -> AsyncIterator[Page]:
    """A page that knows of no other; whatever it complains about in its console fails the test."""
    complaints: list[str] = []
    page = await browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    try:
        yield page
    finally:
        await page.close()
    assert complaints == []


@contextmanager
def running_demo(folder: Path) -> Iterator[str]:
    """The address of a real `applause demo` with a data folder of its own."""
    browser_path()  # before a server is started for nothing
    port = _free_port()
    command = [sys.executable, "-m", "gateway", "demo", "--port", str(port), "--data-dir", str(folder / "data")]
    log_path = folder / "demo.log"
    prepare(folder / "data")
    with log_path.open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=own_environment())
    try:
        _await_ready(server, f"http://127.0.0.1:{port}", log_path)
        yield f"http://127.0.0.1:{port}"
    finally:
        _stop(server)


async def expect_state(phone: Locator, state: str) -> None:
    """Waits until the phone shows this state of its client."""
    await phone.and_(phone.page.locator(f'[data-state="{state}"]')).wait_for()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_ready(server: subprocess.Popen[bytes], base_url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{base_url}/readyz", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"`applause demo` did not get ready (exit status {server.poll()}):\n{log.read_text()[-4000:]}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
    try:
        server.wait(STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
