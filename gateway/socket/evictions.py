"""Ends open sockets of revoked tokens and suspended users, on every node, within about a second (spec 1).

The database is the truth, and each node asks it. A connection is in the hub before its token is checked against the
database, so whatever commits after that check finds it there: no socket slips in between.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

import structlog

from fanout.tasks import set_or_late
from handlers.access.rules import is_revoked
from storage import revocations
from storage.db import is_connection_lost, is_retryable
from storage.pool import Pool, session

if TYPE_CHECKING:
    from fanout.cursor import Cursor
    from fanout.delivery import Delivery
    from fanout.hub import Hub
    from gateway.socket.session import Session
    from storage.revocations import News

log = structlog.get_logger()

LOOK_EVERY_S: Final = 1.0
LOOK_S: Final = 3.0  # a look that takes longer is begun anew
TRIM_EVERY_S: Final = 3600.0


class Evictions:
    """Asks what is new and cuts the connections that it concerns. `applied` counts the looks that found something."""

    def __init__(self, *, pool: Pool, hub: Hub, delivery: Delivery) -> None:
        self._pool = pool
        self._hub = hub
        self._delivery = delivery
        self._horizon = ""
        self._now = asyncio.Event()
        self._trimmed_at = -TRIM_EVERY_S
        self.applied = 0

    async def start(self) -> None:
        """To be called before the first connection is let in: what commits from here on is seen."""
        async with session(self._pool) as conn:
            self._horizon = await revocations.fetch_horizon(conn)

    def look_soon(self) -> None:
        """Something is new, so don't wait for the next look."""
        self._now.set()

    async def run(self) -> None:
        """Serve until cancelled. Looks that fail are made up for by the next good one, however late."""
        went_well = True
        while True:
            await set_or_late(self._now, LOOK_EVERY_S)
            self._now.clear()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._look()
                went_well = True
            except Exception as error:
                if not (is_connection_lost(error) or is_retryable(error)):
                    raise
                if went_well:
                    log.warning("revocations_unknown", error=type(error).__name__)
                went_well = False

    async def _look(self) -> None:
        async with session(self._pool) as conn:
            news = await revocations.fetch_news(conn, self._horizon)
            self._apply(news)
            self._horizon = news.horizon
            now = asyncio.get_running_loop().time()
            if now >= self._trimmed_at + TRIM_EVERY_S:
                self._trimmed_at = now
                await revocations.trim(conn)

    def _apply(self, news: News) -> None:
        if not (news.users or news.jtis or news.suspended):
            return
        self.applied += 1
        for user_id, up_to in news.users:
            for cursor in self._hub.cursors_of(user_id):
                if is_revoked(_session(cursor).issued_at, up_to):
                    self._delivery.cut(cursor, "revoked")
        if news.jtis:
            revoked = {hash(jti) for jti in news.jtis}
            for cursor in [each for each in self._hub if _session(each).token_hash in revoked]:
                self._delivery.cut(cursor, "revoked")
        for user_id in news.suspended:
            self._delivery.cut_user(user_id, "user_suspended")


def _session(cursor: Cursor) -> Session:
    """Whom a cursor writes to: in this process a socket's session."""
    return cast("Session", cursor.sink)
