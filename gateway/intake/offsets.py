"""How far partitions are, as PostgreSQL has it: asked until it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Final, TypeVar

from fanout.tasks import Backoff
from storage import ingress
from storage.db import is_connection_lost
from storage.ingress import Overtaken, Partition, Step
from storage.pool import Pool, session

if TYPE_CHECKING:
    from asyncpg import Connection

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0

T = TypeVar("T")


class Offsets:
    """Reads and moves them outside of batches."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def fetch(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """The next offset of those that were begun with."""
        return await self._patiently(lambda conn: ingress.list_offsets(conn, partitions))

    async def begin(self, offsets: Mapping[Partition, int]) -> dict[Partition, int]:
        """Begin with partitions there, unless somebody has begun with them already; where they stand."""
        await self._patiently(lambda conn: ingress.begin(conn, offsets))
        return await self.fetch(offsets)

    async def pass_over(self, step: Step) -> bool:
        """Move a partition over what came to nothing; False where it does not stand where it should."""
        try:
            await self._patiently(lambda conn: ingress.advance(conn, [step]))
        except Overtaken:
            return False
        return True

    async def _patiently(self, ask: Callable[[Connection], Awaitable[T]]) -> T:
        backoff = Backoff(first=FIRST_PAUSE_S, most=LONGEST_PAUSE_S)
        while True:
            try:
                async with session(self._pool) as conn:
                    return await ask(conn)
            except Exception as error:
                if not is_connection_lost(error):
                    raise
            await asyncio.sleep(backoff.next())
