"""Door 4: what is due. Each chore runs by the clock on whichever node gets to it; all of them may be repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

import structlog

from handlers.deed import Delivered
from handlers.engagement.settler import Settler
from storage import heads, requests
from storage.db import is_connection_lost, is_lock_timeout, is_retryable
from storage.pool import Pool, session

if TYPE_CHECKING:
    from fanout.delivery import Delivery
    from fanout.hub import Hub
    from fanout.presence import Presence

log = structlog.get_logger()

SETTLE_EVERY_S: Final = 0.1
PARTITIONS_EVERY_S: Final = 3600.0


class Clock:
    """Settles accruals, compares heads, keeps partitions. Who misses hints sets `compare_now`."""

    def __init__(
        self,
        *,
        pool: Pool,
        settler: Settler,
        delivery: Delivery,
        hub: Hub,
        presence: Presence,
        deliver: Callable[[Sequence[Delivered]], None],
        compare_now: asyncio.Event,
    ) -> None:
        self._pool = pool
        self._settler = settler
        self._delivery = delivery
        self._hub = hub
        self._presence = presence
        self._deliver = deliver
        self._compare_now = compare_now

    async def settle(self) -> None:
        """Serve until cancelled: whatever waits for creators, at most once a second each."""
        await _for_ever("settle", SETTLE_EVERY_S, self._settle)

    async def keep_partitions(self) -> None:
        """Serve until cancelled: partitions ahead of time, expired ones away."""
        await _for_ever("partitions", PARTITIONS_EVERY_S, self._keep_partitions)

    async def compare_heads(self, every_s: float) -> None:
        """Serve until cancelled: the inbox is the truth, whatever hints were lost."""

        async def pause() -> None:
            try:
                async with asyncio.timeout(every_s):
                    await self._compare_now.wait()
            except TimeoutError:
                pass
            self._compare_now.clear()

        went_well = True
        while True:
            await pause()
            went_well = await _attempt("compare", self._compare, went_well)

    async def _settle(self) -> None:
        async with session(self._pool) as conn:
            self._deliver(await self._settler.settle(conn))

    async def _keep_partitions(self) -> None:
        async with session(self._pool) as conn:
            await requests.maintain_partitions(conn)

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


async def _for_ever(name: str, every_s: float, chore: Callable[[], Awaitable[None]]) -> None:
    went_well = True
    while True:
        await asyncio.sleep(every_s)
        went_well = await _attempt(name, chore, went_well)


async def _attempt(name: str, chore: Callable[[], Awaitable[None]], went_well: bool) -> bool:
    """A chore that the database is not there for, or that met another node's, is tried again next time.

    Takes whether it went well the last time, and returns whether it did now: only the first failure is logged.
    """
    try:
        await chore()
    except Exception as error:
        if not (is_connection_lost(error) or is_retryable(error) or is_lock_timeout(error)):
            raise
        if went_well:
            log.warning("chore_postponed", chore=name, error=type(error).__name__)
        return False
    return True
