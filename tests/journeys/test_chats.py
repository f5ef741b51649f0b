"""Spec 5 over real sockets: python-socketio's client on one side, the official JavaScript client on the other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.chats import Room
from tests.support.clients import Client
from tests.support.server import Answer
from tests.support.stage import Stage, action_id


class Person:
    """One of a journey's people: their HTTP, and what they send."""

    def __init__(self, stage: Stage, user: int) -> None:
        self.stage = stage
        self.id = user

    async def ask(self, method: str, path: str, body: object = None) -> Answer:
        return await self.stage.server.ask(method, path, body, token=self.stage.server.token(self.id))

    async def get(self, path: str) -> Any:
        answer = await self.ask("GET", path)
        assert answer.status == 200, answer
        return answer.body

    async def talk(self, *others: Person, title: str | None = None) -> str:
        body = {"participantIds": [other.id for other in others], **({"title": title} if title else {})}
        answer = await self.ask("POST", "/v1/conversations", body)
        assert answer.status == 200, answer
        return str(answer.body["conversationId"])


async def people(stage: Stage, count: int) -> list[Person]:
    return [Person(stage, await stage.person()) for _ in range(count)]


def text(conversation: str, content: str) -> dict[str, Any]:
    return {"conversationId": conversation, "messageType": "text", "content": content, "actionId": action_id()}


async def say(phone: Client, conversation: str, content: str) -> Any:
    return await phone.do("message:send", **text(conversation, content))


async def past(person: Person, *phones: Client) -> None:
    """Whatever was on its way to these phones of one person has come: a durable event comes behind it."""
    other = (await people(person.stage, 1))[0]
    conversation = await other.talk(person)
    for phone in phones:
        await phone.until(
            lambda phone=phone: any(
                event["data"]["conversationId"] == conversation for event in phone.events("conversation_changed")
            ),
            "the last event",
        )


async def test_two_phones_talk(stage: Stage) -> None:
    """A message, its preview, the open chat, the other devices, the read tick: line by line."""
    ann, ben = await people(stage, 2)
    phone, tablet = await stage.phone(ann.id, deviceId="phone"), await stage.js_phone(ann.id, deviceId="tablet")
    others, closed = await stage.js_phone(ben.id, deviceId="phone"), await stage.phone(ben.id, deviceId="tablet")
    pair = await ann.talk(ben)
    assert await ben.talk(ann) == pair
    assert await others.do("chat:open", conversationId=pair) == {"lastNumber": 0, "unreadCount": 0}

    ack = await say(phone, pair, "hello 👨‍👩‍👧‍👦")

    assert set(ack) == {"messageId", "number", "timestamp"}
    [preview] = await closed.told("message_preview")
    assert (await others.told("message_preview")) == [preview]
    assert (preview["eventType"], preview["data"]) == (
        "chat:message:sent",
        {
            "conversationId": pair, "number": 1, "lastMessage": "hello 👨‍👩‍👧‍👦", "lastMessageId": ack["messageId"],
            "senderId": ann.id, "senderUsername": f"user_{ann.id}", "senderProfilePic": None, "messageType": "text",
            "timestamp": ack["timestamp"], "unreadCount": 1,
        },
    )  # fmt: skip
    [live] = await others.told("message_received")
    assert (live["seq"], live["eventType"], live["recipientIds"]) == (None, "chat:message:received", [])
    assert await tablet.told("message_received") == [live], "the sender's other connection, chat open or not"
    page = await ben.get(f"/v1/conversations/{pair}/messages")
    assert page == {"messages": [live["data"]], "nextCursor": None}

    assert await others.do("message:read", conversationId=pair, messageId=ack["messageId"]) == {
        "number": 1, "unreadCount": 0,
    }  # fmt: skip
    [tick] = await phone.told("message_read")
    assert tick["eventType"] == "chat:message:read"
    assert (tick["data"]["readerId"], tick["data"]["messageId"], "unreadCount" in tick["data"]) == (
        ben.id, ack["messageId"], False,
    )  # fmt: skip
    [own] = await closed.told("message_read")
    assert own["data"]["unreadCount"] == 0
    await asyncio.gather(past(ann, phone, tablet), past(ben, others, closed))
    assert (phone.events("message_received"), closed.events("message_received")) == ([], [])
    assert phone.events("message_preview") == tablet.events("message_preview") == []


async def test_a_chat_that_was_closed_or_never_opened_hears_no_message(stage: Stage) -> None:
    ann, ben = await people(stage, 2)
    pair, other = await ann.talk(ben), await ann.talk(ben, title="another")
    writes, reads = await stage.js_phone(ann.id), await stage.phone(ben.id)
    await reads.do("chat:open", conversationId=pair)
    await say(writes, other, "elsewhere")
    await say(writes, pair, "here")
    assert await reads.do("chat:close", conversationId=pair) == {"conversationId": pair}
    assert await reads.do("chat:close", conversationId=pair) == {"conversationId": pair}
    await say(writes, pair, "too late")
    await reads.told("message_preview", 3)
    assert [event["data"]["content"] for event in reads.events("message_received")] == ["here"]
    assert await reads.do("chat:open", conversationId=pair) == {"lastNumber": 2, "unreadCount": 2}


async def test_a_member_who_is_removed_hears_no_more_even_with_the_chat_open(stage: Stage) -> None:
    ann, ben, eve = await people(stage, 3)
    group = await ann.talk(ben, eve)
    writes, reads, spies = await stage.phone(ann.id), await stage.js_phone(ben.id), await stage.js_phone(eve.id)
    for phone in (reads, spies):
        await phone.do("chat:open", conversationId=group)
    await say(writes, group, "all of you")
    await spies.told("message_received")
    sending = [asyncio.create_task(say(writes, group, f"{number}")) for number in range(20)]
    assert (await ann.ask("DELETE", f"/v1/conversations/{group}/participants/{eve.id}")).status == 204
    after = await say(writes, group, "without eve")
    await asyncio.gather(*sending)
    await reads.told("message_received", 22)
    await past(eve, spies)
    number = next(
        event["data"]["lastNumber"]
        for event in spies.events("conversation_changed")
        if eve.id not in event["data"]["participantIds"]
    )
    assert after["number"] > number
    for type_, name in (("message_received", "number"), ("message_preview", "number")):
        assert [event["data"][name] for event in spies.events(type_)] == list(range(1, number + 1))
    await spies.fail("not_found", "chat:open", {"conversationId": group})
    await spies.fail("not_found", "message:send", text(group, "let me in"))
    assert (await eve.ask("GET", f"/v1/conversations/{group}/messages")).status == 404


async def test_who_opens_a_chat_sees_a_hole_and_fetches(stage: Stage) -> None:
    ann, ben = await people(stage, 2)
    pair = await ann.talk(ben)
    writes = await stage.phone(ann.id)
    for number in range(3):
        await say(writes, pair, str(number))
    reads = await stage.js_phone(ben.id)
    standing = await reads.do("chat:open", conversationId=pair)
    assert standing == {"lastNumber": 3, "unreadCount": 3}
    await say(writes, pair, "3")
    [live] = await reads.told("message_received")
    assert live["data"]["number"] == 4
    page = await ben.get(f"/v1/conversations/{pair}/messages?limit=2")
    rest = await ben.get(f"/v1/conversations/{pair}/messages?limit=2&cursor={page['nextCursor']}")
    rows = [*page["messages"], *rest["messages"]]
    assert ([row["number"] for row in rows], rest["nextCursor"]) == ([4, 3, 2, 1], None)


async def test_one_message_through_both_doors_exists_once(stage: Stage) -> None:
    ann, ben = await people(stage, 2)
    pair = await ann.talk(ben)
    phone = await stage.phone(ann.id)
    body = text(pair, "once")
    ack = await phone.call("message:send", body)
    again = await ann.ask("POST", "/v1/actions/message:send", body)
    posted = {name: value for name, value in body.items() if name != "conversationId"}
    third = await ann.ask("POST", f"/v1/conversations/{pair}/messages", posted)
    assert again.body == third.body == {**ack, "replayed": True}
    assert (await ann.ask("GET", f"/v1/actions/{body['actionId']}")).body == ack
    other = await ann.ask("POST", f"/v1/conversations/{pair}/messages", {**posted, "content": "twice"})
    assert (other.status, other.body["code"]) == (409, "idempotency_conflict")
    fresh = await ann.ask("POST", f"/v1/conversations/{pair}/messages", {**posted, "actionId": action_id()})
    assert (fresh.status, fresh.body["data"]["number"]) == (200, 2)
    await phone.told("message_received")  # what came through another door
    read = {"conversationId": pair, "messageId": ack["data"]["messageId"]}
    assert (await ben.ask("POST", "/v1/actions/message:read", read)).body == {
        "ok": True, "data": {"number": 1, "unreadCount": 1},
    }  # fmt: skip


async def test_a_phone_that_was_away_has_the_same_list(stage: Stage) -> None:
    """Old list + events + own acknowledgements = fresh list, over a resume, with groups, joins and leaves."""
    ann, ben, eve = await people(stage, 3)
    pair = await ann.talk(ben)
    writes, phone = await stage.phone(ann.id), await stage.js_phone(ben.id, follow=True)
    await say(writes, pair, "before")
    await phone.told("message_preview")
    room = Room(ben.id)
    answer = await ben.ask("GET", "/v1/conversations")
    room.rows = {row.pop("conversationId"): row for row in answer.body["conversations"]}
    since = int(answer.headers["X-Inbox-Seq"])
    await phone.caught_up(since)
    await phone.close()
    await stage.gone(ben.id)

    group, left = await ann.talk(ben, eve, title="trip"), await ann.talk(ben, eve)
    for number in range(3):
        await say(writes, group, f"{number} " + "x" * 60)
        await say(writes, pair, f"{number}")
        await say(writes, left, "bye")
    last = (await ben.get(f"/v1/conversations/{pair}/messages?limit=1"))["messages"][0]
    tablet = await ben.ask("POST", "/v1/actions/message:read", {"conversationId": pair, "messageId": last["messageId"]})
    assert tablet.body["data"]["unreadCount"] == 0
    assert (await ben.ask("DELETE", f"/v1/conversations/{left}/participants/{ben.id}")).status == 204

    back = await stage.phone(ben.id, lastSeq=str(since), epoch=phone.welcome["epoch"])
    for event in back.events():
        if event["seq"] is not None:
            room.hear(event)
    fresh = await ben.get("/v1/conversations")
    assert room.rows == {row.pop("conversationId"): row for row in fresh["conversations"]}
    assert {len(row["participantIds"]) for row in room.rows.values()} == {2, 3}


async def test_groups_over_http(stage: Stage) -> None:
    ann, ben, eve, stranger = await people(stage, 4)
    group = await ann.talk(ben, title="us")
    place = f"/v1/conversations/{group}/participants"
    for who, method, whom, status, code in (
        (stranger, "PUT", eve, 404, "not_found"),
        (ben, "PUT", eve, 204, None),
        (ben, "PUT", eve, 204, None),
        (ben, "DELETE", eve, 403, "forbidden"),
        (ann, "DELETE", eve, 204, None),
        (ben, "DELETE", ben, 204, None),
        (ben, "DELETE", ben, 404, "not_found"),
    ):
        answer = await who.ask(method, f"{place}/{whom.id}")
        assert (answer.status, answer.body and answer.body["code"]) == (status, code)
    row = await ann.get(f"/v1/conversations/{group}")
    assert row == {
        "conversationId": group, "participantIds": [ann.id], "title": "us", "lastMessage": None, "lastMessageId": None,
        "lastMessageAt": None, "lastNumber": 0, "unreadCount": 0,
    }  # fmt: skip
    pair = await ann.talk(ben)
    answer = await ann.ask("DELETE", f"/v1/conversations/{pair}/participants/{ann.id}")
    assert (answer.status, answer.body["code"]) == (409, "conflict")
    answer = await ann.ask("PUT", f"{place}/0")
    assert (answer.status, answer.body["code"], answer.body["field"]) == (400, "invalid_payload", "userId")


async def test_blocking_over_http(stage: Stage) -> None:
    ann, ben = await people(stage, 2)
    pair = await ann.talk(ben)
    phone = await stage.phone(ben.id)
    for _ in range(2):
        assert (await ann.ask("PUT", f"/v1/blocks/{ben.id}")).status == 204
    error = await phone.fail("not_found", "message:send", text(pair, "hi"))
    assert error["field"] == "conversationId"
    for _ in range(2):
        assert (await ann.ask("DELETE", f"/v1/blocks/{ben.id}")).status == 204
    await say(phone, pair, "hi")
    assert (await ann.ask("PUT", f"/v1/blocks/{ann.id}")).status == 403
    assert (await ann.ask("PUT", "/v1/blocks/9007199254740992")).status == 400


async def test_a_connection_has_so_many_chats_and_topics_open(stage: Stage) -> None:
    ann, ben = await people(stage, 2)
    pair = await ann.talk(ben)
    phone = await stage.phone(ann.id)
    await phone.do("chat:open", conversationId=pair)
    await asyncio.gather(*(phone.call("topic:subscribe", {"topic": f"live:{n}"}) for n in range(99)))
    await asyncio.sleep(0.2)  # a hundred used the user's rate up
    await phone.fail("conflict", "topic:subscribe", {"topic": "live:one-more"})
    group = await ann.talk(ben, title="us")
    assert (await phone.fail("conflict", "chat:open", {"conversationId": group}))["field"] == "conversationId"
    await phone.do("chat:open", conversationId=pair)


async def test_a_chat_is_no_topic_to_name(stage: Stage) -> None:
    ann, ben = await people(stage, 2)
    pair = await ann.talk(ben)
    phone, writes = await stage.phone(ann.id), await stage.phone(ben.id)
    await phone.fail("not_found", "topic:subscribe", {"topic": f"chat:{pair}"})
    await phone.do("chat:open", conversationId=pair)
    await phone.do("topic:unsubscribe", topic=f"chat:{pair}")
    await say(writes, pair, "still there?")
    await phone.told("message_received")
    answer = await stage.server.ask(
        "POST", "/v1/events", {"id": action_id(), "type": "x", "topic": f"chat:{pair}", "data": {}}
    )
    assert answer.status == 400


MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("message:send", {"messageType": "text", "content": "x", "actionId": "action-1"}, "conversationId"),
    ("message:send", {"conversationId": "c", "messageType": "text", "content": "x"}, "actionId"),
    ("message:send", {"conversationId": "c", "messageType": "text", "actionId": "action-1"}, "content"),
    ("message:send", {"conversationId": "c", "messageType": "text", "content": 7, "actionId": "action-1"}, "content"),
    ("message:send", {"conversationId": "c", "messageType": "text", "content": " ", "actionId": "action-1"}, "content"),
    ("message:send", {"conversationId": "c", "messageType": "image", "actionId": "action-1"}, "mediaUrl"),
    ("message:send", {"conversationId": "c", "messageType": "poem", "actionId": "action-1"}, "messageType"),
    ("message:read", {"conversationId": "c"}, "messageId"),
    ("message:read", {"messageId": "m"}, "conversationId"),
    ("message:read", {"conversationId": "c", "messageId": "m", "actionId": "action-1"}, "actionId"),
    ("message:read", {"conversationId": "c", "messageId": 7}, "messageId"),
    ("chat:open", {}, "conversationId"),
    ("chat:open", {"conversationId": ""}, "conversationId"),
    ("chat:open", {"conversationId": "x" * 65}, "conversationId"),
    ("chat:close", {"conversationId": 7}, "conversationId"),
]


@pytest.mark.parametrize(("event", "payload", "field"), MALFORMED, ids=str)
async def test_what_is_malformed_names_its_field(stage: Stage, event: str, payload: dict[str, Any], field: str) -> None:
    phone = await stage.phone(await stage.person())
    assert (await phone.fail("invalid_payload", event, payload))["field"] == field


BODIES: list[tuple[str, str, object, str]] = [
    ("POST", "", {}, "participantIds"),
    ("POST", "", {"participantIds": []}, "participantIds"),
    ("POST", "", {"participantIds": ["7"]}, "participantIds"),
    ("POST", "", {"participantIds": [0]}, "participantIds"),
    ("POST", "", {"participantIds": list(range(1, 258))}, "participantIds"),
    ("POST", "", {"participantIds": [7], "title": ""}, "title"),
    ("POST", "", {"participantIds": [7], "title": "a\0b"}, "title"),
    ("POST", "", {"participantIds": [7], "actionId": "action-1"}, "actionId"),
    ("POST", "/c/messages", {"messageType": "text", "content": "x"}, "actionId"),
    (
        "POST", "/c/messages",
        {"messageType": "text", "content": "x", "actionId": "action-1", "conversationId": "d"}, "conversationId",
    ),
    ("GET", "?limit=0", None, "limit"),
    ("GET", "?limit=101", None, "limit"),
    ("GET", "?cursor=7", None, "cursor"),
    ("GET", "/c/messages?cursor=x", None, "cursor"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "field"), BODIES, ids=str)
async def test_over_http_too(stage: Stage, method: str, path: str, body: object, field: str) -> None:
    person = Person(stage, await stage.person())
    answer = await person.ask(method, f"/v1/conversations{path}", body)
    assert (answer.status, answer.body["code"], answer.body["field"]) == (400, "invalid_payload", field)


async def test_a_backend_has_no_chats(stage: Stage) -> None:
    for method, path, body in (
        ("GET", "/v1/conversations", None),
        ("POST", "/v1/conversations", {"participantIds": [7]}),
        ("PUT", "/v1/blocks/7", None),
    ):
        answer = await stage.server.ask(method, path, body)
        assert (answer.status, answer.body["code"]) == (404, "not_found")


async def test_a_large_group_hears_of_the_newest_within_a_moment(stage: Stage) -> None:
    """Previews and reads are gathered; whoever looks at the chat hears each message at once."""
    crowd = await people(stage, 18)
    ann, ben, eve = crowd[:3]
    group = await ann.talk(*crowd[1:], title="all")
    writes, reads, waits = await stage.js_phone(ann.id), await stage.phone(ben.id), await stage.js_phone(eve.id)
    await reads.do("chat:open", conversationId=group)
    acks = [await say(writes, group, f"text {number}") for number in range(10)]
    heard = await reads.told("message_received", 10)
    assert [event["data"]["number"] for event in heard] == list(range(1, 11))
    await reads.do("message:read", conversationId=group, messageId=acks[-1]["messageId"])
    await waits.until(
        lambda: any(event["data"]["number"] == 10 for event in waits.events("message_preview")), "the newest"
    )
    assert waits.events("message_preview")[-1]["data"]["unreadCount"] == 10
    assert len(waits.events("message_preview")) < 10
    [tick] = await waits.told("message_read")
    assert (tick["data"]["readerId"], tick["data"]["messageId"]) == (ben.id, acks[-1]["messageId"])
    assert (await eve.get(f"/v1/conversations/{group}"))["unreadCount"] == 10
