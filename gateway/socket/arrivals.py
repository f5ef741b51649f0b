"""Connects in batches: who they are, where their inboxes stand and which generation they get, in three
statements for all that arrived meanwhile. A storm of reconnects costs the database as little as a few."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from fanout.presence import Presence
from gateway.socket.session import Session
from storage import arrivals, users
from storage.arrivals import Arrival
from storage.pool import Pool, session

if TYPE_CHECKING:
    from gateway.auth import Claims

log = structlog.get_logger()

MOST_AT_ONCE: Final = 500


class Arriving(NamedTuple):
    """A connection whose token was verified."""

    session: Session
    claims: Claims
    last_seq: int | None
    epoch: str | None


class Arrivals:
    """Looks up arriving users. `welcome` gets each one with what was found (None: unknown, and none may be
    created), `turn_away` those who came while the database was away."""

    def __init__(
        self,
        *,
        pool: Pool,
        presence: Presence,
        create_unknown: bool,
        welcome: Callable[[Arriving, Arrival | None], None],
        turn_away: Callable[[Arriving], None],
    ) -> None:
        self._pool = pool
        self._presence = presence
        self._create_unknown = create_unknown
        self._welcome = welcome
        self._turn_away = turn_away
        self._queue: list[Arriving] = []
        self._wake = asyncio.Event()

    def add(self, arriving: Arriving) -> None:
        """Queue one; it is answered by `welcome` or `turn_away`."""
        self._queue.append(arriving)
        self._wake.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            await self._wake.wait()
            batch, self._queue = self._queue[:MOST_AT_ONCE], self._queue[MOST_AT_ONCE:]
            if not self._queue:
                self._wake.clear()
            await self._serve(batch)

    async def _serve(self, batch: Sequence[Arriving]) -> None:
        try:
            async with asyncio.timeout(4.0):
                found = await self._look_up(batch)
        except Exception as error:
            log.warning("arrivals_without_database", error=type(error).__name__, count=len(batch))
            for arriving in batch:
                self._turn_away(arriving)
            return
        for arriving in batch:
            self._welcome(arriving, found.get(arriving.session.user_id))

    async def _look_up(self, batch: Sequence[Arriving]) -> dict[int, Arrival]:
        generations = await self._presence.enter(
            [(arriving.session.user_id, arriving.session.device_id or "") for arriving in batch]
        )
        for arriving, generation in zip(batch, generations, strict=True):
            arriving.session.generation = generation
        async with session(self._pool) as conn:
            ids = list({arriving.session.user_id for arriving in batch})
            found = await arrivals.list_arrivals(conn, ids)
            new = {
                arriving.session.user_id: arriving.claims.username
                for arriving in batch
                if arriving.session.user_id not in found and not arriving.claims.caller.is_backend
            }
            if new and self._create_unknown:
                await users.insert_unknown_users(conn, list(new), list(new.values()))
                found |= await arrivals.list_arrivals(conn, list(new))
        return found


class Departures:
    """Tells presence of ended connections, gathered: a storm of them is a few statements."""

    def __init__(self, *, presence: Presence) -> None:
        self._presence = presence
        self._queue: list[tuple[int, int]] = []
        self._wake = asyncio.Event()

    def add(self, user_id: int, generation: int) -> None:
        """A connection (user, generation) has ended."""
        self._queue.append((user_id, generation))
        self._wake.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            gone, self._queue = self._queue, []
            await self._presence.leave(gone)
