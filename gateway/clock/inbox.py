"""What fills inboxes after a backend's request was answered, and what keeps them short."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from gateway.clock.rhythm import Chore
from handlers.deed import Delivered
from handlers.events.applier import Applier
from handlers.inbox.retention import Retention
from storage.pool import Pool, session

APPLY_EVERY_S: Final = 1.0


class InboxClock:
    """Brings backends' events to long lists of recipients, and keeps inboxes short. Who leaves work to the applier
    sets `apply_now`; what another node has left when it died is found by looking."""

    def __init__(
        self,
        *,
        pool: Pool,
        applier: Applier,
        retention: Retention,
        deliver: Callable[[Sequence[Delivered]], None],
        apply_now: asyncio.Event,
    ) -> None:
        self._pool = pool
        self._applier = applier
        self._retention = retention
        self._deliver = deliver
        self._apply_now = apply_now

    async def apply_broadcasts(self) -> None:
        """Serve until cancelled: what waits for thousands of recipients."""
        await Chore("broadcasts", self._apply).when_woken(self._apply_now, APPLY_EVERY_S)

    async def trim_inboxes(self, every_s: float) -> None:
        """Serve until cancelled: what retention does not keep."""
        await Chore("retention", self._trim).for_ever(every_s)

    async def _apply(self) -> None:
        told: Sequence[Delivered] | None = []
        while told is not None:
            async with session(self._pool) as conn:  # given back after each chunk: others wait for one, too
                told = await self._applier.apply(conn)
            self._deliver(told or [])

    async def _trim(self) -> None:
        async with session(self._pool) as conn:
            await self._retention.run(conn)
