"""The inbox: `append` is the only writer of `seq`. Ledger entries are events too, and read with it.

An inbox reaches back to its head's `oldest_seq`. Events below it are deleted (storage/retention.py); entries stay
in the ledger, but are no part of the inbox any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from storage import broadcasts, ledger, push_due
from storage.broadcasts import Body
from storage.ledger import Entry
from storage.statement import Write, columns, micros, moment_of

if TYPE_CHECKING:
    from asyncpg import Connection


# Of backends' bodies, from which on a page ends, or all pages of a statement: they may be large, all others are small.
PAGE_BYTES: Final = 262_144
PAGES_BYTES: Final = 1_048_576
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
    """One event of one recipient of some: `body` is what all of them get."""

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


class CopiedRow(NamedTuple):
    """The same as it is stored with a copy of its body: `event_id` is the backend's own, `sent_us` the body's moment in
    microseconds since 1970."""

    user_id: int
    seq: int
    id: UUID
    type: str
    event_type: str | None
    data: str
    event_id: str
    sent_us: int


Event = StoredEvent | Entry | SharedEvent

APPEND_EVENTS = f"""
INSERT INTO inbox (user_id, seq, id, type, event_type, data, created_at)
SELECT user_id, seq, id, type, event_type, data::json, {moment_of("created_us")} FROM unnest($1::event_row[])
"""

ADVANCE = """
UPDATE heads h SET seq = new.seq FROM unnest($1::bigint[], $2::bigint[]) AS new(user_id, seq)
WHERE h.user_id = new.user_id
"""


def append(events: Sequence[StoredEvent], heads: Mapping[int, int]) -> list[Write]:
    """The writes that store the events, move each head to its new `seq`, and have those looked at who may be pushed.

    `heads` holds the last `seq` given out for each user, those of ledger entries included; the
    caller holds their locks.
    """
    rows = [(*event[:6], micros(event.created_at)) for event in events]
    writes = [Write(APPEND_EVENTS, (rows,))] if rows else []
    writes += push_due.enter({event.user_id for event in events if push_due.is_pushable(event.event_type)})
    if heads:
        writes.append(Write(ADVANCE, (list(heads), list(heads.values()))))
    return writes


APPEND_SHARED = """
INSERT INTO inbox (user_id, seq, id, type, event_type, created_at, broadcast_id)
SELECT user_id, seq, id, type, event_type, (SELECT clock_timestamp()), broadcast_id FROM unnest($1::shared_row[])
"""


APPEND_COPIED = f"""
INSERT INTO inbox (user_id, seq, id, type, event_type, data, created_at, event_id, sent_at)
SELECT user_id, seq, id, type, event_type, data::json, (SELECT clock_timestamp()), event_id, {moment_of("sent_us")}
FROM unnest($1::copied_row[])
"""


def append_shared(shared: Sequence[SharedRow], copied: Sequence[CopiedRow], heads: Mapping[int, int]) -> list[Write]:
    """The writes that store events of backends and move each head to its new `seq`; the caller holds their locks."""
    writes = [Write(APPEND_SHARED, (shared,))] if shared else []
    if copied:
        writes.append(Write(APPEND_COPIED, (copied,)))
    pushable = {row.user_id for row in shared if push_due.is_pushable(row.event_type)}
    pushable.update(row.user_id for row in copied if push_due.is_pushable(row.event_type))
    writes += push_due.enter(pushable)
    if heads:
        writes.append(Write(ADVANCE, (list(heads), list(heads.values()))))
    return writes


# Of a body that many share, nothing but where it is: the rest would cost the driver more than the row.
LIST_EVENTS = """
SELECT asked.place, e.* FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])
    WITH ORDINALITY AS asked(user_id, after, upto, place)
CROSS JOIN LATERAL (
    SELECT i.seq, i.broadcast_id, i.event_id, CASE WHEN i.broadcast_id IS NULL THEN i.type END,
        CASE WHEN i.broadcast_id IS NULL THEN i.event_type END, i.data,
        CASE WHEN i.broadcast_id IS NULL THEN coalesce(i.sent_at, i.created_at) END,
        CASE WHEN i.broadcast_id IS NULL AND i.event_id IS NULL THEN i.id END
    FROM inbox i WHERE i.user_id = asked.user_id AND i.seq > asked.after AND i.seq <= asked.upto
    ORDER BY i.seq LIMIT $4) e
"""

LIST_ENTRIES = f"""
SELECT asked.place, e.* FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])
    WITH ORDINALITY AS asked(user_id, after, upto, place)
JOIN heads h ON h.user_id = asked.user_id
CROSS JOIN LATERAL (
    SELECT {ledger.COLUMNS} FROM wallet_transactions t
    WHERE t.user_id = asked.user_id AND t.seq > asked.after AND t.seq <= asked.upto AND t.seq >= h.oldest_seq
    ORDER BY t.seq LIMIT $4) e
"""


async def list_after(conn: Connection, user_id: int, after: int, upto: int, limit: int) -> list[Event]:
    """One page by itself, as `list_pages` has it."""
    return (await list_pages(conn, [(user_id, after, upto)], limit))[0] or []


async def list_pages(conn: Connection, asked: Sequence[tuple[int, int, int]], limit: int) -> list[list[Event] | None]:
    """Of each (user id, after, upto) that is asked for a page of its events with after < seq <= upto: ascending without
    a gap, at most `limit` and fewer where they are large; it begins further up where retention has overtaken `after`.
    None where all of them together are too large, never of the first.

    The statements may see different heads, so `upto` must be a head that was read before: what is
    committed up to there is seen by all. A gap says that retention came between them.
    """
    pages = await _list_once(conn, asked, limit)
    for _ in range(_MOST_OVERTAKINGS - 1):
        torn = [place for place, page in enumerate(pages) if page and page[-1].seq - page[0].seq != len(page) - 1]
        if not torn:
            break
        for place, page in zip(torn, await _list_once(conn, [asked[place] for place in torn], limit), strict=True):
            pages[place] = page
    return pages


async def _list_once(conn: Connection, asked: Sequence[tuple[int, int, int]], limit: int) -> list[list[Event] | None]:
    which = columns(asked, 3)
    events: list[list[Any]] = [[] for _ in asked]
    for row in await conn.fetch(LIST_EVENTS, *which, limit):
        events[row[0] - 1].append(row)
    entries: list[list[Event]] = [[] for _ in asked]
    for place, *entry in await conn.fetch(LIST_ENTRIES, *which, limit):
        entries[place - 1].append(Entry(*entry))
    shared = {row[2]: None for rows in events for row in rows if row[2] is not None}
    room = min(PAGE_BYTES * len(asked), PAGES_BYTES)
    bodies = await broadcasts.list_bodies(conn, list(shared), room) if shared else {}
    pages: list[list[Event] | None] = []
    for (user_id, _, _), rows, merged in zip(asked, events, entries, strict=True):
        size, end = _add_events(merged, user_id, rows, bodies)
        merged.sort(key=_seq_of)
        page = [event for event in merged[:limit] if end is None or event.seq <= end]
        pages.append(page if room > 0 and (page or end is None) else None)
        room -= size
    return pages


def _add_events(
    page: list[Event], user_id: int, rows: Sequence[Any], bodies: Mapping[int, Body | None]
) -> tuple[int, int | None]:
    """Adds the rows of LIST_EVENTS as far as there is room for their bodies. Returns how much they take, and the last
    `seq` where there is no room for all."""
    size = 0
    for _, seq, broadcast_id, event_id, type_, event_type, data, moment, id_ in rows:
        if event_id is not None:
            page.append(SharedEvent(user_id, seq, Body(event_id, type_, event_type, data, moment)))
        elif broadcast_id is None:
            page.append(StoredEvent(user_id, seq, id_, type_, event_type, data, moment))
        elif broadcast_id in bodies:
            body = bodies[broadcast_id]
            if body is None or size >= PAGE_BYTES:
                return size, seq - 1
            size += len(body.data)
            page.append(SharedEvent(user_id, seq, body))
    return size, None


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
