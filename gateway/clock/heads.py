"""The inbox is the truth, whatever hints were lost: how far inboxes are is compared with how far connections are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.clock.rhythm import Chore
from storage import heads
from storage.pool import Pool, session

if TYPE_CHECKING:
    from fanout.delivery import Delivery
    from fanout.hub import Hub
    from fanout.presence import Presence


class HeadClock:
    """Compares heads, and finds devices that have connected elsewhere. Who misses hints sets `compare_now`."""

    def __init__(
        self, *, pool: Pool, delivery: Delivery, hub: Hub, presence: Presence, compare_now: asyncio.Event
    ) -> None:
        self._pool = pool
        self._delivery = delivery
        self._hub = hub
        self._presence = presence
        self._compare_now = compare_now

    async def compare_heads(self, every_s: float) -> None:
        """Serve until cancelled."""
        await Chore("compare", self._compare).when_woken(self._compare_now, every_s)

    async def _compare(self) -> None:
        known = self._delivery.heads_behind()
        if not known:
            return
        async with session(self._pool) as conn:
            ahead = await heads.list_ahead(conn, known)
        for user_id, seq in ahead:
            self._delivery.raise_head(user_id, seq)
        if self._presence.other_nodes():
            for replaced in await self._presence.newer(self._hub.named_devices()):
                self._delivery.replace(*replaced)
