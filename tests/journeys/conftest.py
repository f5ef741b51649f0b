"""One server for the journeys that don't stop it, and a stage of people for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.server import Gateway
from tests.support.stage import Stage


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A running `applause serve`; at the end it must have stopped well and logged no fault."""
    gateway = Gateway(tmp_path_factory.mktemp("journeys") / "data")
    gateway.start()
    yield gateway
    status = gateway.stop()
    assert status == 0, gateway.log[-4000:]
    assert "Traceback" not in gateway.log, gateway.log[-4000:]


@pytest.fixture
async def stage(server: Gateway) -> AsyncIterator[Stage]:
    """People and videos of this test's own; whatever it did, the ledger and the inboxes must hold afterwards."""
    stage = Stage(server)
    yield stage
    try:
        await stage.check()
    finally:
        await stage.close()
