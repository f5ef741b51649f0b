"""Sessions from a pool, for handlers that ask outside the lane."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from asyncpg import Connection

# Half of what an answer may take. asyncpg allows the release as long again, for a cancelled statement to end.
ACQUIRE_TIMEOUT_S: Final = 2.0


class Pool(Protocol):
    """What is asked of asyncpg.Pool."""

    def acquire(self, *, timeout: float | None = None) -> AbstractAsyncContextManager[Any]:
        """A connection for the length of a `with`; TimeoutError where none is to be had in `timeout` seconds."""
        ...


@asynccontextmanager
async def session(pool: Pool) -> AsyncIterator[Connection]:
    """A connection without a transaction: each statement is one of its own."""
    async with pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as conn:
        yield conn


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Connection]:
    """A connection in a transaction (READ COMMITTED), committed at the end of the `with` unless it raises."""
    async with session(pool) as conn, conn.transaction():
        yield conn
