"""Typing over real sockets: who is shown it, and everything that ends it."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from storage.audit import audit
from tests.journeys.test_chats import past, people, say
from tests.support.clients import Client
from tests.support.pair import pair
from tests.support.stage import Stage, action_id


def shown(client: Client) -> list[bool]:
    """What a client was shown, on or off."""
    return [event["data"]["isTyping"] for event in client.events("typing_indicator")]


@pytest.mark.parametrize(
    "end", ["typing:stop", "chat:close", "message:send", "a message over HTTP", "disconnect", "time"]
)
async def test_the_others_are_shown_typing_until_it_ends(stage: Stage, end: str) -> None:
    ann, ben = await people(stage, 2)
    phone, tablet, others = await stage.phone(ann.id), await stage.js_phone(ann.id), await stage.js_phone(ben.id)
    pair = await ann.talk(ben)
    assert await phone.do("typing:start", conversationId=pair) == {"conversationId": pair}
    await others.until(lambda: shown(others) == [True], "typing")
    [event] = others.events("typing_indicator")
    assert (event["seq"], event["eventType"], event["recipientIds"]) == (None, "chat:typing:started", [])
    assert event["data"] == {
        "conversationId": pair, "userId": ann.id, "username": f"user_{ann.id}", "isTyping": True,
    }  # fmt: skip
    if end == "message:send":
        await say(tablet, pair, "so")
    elif end == "a message over HTTP":
        body = {"messageType": "text", "content": "so", "actionId": action_id()}
        assert (await ann.ask("POST", f"/v1/conversations/{pair}/messages", body)).status == 200
    elif end == "disconnect":
        await phone.close()
    elif end != "time":
        await phone.do(end, conversationId=pair)
    await others.until(lambda: shown(others) == [True, False], "typing no more")
    await past(ann, tablet)
    assert shown(tablet) == []


async def test_nobody_else_is_shown_it_nor_whoever_is_blocked(stage: Stage) -> None:
    ann, ben, eve = await people(stage, 3)
    phone, others, ear = await stage.phone(ann.id), await stage.phone(ben.id), await stage.phone(eve.id)
    pair, strangers = await ann.talk(ben), await ben.talk(eve)
    for event in ("typing:start", "typing:stop"):
        assert (await phone.fail("not_found", event, {"conversationId": strangers}))["field"] == "conversationId"
        for payload in ({}, {"conversationId": ""}, {"conversationId": pair, "userId": ben.id}):
            await phone.fail("invalid_payload", event, payload)
    assert (await ben.ask("PUT", f"/v1/blocks/{ann.id}")).status == 204
    await phone.do("typing:start", conversationId=pair)
    for person, client in ((ben, others), (eve, ear)):
        await past(person, client)
        assert shown(client) == []


async def test_it_is_shown_on_another_node(
    dsn: str, conn: asyncpg.Connection, tmp_path: Path, bus: dict[str, object]
) -> None:
    async with pair(dsn, tmp_path, **bus) as nodes:
        phone, others = await nodes.phone(1, 0), await nodes.phone(2, 1)
        answer = await nodes.ask("POST", "/v1/conversations", {"participantIds": [2]}, user=1)
        chat = answer.body["conversationId"]
        ends = ("typing:stop", "time", "disconnect")
        for number, end in enumerate(ends):
            await phone.do("typing:start", conversationId=chat)
            await others.told("typing_indicator", 2 * number + 1)
            if end == "disconnect":
                await phone.close()
            elif end != "time":
                await phone.do(end, conversationId=chat)
            await others.told("typing_indicator", 2 * number + 2)
        assert shown(others) == [True, False] * len(ends)
    assert await audit(conn) == []
