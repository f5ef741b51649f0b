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


# One row says that all are new, as they nearly always are: the driver takes longer over each row than the database.
INSERT_EVENTS = """
WITH new AS (
    INSERT INTO ingested_events (source, id, fingerprint, accepted, skipped, created_at)
    SELECT source, id, fingerprint, accepted, skipped, (SELECT clock_timestamp()) FROM unnest($1::ingested_row[])
    ON CONFLICT (source, id) DO NOTHING RETURNING source, id, created_at
)
SELECT coalesce(max(created_at), clock_timestamp()), count(*),
    CASE WHEN count(*) < $2 THEN array_agg(source) END, CASE WHEN count(*) < $2 THEN array_agg(id) END
FROM new
"""


async def insert_events(conn: Connection, events: dict[EventKey, Taken]) -> tuple[datetime, set[EventKey] | None]:
    """Note events: (when, by the database's clock, those that were not there before; None: all).

    Waits for transactions that are noting the same ones; sorted, so that two batches don't wait for each other.
    """
    rows = [(*key, *taken) for key, taken in sorted(events.items())]
    row = await conn.fetchrow(INSERT_EVENTS, rows, len(rows))
    assert row is not None
    at, count, sources, ids = row
    return at, None if count == len(rows) else set(zip(sources or (), ids or (), strict=True))


LIST_TAKEN = """
SELECT e.source, e.id, e.fingerprint, e.accepted, e.skipped
FROM unnest($1::text[], $2::text[]) AS asked(source, id)
JOIN ingested_events e ON e.source = asked.source AND e.id = asked.id
"""


async def list_taken(conn: Connection, keys: Collection[EventKey]) -> dict[EventKey, Taken]:
    """Those of the events that were taken in; ask in a statement after `insert_events`, which can't see them."""
    rows: Sequence[EventKey] = list(keys)
    return {(row[0], row[1]): Taken(*row[2:]) for row in await conn.fetch(LIST_TAKEN, *columns(rows, 2))}
