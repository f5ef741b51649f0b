"""Connects in batches: who they are, where their inboxes stand, which generation they get and whether their tokens
still hold, in a few statements for all that arrived meanwhile. A storm of reconnects costs the database as little as
a few."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from fanout.presence import Presence
from gateway.socket.session import Session
from handlers.access.identities import Identities, identity_of
from handlers.access.rules import is_revoked
from storage import arrivals, revocations, users
from storage.arrivals import Arrival
from storage.pool import Pool, session

if TYPE_CHECKING:
    from handlers.caller import Claims

log = structlog.get_logger()

MOST_AT_ONCE: Final = 500


class Arriving(NamedTuple):
    """A connection whose token was verified. Its session has a seat unless it is of an identity not known here."""

    session: Session
    claims: Claims
    last_seq: int | None
    epoch: str | None


class Arrivals:
    """Looks up arriving users. `seat` gets those of identities with their user (None: unknown), and gives them a cursor
    unless they can't go on; `welcome` each one with what was found (None: revoked, or unknown, and none may be
    created); `turn_away` those who came while the database was away."""

    def __init__(
        self,
        *,
        pool: Pool,
        presence: Presence,
        identities: Identities,
        create_unknown: bool,
        has_company: Callable[[], bool],
        seat: Callable[[Arriving, int | None], None],
        welcome: Callable[[Arriving, Arrival | None], None],
        turn_away: Callable[[Arriving], None],
    ) -> None:
        self._pool = pool
        self._presence = presence
        self._identities = identities
        self._create_unknown = create_unknown
        self._has_company = has_company
        self._seat = seat
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
                batch = await self._identify(batch)
                found = await self._look_up(batch)
        except Exception as error:
            log.warning("arrivals_without_database", error=type(error).__name__, count=len(batch))
            for arriving in batch:
                self._turn_away(arriving)
            return
        for arriving, arrival in zip(batch, found, strict=True):
            self._welcome(arriving, arrival)

    async def _identify(self, batch: Sequence[Arriving]) -> Sequence[Arriving]:
        """Those who go on: everybody with a user, and a seat in the hub before their token is checked."""
        unknown = [arriving for arriving in batch if arriving.session.cursor is None]
        if not unknown:
            return batch
        users_of = await self._identities.resolve([arriving.claims for arriving in unknown])
        for arriving in unknown:
            identity = identity_of(arriving.claims)
            assert identity is not None, "others have their user from the token itself"
            self._seat(arriving, users_of.get(identity))
        return [arriving for arriving in batch if arriving.session.cursor is not None]

    async def _look_up(self, batch: Sequence[Arriving]) -> list[Arrival | None]:
        generations = await self._presence.enter(
            [(arriving.session.user_id, arriving.session.device_id or "") for arriving in batch]
        )
        for arriving, generation in zip(batch, generations, strict=True):
            arriving.session.generation = generation
        if self._has_company():  # presence alone would learn of a node seconds after its first connections
            here = [(each.session.user_id, each.session.device_id or "", each.session.generation) for each in batch]
            for arriving, elsewhere in zip(batch, await self._presence.elsewhere(here), strict=True):
                arriving.session.elsewhere = elsewhere
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
            jtis = [arriving.claims.jti for arriving in batch if arriving.claims.jti is not None]
            revoked = await revocations.list_revoked_tokens(conn, jtis) if jtis else set()
        return [_unless_revoked(arriving.claims, found.get(arriving.session.user_id), revoked) for arriving in batch]


def _unless_revoked(claims: Claims, found: Arrival | None, revoked_jtis: set[str]) -> Arrival | None:
    if found is None or claims.jti in revoked_jtis or is_revoked(claims.issued_at, found.revoked_up_to):
        return None
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
