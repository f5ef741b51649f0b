"""Events of backends that were taken in: (source, id) once, guarded by its unique key."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from storage.statement import Write

if TYPE_CHECKING:
    from asyncpg import Connection


class Taken(NamedTuple):
    """What an event said when it was taken in, and how many recipients it had."""

    fingerprint: bytes
    accepted: int
    skipped: int


INSERT_EVENT = """
INSERT INTO ingested_events (source, id, fingerprint) VALUES ($1, $2, $3)
ON CONFLICT (source, id) DO NOTHING RETURNING created_at
"""


async def insert_event(conn: Connection, source: str, event_id: str, fingerprint: bytes) -> datetime | None:
    """Note an event and return when, by the database's clock; None where (source, id) was there before.

    Waits for a transaction that is noting the same one.
    """
    taken_at: datetime | None = await conn.fetchval(INSERT_EVENT, source, event_id, fingerprint)
    return taken_at


FETCH_TAKEN = "SELECT fingerprint, accepted, skipped FROM ingested_events WHERE source = $1 AND id = $2"


async def fetch_taken(conn: Connection, source: str, event_id: str) -> Taken | None:
    """An event that was taken in; ask in a statement after `insert_event`, which can't see it."""
    row = await conn.fetchrow(FETCH_TAKEN, source, event_id)
    return Taken(*row) if row else None


MARK_COUNTS = "UPDATE ingested_events SET accepted = $3, skipped = $4 WHERE source = $1 AND id = $2"


def mark_counts(source: str, event_id: str, accepted: int, skipped: int) -> Write:
    """The write that keeps how many recipients it had, in the transaction that took it in."""
    return Write(MARK_COUNTS, (source, event_id, accepted, skipped))
