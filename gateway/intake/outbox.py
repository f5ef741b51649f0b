"""Answers to commands, on their way from the database to Kafka: at least once."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from fanout.tasks import set_or_late
from gateway.intake.counts import IntakeCounts
from gateway.intake.sender import NotSent, Sender
from gateway.intake.topics import OUTCOMES
from storage import ingress
from storage.pool import Pool, transaction

log = structlog.get_logger()

LOOK_EVERY_S: Final = 5.0  # for what another node has left behind
AT_ONCE: Final = 500


class Outbox:
    """Sends what waits, whichever node has stored it: from `soon` on at once."""

    def __init__(self, *, pool: Pool, sender: Sender, counts: IntakeCounts) -> None:
        self._pool = pool
        self._sender = sender
        self._counts = counts
        self._wake = asyncio.Event()

    def soon(self) -> None:
        """Something may wait."""
        self._wake.set()

    async def run(self) -> None:
        """Serve until something fails: then it is to be begun again, after a pause."""
        try:
            while True:
                self._wake.clear()
                while await self._send_some():
                    pass
                await set_or_late(self._wake, LOOK_EVERY_S)
        finally:
            await self._sender.close()

    async def _send_some(self) -> bool:
        """Whether there may be more."""
        async with transaction(self._pool) as conn:
            ids, outcomes = await ingress.lock_outcomes(conn, AT_ONCE)
            if not ids:
                return False
            try:
                await self._sender.send([(outcome.source.encode(), outcome.body) for outcome in outcomes])
            except NotSent:
                self._counts.failed_sends[OUTCOMES] += len(ids)
                raise
            await ingress.delete_outcomes(conn, ids)
        self._counts.sent[OUTCOMES] += len(ids)
        return len(ids) == AT_ONCE
