"""The demo page in a real browser: Ada likes, Grace hears of it, misses something, and catches up."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.absence import not_run

if TYPE_CHECKING:
    from playwright.async_api import Locator, Page

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER_ARGS: Final = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
START_S: Final = 60  # the first start initialises a database
STOP_S: Final = 20
PATIENCE_MS: Final = 15_000


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


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """A page of a fresh browser; whatever it complains about in its console fails the test."""
    executable = browser_path()
    from playwright.async_api import async_playwright

    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=BROWSER_ARGS)
        page = await browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
        yield page
        await browser.close()
    assert complaints == []


@pytest.fixture
def base_url(tmp_path: Path) -> Iterator[str]:
    """The address of a real `applause demo` with a data folder of its own."""
    browser_path()  # before a server is started for nothing
    port = _free_port()
    command = [sys.executable, "-m", "gateway", "demo", "--port", str(port), "--data-dir", str(tmp_path / "data")]
    log_path = tmp_path / "demo.log"
    with log_path.open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=_own_environment())
    try:
        _await_ready(server, f"http://127.0.0.1:{port}", log_path)
        yield f"http://127.0.0.1:{port}"
    finally:
        _stop(server)


@pytest.mark.browser
async def test_two_phones_like_hear_and_catch_up(base_url: str, page: Page) -> None:
    await the_story(page, base_url)


async def the_story(page: Page, base_url: str) -> None:
    """Everything that the page invites a visitor to try, in the page's own order."""
    await page.goto(f"{base_url}/")
    ada, grace = page.locator('[data-phone="viewer"]'), page.locator('[data-phone="creator"]')
    await _expect_state(ada, "online")
    await _expect_state(grace, "online")
    for phone in (ada, grace):
        await phone.locator('[data-at="spoken-balance"]', has_text="LYK").wait_for()
    first, second = await _videos(ada)

    # a like pays both, and Grace hears of it
    before = await _balances(ada, grace)
    await ada.locator(f'[data-video="{first}"] [data-do="like"]').click()
    await _expect_balance(ada, before[0] + 1)
    await _expect_balance(grace, before[1] + 1)
    await grace.locator('.event[data-icon="heart"]').first.wait_for()
    assert await ada.locator(f'[data-video="{first}"] [data-at="likes"]').text_content() != "0"

    # Grace is away; her inbox goes on, and she catches up
    await grace.locator('[data-do="switch"]').click()
    await _expect_state(grace, "stopped")
    await ada.locator(f'[data-video="{second}"] [data-do="like"]').click()
    await _expect_balance(ada, before[0] + 2)
    assert await _balance(grace) == before[1] + 1
    await grace.locator('[data-do="switch"]').click()
    await grace.locator('[data-at="banner"]', has_text="Caught up").wait_for()
    assert await grace.locator(".event.replayed").count() >= 2
    await _expect_balance(grace, before[1] + 2)

    # liking again counts again and pays nobody; Ada is offline meanwhile, so her outbox does it
    await ada.locator('[data-do="switch"]').click()
    await _expect_state(ada, "stopped")
    heart = ada.locator(f'[data-video="{first}"] [data-do="like"]')
    await heart.click()
    await heart.click()
    await ada.locator('[data-at="banner"]', has_text="2 taps wait").wait_for()
    await ada.locator('[data-do="switch"]').click()
    await ada.locator(f'[data-video="{first}"] [data-at="remark"]', has_text="Paid once before").wait_for()
    assert await _balances(ada, grace) == (before[0] + 2, before[1] + 2)

    assert await page.locator("#tour .done").count() == await page.locator("#tour li").count()
    await _expect_no_tokens(page)


@pytest.mark.browser
async def test_what_was_tapped_offline_outlives_the_page_and_is_sent_once(base_url: str, page: Page) -> None:
    await page.goto(f"{base_url}/")
    ada, grace = page.locator('[data-phone="viewer"]'), page.locator('[data-phone="creator"]')
    await _expect_state(ada, "online")
    for phone in (ada, grace):
        await phone.locator('[data-at="spoken-balance"]', has_text="LYK").wait_for()
    first, second = await _videos(ada)
    before = await _balances(ada, grace)
    await ada.locator('[data-do="switch"]').click()
    await _expect_state(ada, "stopped")
    for video in (first, second):
        await ada.locator(f'[data-video="{video}"] [data-do="like"]').click()
    await ada.locator(f'[data-video="{first}"] [data-do="share"]').click()

    for _ in range(2):  # a reload changes nothing
        await _expect_state(ada, "stopped")
        await ada.locator('[data-at="banner"]', has_text="3 taps wait").wait_for()
        shown = await ada.locator('[data-at="outbox"] [data-at="text"]').all_text_contents()
        assert [row.split(" · ")[0] for row in shown] == ["Like", "Like", "Share"]
        assert await ada.locator(f'[data-video="{second}"] [data-do="like"]').get_attribute("aria-pressed") == "true"
        await page.reload()

    await ada.locator('[data-do="switch"]').click()
    await _expect_balance(ada, before[0] + 1 + 1 + 2)
    await _expect_balance(grace, before[1] + 3)
    assert await ada.locator('[data-at="outbox"] li').count() == 0
    assert await ada.locator(f'[data-video="{first}"] [data-at="shares"]').text_content() == "1"
    await page.reload()
    await _expect_balance(ada, before[0] + 4)


@pytest.mark.browser
async def test_comments_follows_and_gifts(base_url: str, page: Page) -> None:
    await page.goto(f"{base_url}/")
    ada, grace = page.locator('[data-phone="viewer"]'), page.locator('[data-phone="creator"]')
    for phone in (ada, grace):
        await phone.locator('[data-at="spoken-balance"]', has_text="LYK").wait_for()
    first, _ = await _videos(ada)
    before = await _balances(ada, grace)

    video = ada.locator(f'[data-video="{first}"]')
    await video.locator('[data-do="comment"]').click()
    await video.locator('[data-at="comment-text"]').fill("What <b>light</b>!")
    await video.locator('[data-do="comment-form"] button').click()
    await video.locator('[data-at="comment-list"]', has_text="What <b>light</b>!").wait_for()
    await grace.locator('.event[data-icon="comment"]', has_text="What <b>light</b>!").wait_for()
    await _expect_balance(ada, before[0] + 2)

    await ada.locator('[data-do="follow"]').click()
    await grace.locator('.event[data-icon="star"]').wait_for()
    assert await ada.locator('[data-do="follow"]').get_attribute("aria-pressed") == "true"

    await ada.locator('[data-at="amount"]').fill("1.5")
    await ada.locator('[data-do="gift"] button').click()
    await _expect_balance(ada, before[0] + 0.5)
    await _expect_balance(grace, before[1] + 1.5)
    await ada.locator('[data-at="amount"]').fill("1000")
    await ada.locator('[data-do="gift"] button').click()
    await ada.locator('[data-at="person-remark"]:not(:has-text("sent")):not(:empty)').wait_for()
    assert await _balances(ada, grace) == (before[0] + 0.5, before[1] + 1.5)


async def _videos(phone: Locator) -> tuple[str, str]:
    first, second, *_ = await phone.locator("[data-video]").evaluate_all("all => all.map(one => one.dataset.video)")
    return first, second


async def _expect_state(phone: Locator, state: str) -> None:
    await phone.and_(phone.page.locator(f'[data-state="{state}"]')).wait_for()


async def _balance(phone: Locator) -> float:
    """What is read out, in LYK: the visible number is still counting up."""
    spoken = await phone.locator('[data-at="spoken-balance"]').text_content() or ""
    return float(spoken.split()[1].replace(",", ""))


async def _balances(*phones: Locator) -> tuple[float, ...]:
    return tuple([await _balance(phone) for phone in phones])


async def _expect_balance(phone: Locator, balance: float) -> None:
    await phone.locator('[data-at="spoken-balance"]', has_text=f"Balance {balance:,.2f} LYK").wait_for()


async def _expect_no_tokens(page: Page) -> None:
    shown = await page.locator("#wire").text_content() or ""
    assert '"token":"•••"' in shown
    assert shown.count('"token":') == shown.count('"token":"•••"')


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _own_environment() -> dict[str, str]:
    """Ours without what would lead the demo to another database or other settings."""
    return {name: value for name, value in os.environ.items() if name != "DATABASE_URL" and "APPLAUSE_" not in name}


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
