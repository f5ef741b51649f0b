"""One server for the journeys that don't stop it, and a stage of people for each."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.support.console import fresh_page, running_browser, running_demo
from tests.support.processes import nothing_broke
from tests.support.server import Gateway
from tests.support.stage import Stage

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A running `applause serve`; at the end it must have stopped well and logged no fault."""
    gateway = Gateway(tmp_path_factory.mktemp("journeys") / "data")
    gateway.start()
    yield gateway
    status = gateway.stop()
    assert status == 0, gateway.log[-4000:]
    nothing_broke(gateway.log)


HASTY = {"SOCKET__CONNECT_TIMEOUT_S": 1, "SOCKET__SEND_QUEUE_AGE_S": 1, "DRAIN__RECONNECT_SPREAD_S": 1}


@pytest.fixture(scope="session")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Another one, short of patience, which tests may also stop and start again."""
    gateway = Gateway(tmp_path_factory.mktemp("hasty") / "data", **HASTY)
    gateway.start()
    yield gateway
    gateway.stop()
    nothing_broke(gateway.log)


@pytest.fixture(params=["postgres", "kafka"])
def bus(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, object]:
    """How nodes talk, as settings of theirs: through the database, or through the run's Kafka and Valkey."""
    if request.param == "postgres":
        return {}
    return through_kafka(request.getfixturevalue("kafka"), request.getfixturevalue("valkey"), tmp_path)


def through_kafka(kafka: str, valkey: str, folder: Path) -> dict[str, object]:
    """The settings of a cluster of this folder's own."""
    prefix = re.sub(r"[^A-Za-z0-9]", "-", str(folder))[-80:]
    return {"KAFKA__BOOTSTRAP_SERVERS": kafka, "REDIS__URL": valkey, "KAFKA__PREFIX": prefix}


@pytest.fixture
async def hasty_stage(hasty: Gateway) -> AsyncIterator[Stage]:
    """People on the hasty server."""
    async with checked(Stage(hasty)) as stage:
        yield stage


@pytest.fixture
async def stage(server: Gateway) -> AsyncIterator[Stage]:
    """People and videos of this test's own; whatever it did, the ledger and the inboxes must hold afterwards."""
    async with checked(Stage(server)) as stage:
        yield stage


@asynccontextmanager
async def checked(stage: Stage) -> AsyncIterator[Stage]:
    """The stage, which must hold at the end of a test that passed so far."""
    try:
        yield stage
        await stage.check()
    finally:
        await stage.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One for the whole run: to start it takes two seconds of CPU."""
    async with running_browser() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A fresh page, for a test on the session's loop; whatever it complains about in its console fails the test."""
    async with fresh_page(browser) as page:
        yield page


@pytest.fixture
def base_url(tmp_path: Path) -> Iterator[str]:
    """The address of a real `applause demo` with a data folder of its own."""
    with running_demo(tmp_path) as base_url:
        yield base_url
