"""Chats across two nodes on one database: one order that all see, and open chats wherever they are."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg

from storage.audit import audit
from tests.support.clients import JsPhone
from tests.support.pair import Pair, pair
from tests.support.stage import action_id


async def talk(nodes: Pair, *people: int, **fields: Any) -> str:
    answer = await nodes.ask("POST", "/v1/conversations", {"participantIds": people, **fields}, user=people[0])
    assert answer.status == 200, answer
    return str(answer.body["conversationId"])


async def say(phone: JsPhone, conversation: str, content: str) -> Any:
    return await phone.do(
        "message:send", conversationId=conversation, messageType="text", content=content, actionId=action_id()
    )


async def test_two_people_on_two_nodes_have_one_order(
    dsn: str, conn: asyncpg.Connection, tmp_path: Path, bus: dict[str, object]
) -> None:
    async with pair(dsn, tmp_path, **bus) as nodes:
        ann, ben = await nodes.phone(1, 0), await nodes.phone(2, 1)
        conversation = await talk(nodes, 1, 2)
        for phone in (ann, ben):
            await phone.do("chat:open", conversationId=conversation)
        texts = [f"{name} {number}" for name in ("ann", "ben") for number in range(30)]
        acks = await asyncio.gather(*(say(ann if text[0] == "a" else ben, conversation, text) for text in texts))
        numbers = {text: ack["number"] for text, ack in zip(texts, acks, strict=True)}
        assert sorted(numbers.values()) == list(range(1, 61))
        for phone, other in ((ann, "ben"), (ben, "ann")):
            heard = await phone.told("message_received", 30)
            assert {event["data"]["content"]: event["data"]["number"] for event in heard} == {
                text: number for text, number in numbers.items() if text.startswith(other)
            }
            previews = [event["data"]["number"] for event in await phone.told("message_preview", 30)]
            assert previews == sorted(previews)
        pages = []
        for node in (0, 1):
            answer = await nodes.ask("GET", f"/v1/conversations/{conversation}/messages?limit=100", user=1, node=node)
            pages.append([(row["number"], row["content"]) for row in answer.body["messages"]])
        assert pages[0] == pages[1] == sorted(((number, text) for text, number in numbers.items()), reverse=True)
        last = max(acks, key=lambda ack: ack["number"])
        await ben.do("message:read", conversationId=conversation, messageId=last["messageId"])
        [tick] = await ann.told("message_read")
        assert tick["data"]["readerId"] == 2
    assert await audit(conn) == []


async def test_a_member_removed_on_one_node_hears_nothing_on_the_other(
    dsn: str, conn: asyncpg.Connection, tmp_path: Path, bus: dict[str, object]
) -> None:
    async with pair(dsn, tmp_path, **bus) as nodes:
        ann, ben, eve = await nodes.phone(1, 0), await nodes.phone(2, 1), await nodes.phone(3, 1)
        tablet = await nodes.phone(1, 1)
        group = await talk(nodes, 1, 2, 3)
        for phone in (ben, eve):
            await phone.do("chat:open", conversationId=group)
        await say(ann, group, "all of you")
        for phone in (ben, eve, tablet):
            await phone.told("message_received")
        assert (await nodes.ask("DELETE", f"/v1/conversations/{group}/participants/3", user=1, node=1)).status == 204
        await say(ann, group, "without eve")
        for phone in (ben, tablet):
            heard = await phone.told("message_received", 2)
            assert [event["data"]["content"] for event in heard] == ["all of you", "without eve"]
        direct = await talk(nodes, 1, 3)
        await eve.do("chat:open", conversationId=direct)
        await say(ann, direct, "sorry")
        await eve.told("message_received", 2)
        heard = [event["data"]["content"] for event in eve.events("message_received")]
        assert heard == ["all of you", "sorry"]
    assert await audit(conn) == []
