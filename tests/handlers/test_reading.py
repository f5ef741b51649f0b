"""Read pointers, unread counts and blocks on the real database; and whole histories against a naive model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.errors import Refusal
from handlers.messaging.ids import message_id
from storage import db, heads
from storage.audit import audit
from tests.handlers.test_conversations import refused
from tests.support.chats import Chats, read, send


@pytest.fixture
async def chats(conn: asyncpg.Connection, pool: asyncpg.Pool) -> AsyncIterator[Chats]:
    """Ten people. Whatever a test does, lists are what events made them, and the books are right."""
    made = Chats(conn, pool)
    await made.people(10)
    yield made
    await made.check()
    assert await audit(conn) == []


async def test_a_read_moves_the_pointer_and_tells_everybody(chats: Chats) -> None:
    trio = await chats.talk(1, 2, 3)
    sent = [await chats.say(1, trio) for _ in range(3)]
    assert await chats.data(read(2, trio, sent[1])) == [{"number": 2, "unreadCount": 1}]
    for user, more in ((1, {}), (2, {"unreadCount": 1}), (3, {})):
        [event] = chats.told(user, "message_read")
        assert event["eventType"] == "chat:message:read"
        assert event["data"] == {
            "conversationId": trio, "messageId": sent[1], "readerId": 2, "timestamp": event["timestamp"], **more,
        }  # fmt: skip


async def test_the_pointer_never_goes_back_and_nothing_is_sent_where_it_stays(chats: Chats) -> None:
    pair = await chats.talk(1, 2)
    first, second = await chats.say(1, pair), await chats.say(1, pair)
    deeds = [read(2, pair, second), read(2, pair, second), read(2, pair, first)]
    assert await chats.data(*deeds) == [{"number": 2, "unreadCount": 0}] * 3
    before = chats.counts()
    assert await chats.data(read(2, pair, first)) == [{"number": 2, "unreadCount": 0}]
    assert chats.counts() == before
    assert len(chats.told(1, "message_read")) == len(chats.told(2, "message_read")) == 1


async def test_own_messages_are_never_unread(chats: Chats) -> None:
    pair = await chats.talk(1, 2)
    sent = [await chats.say(1 + number % 2, pair) for number in range(6)]
    answers = [(await chats.data(read(1, pair, each)))[0] for each in sent]
    assert [(answer["number"], answer["unreadCount"]) for answer in answers] == [
        (1, 3), (2, 2), (3, 2), (4, 1), (5, 1), (6, 0),
    ]  # fmt: skip
    await chats.say(1, pair)
    assert (await chats.conversations.fetch_standing(1, pair)).unread_count == 0
    assert (await chats.conversations.fetch_standing(2, pair)).unread_count == 4


async def test_what_is_no_message_of_it_is_not_found(chats: Chats) -> None:
    pair, other = await chats.talk(1, 2), await chats.talk(1, 3)
    mine, theirs = await chats.say(1, pair), await chats.say(1, other)
    forged = str(message_id(1, "forged"))
    deeds = [read(2, pair, each) for each in (theirs, forged, "1", "x" * 64, mine.upper(), str(message_id(2**47, "x")))]
    assert await chats.run(*deeds, read(3, pair, mine), read(2, "nothing", mine)) == ["not_found"] * 8
    assert chats.told(1, "message_read") == []


async def test_reads_and_messages_of_one_batch_follow_each_other(chats: Chats) -> None:
    pair = await chats.talk(1, 2)
    sent = [await chats.say(1 + number % 2, pair) for number in range(4)]
    answers = await chats.data(
        send(1, pair),
        read(2, pair, sent[0]),
        send(2, pair),
        read(2, pair, sent[2]),
        read(1, pair, sent[3]),
        send(2, pair),
    )
    assert [answer["unreadCount"] for answer in (answers[1], answers[3], answers[4])] == [2, 1, 1]
    assert (await chats.conversations.fetch_standing(1, pair)).unread_count == 2


async def test_a_read_waits_for_heads_that_somebody_holds(chats: Chats, dsn: str) -> None:
    pair = await chats.talk(1, 2)
    sent = await chats.say(1, pair)
    other = await db.connect(dsn)
    held = other.transaction()
    await held.start()
    await heads.lock(other, [1])
    deed = read(2, pair, sent)
    assert await chats.run(deed, skip_locked=True) == [None]
    await held.rollback()
    await other.close()
    assert await chats.data(deed) == [{"number": 1, "unreadCount": 0}]


# -- blocks ------------------------------------------------------------------------------------------


async def test_who_is_blocked_writes_to_nobody(chats: Chats, conn: asyncpg.Connection) -> None:
    pair, group = await chats.talk(1, 2), await chats.talk(1, 2, 3)
    await chats.conversations.block(1, 2)
    await chats.conversations.block(1, 2)
    assert await chats.run(send(2, pair)) == ["not_found"]
    assert await conn.fetchval("SELECT count(*) FROM requests") == 0, "without a trace"
    await chats.data(send(1, pair), send(2, group))
    await chats.conversations.unblock(1, 2)
    await chats.conversations.unblock(1, 2)
    await chats.data(send(2, pair))


async def test_a_message_of_before_the_block_is_replayed(chats: Chats) -> None:
    pair = await chats.talk(1, 2)
    [first] = await chats.run(send(2, pair, "hi", action_id="the-key-1"))
    await chats.conversations.block(1, 2)
    assert await chats.run(send(2, pair, "hi", action_id="the-key-1")) == [{**first, "replayed": True}]


async def test_a_block_that_stands_is_seen_by_a_message_on_its_way(chats: Chats) -> None:
    pair = await chats.talk(1, 2)
    assert await chats.run(send(2, pair), meanwhile=chats.conversations.block(1, 2)) == ["not_found"]


async def test_no_direct_conversation_comes_about_between_them(chats: Chats) -> None:
    old = await chats.talk(1, 2)
    await chats.conversations.block(1, 2)
    await chats.conversations.block(1, 3)
    assert await chats.talk(2, 1) == old, "that is none"
    for one, other in ((1, 3), (3, 1)):
        with pytest.raises(Refusal) as caught:
            await chats.talk(one, other)
        assert (caught.value.code, caught.value.field) == ("not_found", "participantIds")
    await chats.talk(3, 1, title="a group is another thing")


async def test_nobody_blocks_themselves_or_nobody(chats: Chats) -> None:
    assert await refused(chats.conversations.block(1, 1)) == ("forbidden", "userId")
    assert await refused(chats.conversations.block(1, 404)) == ("not_found", "userId")
    await chats.conversations.unblock(1, 404)


# -- histories ---------------------------------------------------------------------------------------

PEOPLE = 5
steps = st.lists(
    st.tuples(
        st.sampled_from(["send", "send", "send", "read", "read", "add", "remove", "block", "unblock", "settle"]),
        st.integers(1, PEOPLE),
        st.integers(0, 2),
        st.integers(0, 30),
    ),
    max_size=30,
)


class Naive:
    """What conversations are, said as simply as can be."""

    def __init__(self, made: list[tuple[str, set[int], bool]]) -> None:
        self.people = {name: set(people) for name, people, _ in made}
        self.direct = {name for name, _, is_direct in made if is_direct}
        self.sent: dict[str, list[tuple[int, str]]] = {name: [] for name, *_ in made}
        self.pointers = {(name, user): 0 for name, people, _ in made for user in people}
        self.blocks: set[tuple[int, int]] = set()

    def may_send(self, user: int, name: str) -> bool:
        others = self.people[name] - {user}
        blocked = name in self.direct and any((other, user) in self.blocks for other in others)
        return user in self.people[name] and not blocked

    def unread(self, user: int, name: str) -> int:
        return sum(sender != user for sender, _ in self.sent[name][self.pointers[name, user] :])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=steps, batch=st.integers(1, 4), gather_above=st.sampled_from([2, 3, 16]))
async def test_any_history_is_as_a_naive_model_says(
    conn: asyncpg.Connection,
    pool: asyncpg.Pool,
    script: list[tuple[str, int, int, int]],
    batch: int,
    gather_above: int,
) -> None:
    """Deeds run in batches of up to `batch`; changes of participants, blocks and the settler come between them."""
    await start_anew(conn)
    chats = Chats(conn, pool, gather_above=gather_above)
    await chats.people(PEOPLE)
    pair, trio, group = await chats.talk(1, 2), await chats.talk(1, 2, 3), await chats.talk(4, 5, 1, title="all")
    names = [pair, trio, group]
    model = Naive([(pair, {1, 2}, True), (trio, {1, 2, 3}, False), (group, {1, 4, 5}, False)])
    waiting: list[tuple[Any, str, int, str, str]] = []

    async def flush() -> None:
        answers = await chats.run(*(deed for deed, *_ in waiting)) if waiting else []
        for (_, kind, user, name, message), answer in zip(waiting, answers, strict=True):
            if kind == "send":
                assert isinstance(answer, dict) == model.may_send(user, name), answer
                if isinstance(answer, dict):
                    model.sent[name].append((user, answer["data"]["messageId"]))
                    assert answer["data"]["number"] == len(model.sent[name])
                continue
            number = next((at for at, (_, each) in enumerate(model.sent[name], 1) if each == message), 0)
            if user not in model.people[name] or not number:
                assert answer == "not_found"
                continue
            model.pointers[name, user] = max(model.pointers[name, user], number)
            expected = {"number": model.pointers[name, user], "unreadCount": model.unread(user, name)}
            assert answer["data"] == expected
        waiting.clear()

    for kind, user, place, number in script:
        name = names[place]
        if kind in ("send", "read"):
            known = [each for _, each in model.sent[name]]
            message = known[number % len(known)] if known else str(message_id(1, "none"))
            deed = send(user, name) if kind == "send" else read(user, name, message)
            waiting.append((deed, kind, user, name, message))
            if len(waiting) >= batch:
                await flush()
            continue
        await flush()
        other = 1 + number % PEOPLE
        if kind == "settle":
            await chats.settle(at_once=number < 20)
        elif kind == "block" and user != other:
            await chats.conversations.block(user, other)
            model.blocks.add((user, other))
        elif kind == "unblock":
            await chats.conversations.unblock(user, other)
            model.blocks.discard((user, other))
        elif kind == "add" and name not in model.direct and user in model.people[name]:
            await chats.conversations.add(user, name, other)
            if other not in model.people[name]:
                model.people[name].add(other)
                model.pointers[name, other] = len(model.sent[name])
        elif kind == "remove" and name not in model.direct and user in model.people[name]:
            await chats.conversations.remove(user, name, user)
            model.people[name].discard(user)
    await flush()
    await chats.settle()
    assert await conn.fetchval("SELECT count(*) FROM gathered") == 0
    for name in names:
        for user in range(1, PEOPLE + 1):
            listed = (await chats.listed(user)).get(name)
            assert (listed is not None) == (user in model.people[name])
            if listed is not None:
                assert listed["unreadCount"] == model.unread(user, name)
                assert listed["lastNumber"] == len(model.sent[name])
    await chats.check()
    assert await audit(conn) == []


async def start_anew(conn: asyncpg.Connection) -> None:
    """Nobody and nothing."""
    await conn.execute(
        "TRUNCATE users, heads, accounts, inbox, broadcasts, requests, conversations, participants, messages, blocks,"
        " gathered"
    )
