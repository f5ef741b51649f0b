"""Events of backends that were taken in: (source, id) once, guarded by its unique key."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncpg import Connection

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


FETCH_FINGERPRINT = "SELECT fingerprint FROM ingested_events WHERE source = $1 AND id = $2"


async def fetch_fingerprint(conn: Connection, source: str, event_id: str) -> bytes | None:
    """What an event said when it was taken in; ask in a statement after `insert_event`, which can't see it."""
    fingerprint: bytes | None = await conn.fetchval(FETCH_FINGERPRINT, source, event_id)
    return fingerprint
