"""The inbox: `append` is the only writer of `seq`. Ledger entries are events too, and read with it.

An inbox reaches back to its head's `oldest_seq`. Events below it are deleted (storage/retention.py); entries stay
in the ledger, but are no part of the inbox any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from storage import broadcasts, ledger
from storage.broadcasts import Body
from storage.ledger import Entry
from storage.statement import Write, micros, moment_of

if TYPE_CHECKING:
    from asyncpg import Connection


PAGE_BYTES: Final = 262_144  # of backends' bodies, from which on a page ends: they may be large, all others are small
_MOST_OVERTAKINGS: Final = 5  # a page is read in milliseconds, an inbox trimmed every few seconds


class StoredEvent(NamedTuple):
    """One event of one recipient that is no ledger entry; `data` is JSON text."""

    user_id: int
    seq: int
    id: UUID
    type: str
    event_type: str | None
    data: str
    created_at: datetime


class SharedEvent(NamedTuple):
    """One event of one recipient of many: `body` is what all of them get."""

    user_id: int
    seq: int
    body: Body


class SharedRow(NamedTuple):
    """The same as it is stored: its body is that of `broadcast_id`, and `id` the same for all its recipients and
    nobody else's."""

    user_id: int
    seq: int
    id: UUID
    type: str
    event_type: str | None
    broadcast_id: int


Event = StoredEvent | Entry | SharedEvent

APPEND_EVENTS = f"""
INSERT INTO inbox (user_id, seq, id, type, event_type, data, created_at)
SELECT user_id, seq, id, type, event_type, data::json, {moment_of("created_us")} FROM unnest($1::event_row[])
"""

ADVANCE = """
UPDATE heads h SET seq = new.seq FROM unnest($1::head_row[]) AS new WHERE h.user_id = new.user_id
"""


def append(events: Sequence[StoredEvent], heads: Mapping[int, int]) -> list[Write]:
    """The writes that store the events and move each head to its new `seq`.

    `heads` holds the last `seq` given out for each user, those of ledger entries included; the
    caller holds their locks.
    """
    rows = [(*event[:6], micros(event.created_at)) for event in events]
    writes = [Write(APPEND_EVENTS, (rows,))] if rows else []
    if heads:
        writes.append(Write(ADVANCE, (list(heads.items()),)))
    return writes


APPEND_SHARED = """
INSERT INTO inbox (user_id, seq, id, type, event_type, created_at, broadcast_id)
SELECT user_id, seq, id, type, event_type, (SELECT clock_timestamp()), broadcast_id FROM unnest($1::shared_row[])
"""


def append_shared(rows: Sequence[SharedRow]) -> list[Write]:
    """The writes that store events of many recipients, each one's ascending, and move their heads, whose locks the
    caller holds."""
    if not rows:
        return []
    return [Write(APPEND_SHARED, (rows,)), Write(ADVANCE, (list({row.user_id: row.seq for row in rows}.items()),))]


LIST_EVENTS = """
SELECT user_id, seq, id, type, event_type, data, created_at, broadcast_id FROM inbox
WHERE user_id = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4
"""

LIST_ENTRIES = f"""
SELECT {ledger.COLUMNS} FROM wallet_transactions
WHERE user_id = $1 AND seq > $2 AND seq <= $3 AND seq >= (SELECT oldest_seq FROM heads WHERE user_id = $1)
ORDER BY seq LIMIT $4
"""


async def list_after(conn: Connection, user_id: int, after: int, upto: int, limit: int) -> list[Event]:
    """The user's events with after < seq <= upto, ascending without a gap, at most `limit` and fewer where they are
    large; they begin further up where retention has overtaken `after`.

    The statements may see different heads, so `upto` must be a head that was read before: what is
    committed up to there is seen by all. A gap says that retention came between them.
    """
    page: list[Event] = []
    for _ in range(_MOST_OVERTAKINGS):
        page = await _list_once(conn, user_id, after, upto, limit)
        if not page or page[-1].seq - page[0].seq == len(page) - 1:
            break
    return page


async def _list_once(conn: Connection, user_id: int, after: int, upto: int, limit: int) -> list[Event]:
    rows = await conn.fetch(LIST_EVENTS, user_id, after, upto, limit)
    entries = [Entry(*row) for row in await conn.fetch(LIST_ENTRIES, user_id, after, upto, limit)]
    shared = [row[7] for row in rows if row[7] is not None]
    bodies = await broadcasts.list_bodies(conn, shared, PAGE_BYTES) if shared else {}
    merged: list[Event] = [*entries]
    end = upto
    for row in rows:
        if row[7] is None:
            merged.append(StoredEvent(*row[:7]))
        elif body := bodies.get(row[7]):
            merged.append(SharedEvent(row[0], row[1], body))
        elif row[7] in bodies:
            end = row[1] - 1
            break
    merged.sort(key=_seq_of)
    return [event for event in merged[:limit] if event.seq <= end]


def _seq_of(event: Event) -> int:
    return event.seq


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
