"""The inbox: events and entries are one sequence without a gap; devices confirm it, never beyond the head."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import arrivals, db, heads, inbox, ledger
from storage.audit import audit
from storage.inbox import StoredEvent
from storage.ledger import ISSUANCE, Entry
from storage.pool import session
from storage.statement import write_together
from storage.users import insert_unknown_users

ROOT: Final = Path(__file__).parents[2]
NOW: Final = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
ONE, OTHER = 1, 2
ON_THE_TESTS_DATABASE: Final = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
async def _users(conn: asyncpg.Connection) -> None:
    await insert_unknown_users(conn, [ONE, OTHER], [None, None])


def event(seq: int, user_id: int = ONE, data: str = "{}") -> StoredEvent:
    return StoredEvent(user_id, seq, uuid4(), "video_like", None, data, NOW)


def entry(seq: int, n: int, user_id: int = ONE) -> Entry:
    return Entry(user_id, seq, "LYK", n, uuid4(), "refund", 1, n - 1, n, ISSUANCE, None, "{}", NOW)


async def store(conn: asyncpg.Connection, rows: Sequence[StoredEvent | Entry]) -> None:
    """As a batch does: all of it in one statement, each head moved to its last."""
    entries = [row for row in rows if isinstance(row, Entry)]
    events = [row for row in rows if isinstance(row, StoredEvent)]
    advanced = {row.user_id: row.seq for row in rows}
    await write_together(conn, [*ledger.post(entries), *inbox.append(events, advanced)])


def mixed(kinds: Sequence[bool], user_id: int = ONE) -> list[StoredEvent | Entry]:
    """From seq 1 on, True for an entry and False for an event."""
    return [
        entry(seq, sum(kinds[:seq]), user_id) if is_entry else event(seq, user_id)
        for seq, is_entry in enumerate(kinds, start=1)
    ]


async def head(conn: asyncpg.Connection, user_id: int = ONE) -> int:
    [(_, seq, _)] = await heads.list_heads(conn, [user_id])
    return seq


# -- append ------------------------------------------------------------------------------------------


def test_nobody_else_writes_events_or_moves_heads() -> None:
    writes = re.compile(r"(?:UPDATE|INSERT INTO|DELETE FROM|TRUNCATE|MERGE INTO)\s+(heads|inbox)\b")
    found = {
        (path.name, table)
        for room in ("storage", "handlers", "fanout", "gateway")
        for path in (ROOT / room).rglob("*.py")
        for table in writes.findall(path.read_text())
    }
    assert found == {
        ("inbox.py", "heads"), ("inbox.py", "inbox"),
        ("retention.py", "heads"), ("retention.py", "inbox"),  # oldest_seq, and what is below it
        ("users.py", "heads"),  # a new one
    }  # fmt: skip


def test_nothing_to_append_is_no_write() -> None:
    assert inbox.append([], {}) == []


async def test_an_event_comes_back_as_it_was_first_sent(conn: asyncpg.Connection) -> None:
    data = '{"count": 1.10, "b":  "\\u00e9\U0001f642",\n "a": [], "a": null }'
    rows = [event(1, data=data), event(2)._replace(type="wallet_update", event_type="wallet:balance:updated")]
    await store(conn, rows)
    assert await inbox.list_after(conn, ONE, 0, 2, 10) == rows


async def test_a_head_moves_with_entries_alone_and_each_by_itself(conn: asyncpg.Connection) -> None:
    await store(conn, [entry(1, 1), event(1, OTHER), entry(2, 1, OTHER), event(3, OTHER)])
    assert (await head(conn), await head(conn, OTHER)) == (1, 3)
    assert await audit(conn) == []


async def test_a_seq_is_given_out_once(conn: asyncpg.Connection) -> None:
    await store(conn, [event(1)])
    with pytest.raises(asyncpg.UniqueViolationError):
        await store(conn, [event(1, OTHER), event(1)])
    assert (await head(conn), await head(conn, OTHER)) == (1, 0), "and the statement leaves nothing"
    assert await audit(conn) == []


# -- list_after --------------------------------------------------------------------------------------


@ON_THE_TESTS_DATABASE
@given(
    kinds=st.lists(st.booleans(), max_size=30), page=st.integers(1, 12), window=st.tuples(*[st.integers(-1, 32)] * 2)
)
async def test_whatever_the_mixture_pages_are_the_whole_in_order(
    conn: asyncpg.Connection, kinds: list[bool], page: int, window: tuple[int, int]
) -> None:
    rows = mixed(kinds)
    others = mixed([not kind for kind in kinds], OTHER)
    after, upto = window
    story = conn.transaction()
    await story.start()
    try:
        await store(conn, rows + others)
        paged: list[StoredEvent | Entry] = []
        while found := await inbox.list_after(conn, ONE, paged[-1].seq if paged else 0, len(rows), page):
            assert len(found) == min(page, len(rows) - len(paged)), "no page is short before the last"
            paged += found
        assert paged == rows
        assert await inbox.list_after(conn, ONE, after, upto, page) == [r for r in rows if after < r.seq <= upto][:page]
    finally:
        await story.rollback()


async def test_who_reads_up_to_a_head_misses_nothing_that_is_written_meanwhile(
    conn: asyncpg.Connection, dsn: str
) -> None:
    """Events and entries are read by two statements: without the bound a page could have a hole."""
    other = await db.connect(dsn)
    rows = mixed([number % 3 == 0 for number in range(600)])
    done = asyncio.Event()

    async def act() -> None:
        for start in range(0, 600, 3):
            await store(other, rows[start : start + 3])
        done.set()

    acting = asyncio.create_task(act())
    cursor = pages = 0
    while not done.is_set() or cursor < 600:
        upto = await head(conn)
        while cursor < upto:
            page = await inbox.list_after(conn, ONE, cursor, upto, 7)
            assert page == rows[cursor : min(cursor + 7, upto)]
            cursor += len(page)
            pages += 1
    await acting
    await other.close()
    assert pages > 600 / 7


async def test_of_a_trimmed_inbox_the_rest_is_there_and_its_oldest_is_told(conn: asyncpg.Connection) -> None:
    rows = mixed([False] * 6)
    await store(conn, rows)
    await conn.execute("DELETE FROM inbox WHERE seq < 4; UPDATE heads SET oldest_seq = 4 WHERE user_id = 1")
    assert await inbox.list_after(conn, ONE, 0, 6, 10) == rows[3:]
    assert await heads.list_heads(conn, [ONE]) == [(ONE, 6, 4)]
    found = await arrivals.list_arrivals(conn, [ONE, OTHER, 404])
    assert {user: (row.status, row.seq, row.oldest_seq) for user, row in found.items()} == {
        ONE: ("active", 6, 4),
        OTHER: ("active", 0, 1),
    }
    assert await audit(conn) == []


# -- mark_acked --------------------------------------------------------------------------------------


async def test_a_device_confirms_forward_only_and_never_beyond_the_head(conn: asyncpg.Connection) -> None:
    await store(conn, mixed([True, False, True, False, False]))
    for seq, stands in ((3, 3), (2, 3), (0, 3), (3, 3), (4, 4), (2**53 - 1, 5), (5, 5), (1, 5)):
        assert await inbox.mark_acked(conn, ONE, "phone", seq) == stands
    assert await inbox.mark_acked(conn, OTHER, "phone", 3) == 0, "there is nothing yet"
    assert await inbox.mark_acked(conn, ONE, "tablet", 2) == 2
    assert await inbox.list_devices(conn, ONE) == [("phone", 5), ("tablet", 2)]
    assert await inbox.list_devices(conn, OTHER) == [("phone", 0)]
    assert await inbox.list_devices(conn, 404) == []


acks = st.lists(st.tuples(st.sampled_from(["phone", "tablet", "new event"]), st.integers(0, 8)), max_size=20)


@ON_THE_TESTS_DATABASE
@given(steps=acks)
async def test_whatever_is_confirmed_it_is_the_highest_that_there_was(
    conn: asyncpg.Connection, steps: list[tuple[str, int]]
) -> None:
    """Against a model: the highest of what each device said, cut at the head of that time."""
    model: dict[str, int] = {}
    seq = 0
    story = conn.transaction()
    await story.start()
    try:
        for name, number in steps:
            if name == "new event":
                seq += 1
                await store(conn, [event(seq)])
            else:
                model[name] = max(model.get(name, 0), min(number, seq))
                assert await inbox.mark_acked(conn, ONE, name, number) == model[name]
        assert dict(await inbox.list_devices(conn, ONE)) == model
        assert await head(conn) == seq, "to confirm moves nothing else"
    finally:
        await story.rollback()


async def test_confirmations_at_once_end_at_the_highest(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    await store(conn, mixed([False] * 40))

    async def confirm(seq: int) -> None:
        async with session(pool) as own:
            assert await inbox.mark_acked(own, ONE, "phone", seq) >= seq

    await asyncio.gather(*(confirm(seq) for seq in [*range(40, 0, -1), *range(1, 41)]))
    assert await inbox.list_devices(conn, ONE) == [("phone", 40)]
    assert await audit(conn) == []


async def test_to_confirm_waits_for_no_batch(conn: asyncpg.Connection, dsn: str) -> None:
    await store(conn, mixed([False] * 2))
    other = await db.connect(dsn)
    async with other.transaction(), asyncio.timeout(10):
        await heads.lock(other, [ONE])
        await store(other, [event(3)])
        assert await inbox.mark_acked(conn, ONE, "phone", 3) == 2, "what is not committed has not arrived"
    assert await inbox.mark_acked(conn, ONE, "phone", 3) == 3
    await other.close()
