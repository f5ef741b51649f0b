"""Events of backends for users: the body once, and how far its list of recipients was applied."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from storage.statement import Write

if TYPE_CHECKING:
    from asyncpg import Connection


class Body(NamedTuple):
    """What all recipients get: `id` is the backend's own, `event_type` None means notification:<type>, `data` is
    JSON text."""

    id: str
    type: str
    event_type: str | None
    data: str
    timestamp: datetime


class Broadcast(NamedTuple):
    """A body for known recipients, ascending; the first `applied` of them get it in the transaction that stores it."""

    source: str
    body: Body
    recipients: list[int]
    applied: int


INSERT = """
INSERT INTO broadcasts (source, event_id, type, event_type, data, timestamp, recipients, applied, done_at)
SELECT source, event_id, type, event_type, data::json, timestamp, recipients, applied,
    CASE WHEN applied = cardinality(recipients) THEN clock_timestamp() END
FROM unnest($1::broadcast_row[])
RETURNING source, event_id, id
"""


async def insert_broadcasts(conn: Connection, new: Sequence[Broadcast]) -> dict[tuple[str, str], int]:
    """Store bodies; the id of each (source, the backend's own id), which must be different ones."""
    rows = [(each.source, *each.body, each.recipients, each.applied) for each in new]
    return {(row[0], row[1]): row[2] for row in await conn.fetch(INSERT, rows)}


LIST_BODIES = """
SELECT id, event_id, type, event_type, CASE WHEN upto - size < $2 THEN data END, timestamp FROM (
    SELECT b.*, octet_length(b.data::text) AS size, sum(octet_length(b.data::text)) OVER (ORDER BY place) AS upto
    FROM unnest($1::bigint[]) WITH ORDINALITY AS asked(id, place) JOIN broadcasts b USING (id)) sized
"""


async def list_bodies(conn: Connection, ids: Sequence[int], most_bytes: int) -> dict[int, Body | None]:
    """Those that are still there, in the order asked for until their data have `most_bytes`; None for the rest."""
    rows = await conn.fetch(LIST_BODIES, ids, most_bytes)
    return {row[0]: None if row[4] is None else Body(*row[1:]) for row in rows}


class Chunk(NamedTuple):
    """Recipients who are to get a body next; with them `applied` recipients have been gone through."""

    broadcast_id: int
    body: Body
    recipients: list[int]
    applied: int
    is_last: bool


# The oldest that nobody else works at: several nodes take different ones, and a dead node's is free at once.
LOCK_CHUNK = """
SELECT id, event_id, type, event_type, data, timestamp, recipients[applied + 1 : applied + $1],
    least(applied + $1, cardinality(recipients)), applied + $1 >= cardinality(recipients)
FROM broadcasts WHERE done_at IS NULL ORDER BY id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
"""


async def lock_chunk(conn: Connection, size: int) -> Chunk | None:
    """Take up to `size` recipients of a waiting broadcast, whose row stays locked to the end of the transaction; None
    where nothing waits or others are at it."""
    row = await conn.fetchrow(LOCK_CHUNK, size)
    return Chunk(row[0], Body(*row[1:6]), *row[6:]) if row else None


MARK_APPLIED = """
UPDATE broadcasts SET applied = $2, done_at = CASE WHEN $3 THEN clock_timestamp() END WHERE id = $1
"""


def mark_applied(chunk: Chunk) -> Write:
    """The write that says so, in the transaction of the recipients' events."""
    return Write(MARK_APPLIED, (chunk.broadcast_id, chunk.applied, chunk.is_last))


DELETE_OLD = """
DELETE FROM broadcasts b USING retention r
WHERE b.done_at < r.aged_to - interval '1 second' AND r.swept_to IS NULL
    AND NOT EXISTS (SELECT FROM retention_owed)
"""


async def delete_old(conn: Connection) -> None:
    """Remove what was applied so long ago that no inbox refers to it any more: `done_at` is later than all its
    events, but for the moment between two parts of one statement."""
    await conn.execute(DELETE_OLD)
