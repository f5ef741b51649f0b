"""A node's database sessions, and how many there may be."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final

import asyncpg

from fanout.pages import READERS
from gateway.history import History
from storage.db import BY_INDEX, NO_SETTINGS, connect_lane, create_pool

# Who keeps a session of its own, from `Sessions.lane`.
KEEPERS: Final = ("lane", "creators", "groups", "push", "egress")
# What a node has in the embedded database beside its pool: these, each of which may be there twice, since PostgreSQL
# notices only at the end of a statement that its client has gone; and pages'. Its broker has none there: where that
# talks through PostgreSQL, the database is not embedded.
BESIDE_THE_POOL: Final = 2 * len(KEEPERS) + READERS

CLOSE_S: Final = 1.0


class Sessions:
    """Opens them. `history` looks at each one before anybody uses it."""

    def __init__(self, dsn: str, history: History) -> None:
        self._dsn = dsn
        self._history = history

    async def pool(self, stack: AsyncExitStack, size: int) -> asyncpg.Pool:
        """For everybody but pages and those who keep one, until the stack is left."""
        return await self._pool(stack, size, NO_SETTINGS)

    async def pages_pool(self, stack: AsyncExitStack) -> asyncpg.Pool:
        """For pages alone: a storm of resumes takes none from whoever connects, and none of them waits for somebody's
        slow request."""
        return await self._pool(stack, READERS, BY_INDEX)

    async def lane(self) -> asyncpg.Connection:
        """For one of the keepers: a lane's session, which waits for nobody's locks for long."""
        conn = await connect_lane(self._dsn)
        try:
            await self._history.look(conn)
        except BaseException:
            conn.terminate()
            raise
        return conn

    async def _pool(self, stack: AsyncExitStack, size: int, settings: Mapping[str, str]) -> asyncpg.Pool:
        pool = await create_pool(self._dsn, size=size, on_connect=self._history.look, settings=settings)
        stack.push_async_callback(_close, pool)
        return pool


async def _close(pool: asyncpg.Pool) -> None:
    """Wait a moment for what is running; a database that does not answer must not hold the exit up."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await pool.close()
    except TimeoutError:
        pool.terminate()
