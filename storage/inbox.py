"""The inbox: `append` is the only writer of `seq`. Ledger entries are events too, and read with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from storage import ledger
from storage.ledger import Entry
from storage.statement import Write, columns

if TYPE_CHECKING:
    from asyncpg import Connection


class StoredEvent(NamedTuple):
    """One event of one recipient that is no ledger entry; `data` is JSON text."""

    user_id: int
    seq: int
    id: UUID
    type: str
    event_type: str | None
    data: str
    created_at: datetime


APPEND_EVENTS = """
INSERT INTO inbox (user_id, seq, id, type, event_type, data, created_at)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::uuid[], $4::text[], $5::text[], $6::json[], $7::timestamptz[])
"""

ADVANCE = """
UPDATE heads h SET seq = new.seq FROM unnest($1::bigint[], $2::bigint[]) AS new(user_id, seq)
WHERE h.user_id = new.user_id
"""


def append(events: Sequence[StoredEvent], heads: Mapping[int, int]) -> list[Write]:
    """The writes that store the events and move each head to its new `seq`.

    `heads` holds the last `seq` given out for each user, those of ledger entries included; the
    caller holds their locks.
    """
    writes = [Write(APPEND_EVENTS, columns(events, 7))] if events else []
    if heads:
        writes.append(Write(ADVANCE, (list(heads), list(heads.values()))))
    return writes


LIST_EVENTS = """
SELECT user_id, seq, id, type, event_type, data, created_at FROM inbox
WHERE user_id = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4
"""

LIST_ENTRIES = f"""
SELECT {ledger.COLUMNS} FROM wallet_transactions
WHERE user_id = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4
"""


async def list_after(conn: Connection, user_id: int, after: int, upto: int, limit: int) -> list[StoredEvent | Entry]:
    """The user's events with after < seq <= upto, ascending, at most `limit`.

    Two statements may see different heads, so `upto` must be a head that was read before: what is
    committed up to there is seen by both.
    """
    events = [StoredEvent(*row) for row in await conn.fetch(LIST_EVENTS, user_id, after, upto, limit)]
    entries = [Entry(*row) for row in await conn.fetch(LIST_ENTRIES, user_id, after, upto, limit)]
    merged: list[StoredEvent | Entry] = [*events, *entries]
    merged.sort(key=lambda event: event.seq)
    return merged[:limit]


MARK_ACKED = """
INSERT INTO devices AS d (user_id, device_id, acked)
SELECT $1, $2, least($3, h.seq) FROM heads h WHERE h.user_id = $1
ON CONFLICT (user_id, device_id) DO UPDATE SET acked = greatest(d.acked, excluded.acked)
RETURNING acked
"""


async def mark_acked(conn: Connection, user_id: int, device_id: str, seq: int) -> int:
    """Record that everything up to `seq` has arrived on the device, never above the head and never
    back; returns where it stands now."""
    return int(await conn.fetchval(MARK_ACKED, user_id, device_id, seq))


LIST_DEVICES = "SELECT device_id, acked FROM devices WHERE user_id = $1 ORDER BY device_id"


async def list_devices(conn: Connection, user_id: int) -> list[tuple[str, int]]:
    """(device id, confirmed seq) of each device that ever confirmed."""
    return [(row[0], row[1]) for row in await conn.fetch(LIST_DEVICES, user_id)]
