"""How a node goes (spec 8.8): what runs is finished, then all clients are told when to come back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from fanout.delivery import Delivery
from fanout.hub import Hub
from gateway.clock.push import PushClock
from gateway.lane import Lane

if TYPE_CHECKING:
    from gateway.intake.door import IntakeDoor

log = structlog.get_logger()

POLL_S: Final = 0.05
FAREWELL_S: Final = 1.0  # for close frames and their echoes


async def finish(lane: Lane, *, intake: IntakeDoor | None, push: PushClock | None, patience_s: float) -> None:
    """Let running actions end. Nobody may submit any more, but for `intake`, which is told so here."""
    try:
        async with asyncio.timeout(patience_s):
            if intake is not None:
                await intake.leave()
            await lane.drained()
            if push is not None:
                await push.leave()
    except TimeoutError:
        log.warning("drain_gave_up", waiting=lane.depth)
    await asyncio.sleep(POLL_S)  # acknowledgements leave at the end of the turn


async def send_away(hub: Hub, delivery: Delivery) -> None:
    """Close all connections, each with when to come back, and wait a moment for the clients' side of it."""
    for cursor in list(hub):
        delivery.cut(cursor, "draining")
    deadline = asyncio.get_running_loop().time() + FAREWELL_S
    while len(hub) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(POLL_S)
