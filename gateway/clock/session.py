"""The database session of a chore that shares none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncpg import Connection

Connect = Callable[[], Awaitable["Connection"]]
"""Opens a lane's session: chores that keep one lock heads with it, and its plans are as old as it is."""


class OwnSession:
    """A session that one chore keeps for itself, for its length in an `async with` at a time: opened where there is
    none, ended by any error in it (whatever it was in the middle of), and by `close`."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._conn: Connection | None = None

    async def __aenter__(self) -> Connection:
        if self._conn is None or self._conn.is_closed():
            self._conn = await self._connect()
        return self._conn

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.close()

    def close(self) -> None:
        """End it, without a word to the database: a frozen one would not answer."""
        if self._conn is not None:
            self._conn.terminate()
