"""Groups that are too large to be told at once: what is gathered for them, and that a step stays one statement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial

import asyncpg
import pytest
from prometheus_client import generate_latest

from gateway.metrics.registry import registry
from gateway.metrics.work import of_groups
from handlers.messaging import settler as settling
from handlers.messaging.settler import GroupSettler
from storage import db, gathered, heads
from storage.audit import audit
from tests.support.chats import Chats, all_are_due, read, send

MANY = 20


@pytest.fixture
async def chats(conn: asyncpg.Connection, pool: asyncpg.Pool) -> AsyncIterator[Chats]:
    """Some more than twenty people. Once everything is told, lists are what events made them."""
    made = Chats(conn, pool)
    await made.people(MANY + 2)
    yield made
    await made.settle()
    assert await conn.fetchval("SELECT count(*) FROM gathered") == 0
    await made.check()
    assert await audit(conn) == []


@contextmanager
def statements(conn: asyncpg.Connection) -> Iterator[list[str]]:
    """What is asked of the database meanwhile, but for the transaction's own."""
    asked: list[str] = []

    def note(record: asyncpg.connection.LoggedQuery) -> None:
        if record.query not in ("BEGIN;", "COMMIT;"):
            asked.append(record.query)

    conn.add_query_logger(note)
    try:
        yield asked
    finally:
        conn.remove_query_logger(note)


@pytest.mark.parametrize("size", [17, 256])
async def test_every_step_is_one_statement_however_many_take_part(
    conn: asyncpg.Connection, pool: asyncpg.Pool, size: int
) -> None:
    chats = Chats(conn, pool)
    await chats.people(size)
    group = await chats.talk(*range(1, size + 1))
    for user in range(2, 7):  # so that the driver knows all types
        await chats.data(read(user, group, await chats.say(1, group)))
    await chats.settle()
    await all_are_due(conn)
    chats.live.clear()
    before, wakes = chats.counts(), chats.wakes
    with statements(conn) as asked:
        [ack] = await chats.data(send(1, group))
    assert len(asked) == 6, "resolve, heads, conversations, participants, readings, write"
    assert chats.counts() == before, "nobody's inbox is written"
    assert chats.live[0][0] == list(range(2, size + 1))
    assert chats.wakes == wakes + 1
    with statements(conn) as asked:
        assert await chats.settle(at_once=False) == size - 1
    previews = len(asked)
    assert chats.told(size, "message_preview")[-1]["data"]["unreadCount"] == 6
    with statements(conn) as asked:
        await chats.data(*(read(user, group, ack["messageId"]) for user in range(2, 7)))
    assert len(asked) == 6
    with statements(conn) as asked:
        assert await chats.settle(at_once=False) == 5 * (size - 1)
    assert (previews, len(asked)) == (8, 9), "one more for bodies that many share"
    await chats.check()
    assert await audit(conn) == []


async def test_up_to_a_limit_everybody_is_told_at_once(chats: Chats) -> None:
    small, large = await chats.talk(*range(1, 17)), await chats.talk(*range(1, 18))
    await chats.say(1, small)
    assert len(chats.told(16, "message_preview")) == 1
    await chats.say(1, large)
    assert len(chats.told(16, "message_preview")) == 1


async def test_the_newest_is_told_at_most_once_a_second(chats: Chats, conn: asyncpg.Connection) -> None:
    group = await chats.talk(*range(1, MANY + 1))
    await chats.say(1, group, "first")
    assert await chats.settle(at_once=False) == MANY - 1, "at once where it was quiet"
    for number in range(5):
        await chats.say(1, group, f"text {number}")
    assert await chats.settle(at_once=False) == 0
    await conn.execute("UPDATE conversations SET previewed_at = previewed_at - interval '1 second'")
    assert await chats.settle(at_once=False) == MANY - 1
    told = [(event["data"]["lastMessage"], event["data"]["unreadCount"]) for event in chats.told(7, "message_preview")]
    assert told == [("first", 1), ("text 4", 6)]
    assert await chats.settle() == 0


async def test_each_is_told_their_own_count_and_who_wrote_last_of_others(chats: Chats) -> None:
    group = await chats.talk(*range(1, MANY + 1))
    first = await chats.say(1, group, "one")
    await chats.say(2, group, "two")
    await chats.say(3, group, "three")
    await chats.data(read(4, group, first))
    await chats.say(3, group, "four")
    await chats.settle()
    shown = {
        user: (event["data"]["lastMessage"], event["data"]["number"], event["data"]["unreadCount"])
        for user in range(1, MANY + 1)
        for event in chats.told(user, "message_preview")
    }
    assert shown == {
        **dict.fromkeys(range(5, MANY + 1), ("four", 4, 4)),
        1: ("four", 4, 3), 2: ("four", 4, 3), 3: ("two", 2, 2), 4: ("four", 4, 3),
    }  # fmt: skip


async def test_who_alone_has_written_is_told_nothing(chats: Chats) -> None:
    group = await chats.talk(*range(1, MANY + 1))
    for _ in range(3):
        await chats.say(1, group)
    await chats.settle()
    assert chats.told(1, "message_preview") == []


async def test_who_has_read_everything_is_told_all_the_same(chats: Chats) -> None:
    """Their other devices know that it was read, and not what it was."""
    group = await chats.talk(*range(1, MANY + 1))
    sent = await chats.say(1, group, "hi")
    await chats.data(read(2, group, sent))
    await chats.settle()
    assert [event["type"] for event in chats.told(2)][-2:] == ["message_read", "message_preview"]
    assert chats.told(2, "message_preview")[0]["data"]["unreadCount"] == 0


async def test_reads_are_gathered_and_each_reader_s_last_is_told(chats: Chats, conn: asyncpg.Connection) -> None:
    group = await chats.talk(*range(1, MANY + 1))
    sent = [await chats.say(1, group) for _ in range(3)]
    await chats.settle()
    for message in sent:
        answers = await chats.data(*(read(user, group, message) for user in (2, 3)))
    assert answers == [{"number": 3, "unreadCount": 0}] * 2
    own = [event["data"]["unreadCount"] for event in chats.told(2, "message_read")]
    assert own == [2, 1, 0], "one's own other devices hear at once"
    assert await chats.settle(at_once=False) == 2 * (MANY - 1)
    ticks = [(event["data"]["readerId"], event["data"]["messageId"]) for event in chats.told(1, "message_read")]
    assert sorted(ticks) == [(2, sent[2]), (3, sent[2])]
    assert all("unreadCount" not in event["data"] for event in chats.told(1, "message_read"))
    await chats.data(read(4, group, sent[2]))
    assert await chats.settle(at_once=False) == 0
    await conn.execute("UPDATE conversations SET reads_told_at = reads_told_at - interval '2 seconds'")
    assert await chats.settle(at_once=False) == 0, "once in three seconds"
    await conn.execute("UPDATE conversations SET reads_told_at = reads_told_at - interval '3 seconds'")
    assert await chats.settle(at_once=False) == MANY - 1


async def test_very_many_reads_take_more_than_one_transaction(
    chats: Chats, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "MOST_READS_TOLD", 3 * MANY)
    group = await chats.talk(*range(1, MANY + 1))
    sent = await chats.say(1, group)
    await chats.settle()
    await chats.data(*(read(user, group, sent) for user in range(2, MANY + 1)))
    chats.hear(await chats.settler.settle(conn))
    assert chats.settler.is_behind
    assert len(chats.told(1, "message_read")) == 3
    await chats.settle(at_once=False)
    assert len(chats.told(1, "message_read")) == MANY - 1
    assert await conn.fetchval("SELECT count(*) FROM conversations WHERE reads_told_at IS NOT NULL") == 1


async def test_who_has_left_is_told_nothing_and_of_their_reads_nobody(chats: Chats) -> None:
    group = await chats.talk(*range(1, MANY + 1))
    sent = await chats.say(1, group)
    await chats.data(read(2, group, sent))
    await chats.conversations.remove(2, group, 2)
    await chats.settle()
    assert chats.told(2, "message_preview") == []
    assert chats.told(1, "message_read") == []


async def test_a_group_that_shrinks_is_told_once(chats: Chats) -> None:
    group = await chats.talk(*range(1, 18))
    await chats.say(1, group, "gathered")
    await chats.conversations.remove(17, group, 17)
    await chats.say(1, group, "at once")
    assert await chats.settle() == 0, "the newest has been told"
    assert [event["data"]["lastMessage"] for event in chats.told(3, "message_preview")] == ["at once"]


async def test_who_joins_meanwhile_is_waited_for(
    chats: Chats, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = await chats.talk(*range(1, MANY + 1))
    await chats.say(1, group)
    claim = gathered.claim

    async def claim_late(conn: asyncpg.Connection, ids: list[str]) -> dict[str, gathered.Waiting]:
        await chats.conversations.add(1, group, MANY + 1)
        return await claim(conn, ids)

    monkeypatch.setattr(gathered, "claim", claim_late)
    assert await chats.settler.settle(conn) == []
    monkeypatch.undo()
    assert await chats.settle() == MANY


async def test_a_settler_that_dies_leaves_everything_to_the_next(
    chats: Chats, conn: asyncpg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = await chats.talk(*range(1, MANY + 1))
    sent = await chats.say(1, group)
    await chats.data(read(2, group, sent))
    dying = await db.connect(dsn)

    async def die(*_: object) -> None:
        dying.terminate()
        raise OSError("it is gone")

    monkeypatch.setattr(settling, "write_together", die)
    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        await GroupSettler().settle(dying)
    monkeypatch.undo()
    assert await chats.settle() == 2 * (MANY - 1)


async def test_two_settlers_tell_once(chats: Chats, dsn: str) -> None:
    groups = [await chats.talk(*range(1, MANY + 1)) for _ in range(3)]
    others = [await db.connect(dsn) for _ in range(3)]
    for _ in range(5):
        for group in groups:
            sent = await chats.say(1, group)
            await chats.data(read(2, group, sent))
        await all_are_due(chats.conn)
        for events in await asyncio.gather(*(GroupSettler().settle(other) for other in others)):
            chats.hear(events)
        await chats.settle()
    for other in others:
        await other.close()
    assert len(chats.told(5, "message_preview")) == len(chats.told(5, "message_read")) == 15


async def test_a_head_that_somebody_holds_loses_nothing(chats: Chats, conn: asyncpg.Connection, dsn: str) -> None:
    group = await chats.talk(*range(1, MANY + 1))
    await chats.say(1, group)
    other = await db.connect(dsn)
    held = other.transaction()
    await held.start()
    await heads.lock(other, [9])
    await conn.execute("SET lock_timeout = '50ms'")
    with pytest.raises(asyncpg.LockNotAvailableError):
        await chats.settle()
    await held.rollback()
    await other.close()
    assert await chats.settle() == MANY - 1


async def test_messages_reads_and_settlers_at_once(chats: Chats, dsn: str, conn: asyncpg.Connection) -> None:
    """Nobody waits for who waits for them: no deadlock, and in the end everybody's list is right."""
    group, small = await chats.talk(*range(1, MANY + 1)), await chats.talk(*range(1, 6))
    other = await db.connect(dsn)
    last = [await chats.say(1, group)]

    async def write() -> None:
        for turn in range(40):
            user = 1 + turn % MANY
            answers = await chats.run(send(user, group), send(1 + turn % 5, small), read(1 + turn % 7, group, last[0]))
            last[0] = answers[0]["data"]["messageId"]

    async def settle() -> None:
        settler = GroupSettler()
        for _ in range(40):
            chats.hear(await settler.settle(other))
            await all_are_due(other)

    await asyncio.gather(write(), settle())
    await other.close()


async def test_what_was_gathered_is_counted(chats: Chats) -> None:
    group = await chats.talk(*range(1, MANY + 1))
    await chats.say(1, group)
    await chats.settle()
    shown = generate_latest(registry([partial(of_groups, chats.settler)])).decode()
    assert f"applause_group_events_total {float(MANY - 1)}" in shown
    assert "applause_group_settler_runs_total 1.0" in shown
