"""Making conversations, who takes part in them, lists and pages: on the real database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import asyncpg
import pytest

from handlers.errors import Refusal
from handlers.messaging.ids import direct_id
from handlers.messaging.wire import CreateConversationRequest
from storage import db, heads
from storage.audit import audit
from tests.support.chats import Chats, send


@pytest.fixture
async def chats(conn: asyncpg.Connection, pool: asyncpg.Pool) -> AsyncIterator[Chats]:
    """Ten people; conversations have at most six. Lists are what events made them, and the books are right."""
    made = Chats(conn, pool, most=6)
    await made.people(10)
    yield made
    await made.check()
    assert await audit(conn) == []


async def refused(deed: Awaitable[Any]) -> tuple[str, str | None]:
    """(code, field) of the refusal that it must be."""
    with pytest.raises(Refusal) as caught:
        await deed
    return caught.value.code, caught.value.field


async def test_two_have_one_direct_conversation_however_many_create_it(chats: Chats, conn: asyncpg.Connection) -> None:
    made = await asyncio.gather(*(chats.talk(*pair) for pair in [(1, 2), (2, 1), (1, 1, 2), (2, 1, 2)] * 3))
    assert set(made) == {direct_id(1, 2)}
    assert await conn.fetchval("SELECT count(*) FROM conversations") == 1
    [event] = chats.told(2)
    assert (event["type"], event["eventType"]) == ("conversation_changed", "chat:conversation:changed")
    assert event["data"].pop("changedBy") in (1, 2)
    assert event["data"] == {
        "conversationId": made[0], "participantIds": [1, 2], "title": None, "lastMessage": None, "lastMessageId": None,
        "lastMessageAt": None, "lastNumber": 0, "timestamp": event["timestamp"],
    }  # fmt: skip


async def test_a_title_or_a_third_makes_a_group_each_time(chats: Chats) -> None:
    made = [await chats.talk(1, 2, title="us"), await chats.talk(1, 2, title="us"), await chats.talk(1, 2, 3)]
    assert len({*made, direct_id(1, 2)}) == 4
    assert [event["data"]["title"] for event in chats.told(2)] == ["us", "us", None]


@pytest.mark.parametrize("people", [[1], [1, 1], list(range(1, 8)), [2, 3, 4, 5, 6, 7]])
async def test_a_conversation_has_two_to_so_many(chats: Chats, people: list[int]) -> None:
    request = CreateConversationRequest(people)
    assert await refused(chats.conversations.create(1, request)) == ("invalid_payload", "participantIds")


async def test_nobody_talks_to_who_does_not_exist(chats: Chats, conn: asyncpg.Connection) -> None:
    for people in ([404], [2, 404]):
        request = CreateConversationRequest(people)
        assert await refused(chats.conversations.create(1, request)) == ("not_found", "participantIds")
    assert await conn.fetchval("SELECT count(*) FROM conversations") == 0


async def test_who_takes_part_adds_and_who_made_it_removes(chats: Chats) -> None:
    group = await chats.talk(1, 2, 3)
    await chats.say(1, group, "before")
    await chats.conversations.add(2, group, 4)
    await chats.conversations.add(3, group, 4)
    [event] = chats.told(4)
    assert (event["data"]["participantIds"], event["data"]["changedBy"]) == ([1, 2, 3, 4], 2)
    assert (event["data"]["lastMessage"], event["data"]["lastNumber"]) == ("before", 1)
    assert (await chats.conversations.fetch_standing(4, group)).unread_count == 0, "who joins has read everything"
    assert await refused(chats.conversations.remove(2, group, 3)) == ("forbidden", "userId")
    await chats.conversations.remove(1, group, 3)
    await chats.conversations.remove(1, group, 3)
    assert [event["data"]["participantIds"] for event in chats.told(3, "conversation_changed")][-1] == [1, 2, 4]
    await chats.conversations.remove(1, group, 1)
    assert await refused(chats.conversations.remove(1, group, 1)) == ("not_found", "id")
    assert await refused(chats.conversations.remove(2, group, 4)) == ("forbidden", "userId")
    await chats.conversations.remove(4, group, 4)
    await chats.conversations.remove(2, group, 2)
    assert chats.told(2)[-1]["data"]["participantIds"] == []


async def test_strangers_see_and_change_nothing(chats: Chats) -> None:
    group, pair = await chats.talk(1, 2, 3), await chats.talk(1, 2)
    desk = chats.conversations
    for conversation in (group, pair, direct_id(8, 9), "nothing", group.upper()):
        for deed in (desk.add(4, conversation, 5), desk.remove(4, conversation, 4), desk.fetch(4, conversation)):
            assert await refused(deed) == ("not_found", "id")
        assert await refused(desk.list_messages(4, conversation, None, 5)) == ("not_found", "id")
        assert await refused(desk.fetch_standing(4, conversation)) == ("not_found", "conversationId")
    await desk.remove(1, group, 3)
    assert await refused(desk.fetch(3, group)) == ("not_found", "id")


async def test_a_direct_conversation_keeps_its_two(chats: Chats) -> None:
    pair = await chats.talk(1, 2)
    assert await refused(chats.conversations.add(1, pair, 3)) == ("conflict", "id")
    assert await refused(chats.conversations.remove(1, pair, 1)) == ("conflict", "id")
    assert await refused(chats.conversations.remove(1, pair, 2)) == ("conflict", "id")


async def test_a_group_has_room_for_so_many(chats: Chats) -> None:
    group = await chats.talk(1, 2, 3, 4, 5)
    assert await refused(chats.conversations.add(1, group, 404)) == ("not_found", "userId")
    await chats.conversations.add(1, group, 6)
    assert await refused(chats.conversations.add(1, group, 7)) == ("conflict", "userId")
    await chats.conversations.remove(6, group, 6)
    await chats.conversations.add(1, group, 7)


async def test_who_comes_back_has_read_everything(chats: Chats) -> None:
    group = await chats.talk(1, 2, 3)
    await chats.say(1, group)
    await chats.conversations.remove(3, group, 3)
    await chats.say(1, group)
    await chats.conversations.add(1, group, 3)
    await chats.say(2, group)
    assert (await chats.conversations.fetch_standing(3, group)).unread_count == 1


async def test_many_join_at_once(chats: Chats) -> None:
    """Each sees all heads of those who were there before, and nobody is told too little."""
    group = await chats.talk(1, 2, title="party")
    await asyncio.gather(*(chats.conversations.add(1 + number % 2, group, number) for number in (3, 4, 5, 6)))
    row, _ = await chats.conversations.fetch(6, group)
    assert row.participant_ids == [1, 2, 3, 4, 5, 6]


async def test_a_large_group_shares_one_body(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    chats = Chats(conn, pool)
    await chats.people(256)
    group = await chats.talk(*range(1, 257))
    assert await conn.fetchval("SELECT count(*) FROM broadcasts") == 1
    await chats.conversations.remove(1, group, 256)
    assert len({event["id"] for user in (1, 7, 256) for event in chats.told(user)}) == 2
    stored = await conn.fetchval("SELECT count(*) FROM inbox WHERE data IS NULL")
    assert stored == 512
    await chats.check()
    assert await audit(conn) == []


async def test_lists_are_newest_first_and_paged(chats: Chats) -> None:
    made = [await chats.talk(1, other) for other in range(2, 10)]
    await chats.say(3, made[1])
    await chats.say(1, made[4], "x" * 60)
    order = [made[4], made[1], *[each for each in reversed(made) if each not in (made[4], made[1])]]
    listed: list[str] = []
    cursor = None
    while True:
        page, seq = await chats.conversations.list(1, cursor, 3)
        assert seq == len(chats.told(1))
        listed += [row.conversation_id for row in page.conversations]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert listed == order
    row = (await chats.conversations.list(1, None, 1))[0].conversations[0]
    assert (row.last_message, row.last_number, row.unread_count, row.participant_ids) == ("x" * 50, 1, 0, [1, 6])
    assert (await chats.conversations.fetch(1, made[4]))[0] == row


async def test_pages_of_messages_are_newest_first(chats: Chats) -> None:
    pair = await chats.talk(1, 2)
    sent = [await chats.say(1 + number % 2, pair, str(number)) for number in range(7)]
    read: list[str] = []
    cursor = None
    while True:
        page, seq = await chats.conversations.list_messages(2, pair, cursor, 3)
        assert seq == len(chats.told(2))
        read += [row.message_id for row in page.messages]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert read == sent[::-1]
    last = (await chats.conversations.list_messages(2, pair, None, 1))[0].messages[0]
    live = [envelope["data"] for _, envelope, *_ in chats.live if envelope["id"] == sent[-1]]
    assert live[0]["content"] == last.content
    assert live[0].keys() == {"conversationId", "messageId", "number", "senderId", "senderUsername",
        "senderProfilePic", "content", "messageType", "mediaUrl", "timestamp"}  # fmt: skip


async def test_a_list_of_somebody_without_conversations_is_empty(chats: Chats) -> None:
    page, seq = await chats.conversations.list(9, None, 50)
    assert (page.conversations, page.next_cursor, seq) == ([], None, 0)
    pair = await chats.talk(1, 2)
    page_of_messages, _ = await chats.conversations.list_messages(1, pair, None, 50)
    assert (page_of_messages.messages, page_of_messages.next_cursor) == ([], None)


async def test_somebody_too_busy_is_unavailable(chats: Chats, dsn: str) -> None:
    other = await db.connect(dsn)
    held = other.transaction()
    await held.start()
    await heads.lock(other, [2])
    assert (await refused(chats.talk(1, 2)))[0] == "unavailable"
    await held.rollback()
    await other.close()
    await chats.talk(1, 2)


async def test_messages_and_changes_at_once(chats: Chats, conn: asyncpg.Connection) -> None:
    """People come and go while others write: nobody outside hears a message, and no deadlock is left unanswered."""
    group = await chats.talk(1, 2, 3, 4)

    async def change(turn: int) -> None:
        with contextlib.suppress(Refusal):
            await (chats.conversations.add if turn % 2 else chats.conversations.remove)(1, group, 3 + turn % 4)

    for turn in range(12):
        batch = [send(user, group) for user in (1, 2, 3, 4)]
        answers, _ = await asyncio.gather(chats.run(*batch), change(turn))
        assert all(answer in (None, "not_found") or answer["ok"] for answer in answers)
