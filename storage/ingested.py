"""Events of backends that were taken in: (source, id) once, guarded by its unique key."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from storage.statement import columns

if TYPE_CHECKING:
    from asyncpg import Connection

EventKey = tuple[str, str]  # source, id


class Taken(NamedTuple):
    """What an event said when it was taken in, and how many recipients it had."""

    fingerprint: bytes
    accepted: int
    skipped: int


INSERT_EVENTS = """
INSERT INTO ingested_events (source, id, fingerprint, accepted, skipped)
SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::integer[], $5::integer[])
ON CONFLICT (source, id) DO NOTHING RETURNING source, id, created_at
"""


async def insert_events(conn: Connection, events: dict[EventKey, Taken]) -> dict[EventKey, datetime]:
    """Note events and return when, by the database's clock; those that were there before are missing.

    Waits for transactions that are noting the same ones; sorted, so that two batches don't wait for each other.
    """
    rows = [(*key, *events[key]) for key in sorted(events)]
    return {(row[0], row[1]): row[2] for row in await conn.fetch(INSERT_EVENTS, *columns(rows, 5))}


LIST_TAKEN = """
SELECT e.source, e.id, e.fingerprint, e.accepted, e.skipped
FROM unnest($1::text[], $2::text[]) AS asked(source, id)
JOIN ingested_events e ON e.source = asked.source AND e.id = asked.id
"""


async def list_taken(conn: Connection, keys: Collection[EventKey]) -> dict[EventKey, Taken]:
    """Those of the events that were taken in; ask in a statement after `insert_events`, which can't see them."""
    rows: Sequence[EventKey] = list(keys)
    return {(row[0], row[1]): Taken(*row[2:]) for row in await conn.fetch(LIST_TAKEN, *columns(rows, 2))}
