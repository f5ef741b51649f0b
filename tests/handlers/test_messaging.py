"""Batches of messages and read pointers on the real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from handlers.messaging import handler as messaging
from handlers.messaging.ids import direct_id, number_of
from storage import db, heads
from storage.audit import audit
from tests.support.chats import Chats, send
from tests.support.deeds import run_batch


@pytest.fixture
async def chats(conn: asyncpg.Connection, pool: asyncpg.Pool) -> AsyncIterator[Chats]:
    """Ten people. Whatever a test does, lists are what events made them, and the books are right."""
    made = Chats(conn, pool)
    await made.people(10)
    await conn.execute("UPDATE users SET picture_url = 'https://x/' || id WHERE id = 1")
    yield made
    await made.check()
    assert await audit(conn) == []


async def test_a_message_is_acknowledged_stored_and_told(chats: Chats, conn: asyncpg.Connection) -> None:
    pair = await chats.talk(1, 2)
    deed = send(1, pair, "hello there")
    [ack] = await chats.data(deed)
    assert (ack["number"], number_of(ack["messageId"])) == (1, 1)
    [preview] = chats.told(2, "message_preview")
    assert (preview["seq"], preview["eventType"], preview["recipientIds"]) == (2, "chat:message:sent", [2])
    assert preview["data"] == {
        "conversationId": pair, "number": 1, "lastMessage": "hello there", "lastMessageId": ack["messageId"],
        "senderId": 1, "senderUsername": "user_1", "senderProfilePic": "https://x/1", "messageType": "text",
        "timestamp": ack["timestamp"], "unreadCount": 1,
    }  # fmt: skip
    assert chats.told(1, "message_preview") == []
    whole = {
        "conversationId": pair, "messageId": ack["messageId"], "number": 1, "senderId": 1, "senderUsername": "user_1",
        "senderProfilePic": "https://x/1", "content": "hello there", "messageType": "text", "mediaUrl": None,
        "timestamp": ack["timestamp"],
    }  # fmt: skip
    envelope = {
        "id": ack["messageId"], "seq": None, "type": "message_received", "eventType": "chat:message:received",
        "recipientIds": [], "data": whole, "timestamp": ack["timestamp"],
    }  # fmt: skip
    assert chats.live == [([2], envelope, f"chat:{pair}", None), ([1], envelope, None, deed.order_key)]
    row = await conn.fetchrow("SELECT * FROM messages")
    assert (str(row["id"]), str(row["conversation_id"]), row["number"], row["sender_id"], row["content"]) == (
        ack["messageId"], pair, 1, 1, "hello there",
    )  # fmt: skip
    kept = await conn.fetchrow("SELECT last_message_text, last_message_at, last_number FROM conversations")
    assert (kept["last_message_text"], kept["last_message_at"], kept["last_number"]) == (
        "hello there", row["created_at"], 1,
    )  # fmt: skip


async def test_numbers_are_gapless_in_the_order_sent(chats: Chats, conn: asyncpg.Connection) -> None:
    pair, trio = await chats.talk(1, 2), await chats.talk(1, 2, 3)
    acks = await chats.data(send(1, pair), send(2, trio), send(2, pair), send(1, pair), send(3, trio))
    assert [ack["number"] for ack in acks] == [1, 1, 2, 3, 2]
    [ack] = await chats.data(send(2, pair))
    assert ack["number"] == 4
    assert [event["data"]["unreadCount"] for event in chats.told(2, "message_preview")] == [1, 2, 1]
    assert [event["data"]["unreadCount"] for event in chats.told(3, "message_preview")] == [1]


async def test_only_who_takes_part_writes(chats: Chats, conn: asyncpg.Connection) -> None:
    pair = await chats.talk(1, 2)
    answers = await chats.run(
        send(3, pair), send(1, direct_id(1, 3)), send(1, "nothing"), send(1, "x" * 64), send(1, pair.upper())
    )
    assert answers == ["not_found"] * 5
    assert await conn.fetchval("SELECT count(*) FROM messages") == 0
    assert await conn.fetchval("SELECT count(*) FROM requests") == 0, "what is not found leaves no trace"


async def test_a_key_sends_once(chats: Chats, conn: asyncpg.Connection) -> None:
    group = await chats.talk(1, 2, 3)
    body = {"content": "once", "action_id": "the-key-1"}
    first, again, other = await chats.run(
        send(2, group, **body), send(2, group, **body), send(2, group, "twice", action_id="the-key-1")
    )
    assert again == {**first, "replayed": True}
    assert other == "idempotency_conflict"
    await chats.conversations.remove(1, group, 2)
    assert await chats.run(send(2, group, **body)) == [again], "also to who does not take part any more"
    assert await conn.fetchval("SELECT count(*) FROM messages") == 1
    assert len(chats.told(3, "message_preview")) == 1
    assert len(chats.live) == 2


async def test_media_have_a_name_and_a_caption(chats: Chats) -> None:
    pair = await chats.talk(1, 2)
    await chats.say(1, pair, "look", messageType="image", mediaUrl="https://x/1.jpg")
    await chats.say(1, pair, messageType="sticker", mediaUrl="https://x/2.webp", content=None)
    shown = [(event["data"]["lastMessage"], event["data"]["messageType"]) for event in chats.told(2, "message_preview")]
    assert shown == [("📷 Photo", "image"), ("Sticker", "sticker")]
    page, _ = await chats.conversations.list_messages(2, pair, None, 50)
    assert [(row.content, row.media_url) for row in page.messages] == [
        (None, "https://x/2.webp"), ("look", "https://x/1.jpg"),
    ]  # fmt: skip


async def test_a_list_shows_whole_characters(chats: Chats) -> None:
    pair = await chats.talk(1, 2)
    await chats.say(1, pair, "👨‍👩‍👧‍👦" * 60)
    assert chats.told(2, "message_preview")[0]["data"]["lastMessage"] == "👨‍👩‍👧‍👦" * 50


async def test_who_was_just_added_is_waited_for(chats: Chats) -> None:
    """Their head is not locked, so that the message goes into the next batch, and reaches them, too."""
    group = await chats.talk(1, 2, title="all")
    waits = send(2, group)
    behind = send(2, group)
    other = send(1, await chats.talk(1, 3))
    answers = await chats.run(waits, behind, other, meanwhile=chats.conversations.add(1, group, 4))
    assert [answer is None for answer in answers] == [True, True, False]
    assert [ack["number"] for ack in await chats.data(waits, behind)] == [1, 2]
    assert len(chats.told(4, "message_preview")) == 2


async def test_who_was_just_removed_hears_nothing(chats: Chats) -> None:
    group = await chats.talk(1, 2, 3)
    first, second = await chats.run(send(2, group), send(3, group), meanwhile=chats.conversations.remove(1, group, 3))
    assert (first["ok"], second) == (True, "not_found")
    assert chats.told(3, "message_preview") == []
    assert [users for users, *_ in chats.live] == [[1], [2]]


async def test_whose_heads_or_conversations_are_held_wait_with_what_comes_behind(
    chats: Chats, conn: asyncpg.Connection, dsn: str
) -> None:
    pair, group, free = await chats.talk(1, 2), await chats.talk(3, 4, 5), await chats.talk(6, 7)
    other = await db.connect(dsn)
    held = other.transaction()
    await held.start()
    await heads.lock(other, [2])
    await heads.lock_conversations(other, [group])
    deeds = send(1, pair), send(1, free), send(3, group), send(6, free), send(7, "nothing")
    await conn.execute("SET lock_timeout = '50ms'")
    with pytest.raises(asyncpg.LockNotAvailableError):
        await chats.run(*deeds)
    with pytest.raises(asyncpg.LockNotAvailableError):
        await chats.run(*deeds, skip_locked=True)  # the conversation's: the lane runs it once more
    answers = await chats.run(*deeds, skip_locked=True)
    assert [answer if isinstance(answer, str) else answer and answer["ok"] for answer in answers] == [
        None, None, None, True, "not_found",
    ]  # fmt: skip
    await held.rollback()
    await other.close()
    assert [answer["ok"] for answer in await chats.run(deeds[0], deeds[2])] == [True, True]
    assert await chats.run(deeds[1]) == ["not_found"]


async def test_a_batch_tells_so_many_and_the_rest_waits(chats: Chats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messaging, "MOST_TOLD", 5)
    trio = await chats.talk(1, 2, 3)
    deeds = [send(1 + number % 3, trio, str(number)) for number in range(8)]
    answers = await chats.run(*deeds)
    assert [answer is not None for answer in answers] == [True] * 3 + [False] * 5
    assert [ack["number"] for ack in await chats.data(*deeds[3:6])] == [4, 5, 6]
    assert [ack["number"] for ack in await chats.data(*deeds[6:])] == [7, 8]


async def test_two_nodes_number_one_conversation_together(
    chats: Chats, pool: asyncpg.Pool, dsn: str, conn: asyncpg.Connection
) -> None:
    pair, group = await chats.talk(1, 2), await chats.talk(1, 2, 3, 4)
    others = [await db.connect(dsn) for _ in range(3)]

    async def node(place: int) -> None:
        for turn in range(15):
            speakers = [1 + (place + turn) % 2, 1 + (place + turn) % 4, 1 + turn % 4]
            deeds = [send(speakers[0], pair), send(speakers[1], group), send(speakers[2], group)]
            chats.take(await run_batch(others[place], chats.handler, deeds))

    await asyncio.gather(*(node(place) for place in range(3)))
    for other in others:
        await other.close()
    for conversation, count in ((pair, 45), (group, 90)):
        rows = await conn.fetch("SELECT number FROM messages WHERE conversation_id = $1 ORDER BY 1", conversation)
        assert [row["number"] for row in rows] == list(range(1, count + 1))


async def test_nothing_of_a_message_is_logged(chats: Chats, capfd: pytest.CaptureFixture[str]) -> None:
    pair = await chats.talk(1, 2)
    await chats.say(1, pair, "the secret")
    assert "the secret" not in "".join(capfd.readouterr())


def data_of(events: list[Any]) -> list[Any]:
    """Their data without the time."""
    return [{name: value for name, value in event["data"].items() if name != "timestamp"} for event in events]
