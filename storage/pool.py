"""Sessions from a pool, for handlers that ask outside the lane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from asyncpg import Connection

# Half of what an answer may take.
ACQUIRE_TIMEOUT_S: Final = 2.0
_GIVEN_UP: Final = (asyncio.CancelledError, TimeoutError)


class Pool(Protocol):
    """What is asked of asyncpg.Pool."""

    def acquire(self, *, timeout: float | None = None) -> AbstractAsyncContextManager[Any]:
        """A connection for the length of a `with`; TimeoutError where none is to be had in `timeout` seconds."""
        ...


@asynccontextmanager
async def session(pool: Pool) -> AsyncIterator[Connection]:
    """A connection without a transaction: each statement is one of its own.

    Who gives up inside is free at once. asyncpg would first ask the database to cancel the statement, and wait
    for a word from it: exactly what a frozen one does not give. So the connection ends.
    """
    async with pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as conn:
        try:
            yield conn
        except _GIVEN_UP:
            conn.terminate()
            raise


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Connection]:
    """A connection in a transaction (READ COMMITTED), committed at the end of the `with` unless it raises."""
    async with session(pool) as conn:
        await conn.execute("BEGIN")
        try:
            yield conn
        except _GIVEN_UP:
            raise  # the transaction ends with its connection
        except BaseException:
            await conn.execute("ROLLBACK")
            raise
        await conn.execute("COMMIT")
