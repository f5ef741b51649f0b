"""How far the topic is behind the ledger: every node looks, so that somebody says so where nobody publishes."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from gateway.egress.counts import EgressCounts
from storage import egress
from storage.pool import Pool, session

log = structlog.get_logger()

LOOK_EVERY_S: Final = 5.0
ALARM_S: Final = 60.0


class EgressWatch:
    """`run` is a service that is begun again when it fails."""

    def __init__(self, *, pool: Pool, topic: str, counts: EgressCounts) -> None:
        self._pool = pool
        self._topic = topic
        self._counts = counts
        self._is_behind = False

    async def run(self) -> None:
        """Look now and then."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Once. Tells of an entry that waits for too long, and of the end of that."""
        async with session(self._pool) as conn:
            lag = await egress.fetch_lag(conn, self._topic)
        if lag is None:
            return
        self._counts.lag = lag
        if (lag.oldest_s > ALARM_S) is not self._is_behind:
            self._is_behind = not self._is_behind
            if not self._is_behind:
                log.info("egress_caught_up", topic=self._topic)
                return
            log.warning(
                "egress_behind",
                topic=self._topic,
                oldest_s=round(lag.oldest_s),
                entries=lag.entries,
                oldest_transaction_s=round(lag.transaction_s),
            )
