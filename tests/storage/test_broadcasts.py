"""Broadcasts: one body for many, chunks that are each taken once, and what a page reads of them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import uuid4

import asyncpg
import pytest

from storage import broadcasts, db, heads, inbox, ingested, notifications
from storage.broadcasts import Body
from storage.inbox import SharedEvent, StoredEvent
from storage.ingested import Taken
from storage.notifications import Seen
from storage.statement import write_together
from storage.users import insert_unknown_users
from tests.support.shared import copy, insert_body, refer

NOW: Final = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
BODY: Final = Body("e1", "news", None, '{"count": 1.10, "b":  "\\u00e9\U0001f642",\n "a": [] }', NOW)


@pytest.fixture(autouse=True)
async def _users(conn: asyncpg.Connection) -> None:
    await insert_unknown_users(conn, range(1, 8), [None] * 7)


async def test_a_body_comes_back_as_it_was_first_sent(conn: asyncpg.Connection) -> None:
    first = await insert_body(conn, BODY, [1])
    other = await insert_body(conn, BODY._replace(id="e2", event_type="a:b"), [1])
    assert await broadcasts.list_bodies(conn, [first, other, 404], 1000) == {
        first: BODY,
        other: BODY._replace(id="e2", event_type="a:b"),
    }
    assert await broadcasts.list_bodies(conn, [other, first, 404], 1) == {
        first: None,
        other: BODY._replace(id="e2", event_type="a:b"),
    }


async def test_chunks_follow_each_other_and_the_last_one_is_told(conn: asyncpg.Connection) -> None:
    broadcast_id = await insert_body(conn, BODY, range(1, 8))
    taken = []
    while (chunk := await broadcasts.lock_chunk(conn, 3)) is not None:
        assert (chunk.broadcast_id, chunk.body) == (broadcast_id, BODY)
        taken.append((chunk.recipients, chunk.applied, chunk.is_last))
        await write_together(conn, [broadcasts.mark_applied(chunk)])
    assert taken == [([1, 2, 3], 3, False), ([4, 5, 6], 6, False), ([7], 7, True)]
    assert await conn.fetchval("SELECT done_at > created_at FROM broadcasts")


async def test_what_is_applied_when_it_is_stored_waits_for_nobody(conn: asyncpg.Connection) -> None:
    await insert_body(conn, BODY, [1, 2], applied=2)
    assert await broadcasts.lock_chunk(conn, 3) is None


async def test_two_nodes_take_different_ones_and_a_dead_ones_is_free_at_once(
    conn: asyncpg.Connection, dsn: str
) -> None:
    first = await insert_body(conn, BODY, [1, 2])
    second = await insert_body(conn, BODY, [1, 2])
    other = await db.connect(dsn)
    await other.execute("BEGIN")
    async with conn.transaction():
        taken = [await broadcasts.lock_chunk(each, 1) for each in (other, conn)]
        assert [chunk.broadcast_id for chunk in taken if chunk] == [first, second]
        other.terminate()
    async with asyncio.timeout(5):
        while (chunk := await broadcasts.lock_chunk(conn, 1)) is None or chunk.broadcast_id != first:
            await asyncio.sleep(0.01)


async def test_counts_are_kept_with_what_was_taken(conn: asyncpg.Connection) -> None:
    one, two = ("feed", "e1"), ("feed", "e2")
    at, new = await ingested.insert_events(conn, {one: Taken(b"f", 3, 1)})
    assert (at <= datetime.now(UTC), new) == (True, None)
    assert (await ingested.insert_events(conn, {one: Taken(b"other", 0, 0), two: Taken(b"g", 1, 0)}))[1] == {two}
    assert (await ingested.insert_events(conn, {one: Taken(b"f", 3, 1)}))[1] == set()
    assert await ingested.list_taken(conn, [one, two, ("feed", "e3")]) == {one: (b"f", 3, 1), two: (b"g", 1, 0)}


async def share(conn: asyncpg.Connection, user_id: int, seq: int, body: Body = BODY) -> SharedEvent:
    """One among others, whose body stands in `broadcasts`."""
    broadcast_id = await insert_body(conn, body, [user_id], applied=1)
    event = SharedEvent(user_id, seq, body)
    await write_together(conn, refer([event], broadcast_id))
    return event


async def copied(conn: asyncpg.Connection, user_id: int, seq: int, body: Body = BODY) -> SharedEvent:
    """One whose body stands in the inbox."""
    event = SharedEvent(user_id, seq, body)
    await write_together(conn, copy([event]))
    return event


async def own(conn: asyncpg.Connection, user_id: int, seq: int, event_type: str | None = None) -> StoredEvent:
    event = StoredEvent(user_id, seq, uuid4(), "x", event_type, '{"n":1}', NOW)
    await write_together(conn, inbox.append([event], {user_id: seq}))
    return event


async def test_a_page_holds_shared_events_among_the_others(conn: asyncpg.Connection) -> None:
    rows = [await share(conn, 1, 1), await own(conn, 1, 2), await share(conn, 1, 3, BODY._replace(id="e3"))]
    assert await inbox.list_after(conn, 1, 0, 3, 10) == rows
    assert await inbox.list_after(conn, 1, 1, 3, 1) == rows[1:2]
    assert await heads.list_heads(conn, [1]) == [(1, 3, 1)]
    assert inbox.append_shared([], [], {}) == []


async def test_a_page_holds_copied_events_as_if_they_were_shared(conn: asyncpg.Connection) -> None:
    rows = [await copied(conn, 1, 1), await share(conn, 1, 2, BODY._replace(id="e2")), await own(conn, 1, 3)]
    rows.append(await copied(conn, 1, 4, BODY._replace(id="e4", event_type="a:b")))
    assert await inbox.list_after(conn, 1, 0, 4, 10) == rows
    assert await notifications.list_notifications(conn, 1, 2**53, 10) == (Seen(4, 0, 4), rows[::-1])
    assert await conn.fetchval("SELECT count(*) FROM broadcasts") == 1


async def test_a_page_of_large_events_is_short_but_never_empty(conn: asyncpg.Connection) -> None:
    """Or 500 events of 64 KiB would be in memory for each phone that resumes, and in one answer to `inbox:fetch`."""
    large = BODY._replace(data='"' + "x" * (inbox.PAGE_BYTES // 3) + '"')
    rows = [
        await own(conn, 1, seq) if seq % 4 == 0 else await share(conn, 1, seq, large._replace(id=f"e{seq}"))
        for seq in range(1, 21)
    ]
    pages = []
    after = 0
    while page := await inbox.list_after(conn, 1, after, 20, 500):
        pages.append(page)
        after = page[-1].seq
    assert [event for page in pages for event in page] == rows
    assert {sum(isinstance(event, SharedEvent) for event in page) for page in pages} == {3}
    huge = await share(conn, 2, 1, BODY._replace(data='"' + "x" * 2 * inbox.PAGE_BYTES + '"'))
    assert await inbox.list_after(conn, 2, 0, 1, 500) == [huge]


async def test_a_shared_event_is_dated_when_it_was_stored_whatever_its_own_timestamp(conn: asyncpg.Connection) -> None:
    for seq, store in enumerate((share, copied), 1):
        await store(conn, 1, seq, BODY._replace(timestamp=NOW - timedelta(days=9999)))
    assert await conn.fetchval("SELECT bool_and(created_at > now() - interval '1 minute') FROM inbox")


# -- the notification list ---------------------------------------------------------------------------


async def test_the_list_is_the_inbox_without_wallets_and_chats(conn: asyncpg.Connection) -> None:
    rows = [
        await share(conn, 1, 1), await own(conn, 1, 2, "wallet:balance:updated"), await own(conn, 1, 3),
        await own(conn, 1, 4, "chat:message:sent"), await own(conn, 1, 5, "app:chat:x"),
        await share(conn, 1, 6, BODY._replace(event_type="walletless")), await own(conn, 1, 7, "chat:message:read"),
    ]  # fmt: skip
    await own(conn, 2, 1)
    shown = [rows[5], rows[4], rows[2], rows[0]]
    assert await notifications.list_notifications(conn, 1, 2**53, 10) == (Seen(7, 0, 4), shown)
    assert await notifications.list_notifications(conn, 1, 6, 2) == (Seen(7, 0, 4), shown[1:3])
    assert await notifications.list_notifications(conn, 1, 1, 2) == (Seen(7, 0, 4), [])
    assert await notifications.list_notifications(conn, 3, 2**53, 2) == (Seen(0, 0, 0), [])
    assert await notifications.list_notifications(conn, 404, 2**53, 2) == (None, [])


async def test_seen_moves_forward_only_and_never_beyond_the_head(conn: asyncpg.Connection) -> None:
    for seq, event_type in enumerate((None, "chat:x", None, "wallet:x", None), start=1):
        await own(conn, 1, seq, event_type)
    for seq, seen in ((3, Seen(5, 3, 1)), (1, Seen(5, 3, 1)), (0, Seen(5, 3, 1)), (2**53 - 1, Seen(5, 5, 0))):
        assert await notifications.mark_seen(conn, 1, seq) == seen
        assert await notifications.fetch_seen(conn, 1) == seen
    assert await notifications.mark_seen(conn, 2, 3) == Seen(0, 0, 0)
    assert await notifications.mark_seen(conn, 404, 3) is None
    assert await notifications.fetch_seen(conn, 404) is None
