"""Live topics: what backends publish reaches whoever listens now, once, on every connection."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from tests.support.clients import Client
from tests.support.stage import VIEWER, Stage, action_id


async def _publish(stage: Stage, topic: str, event_id: str, data: dict[str, Any] | None = None, **more: Any) -> Any:
    body = {"id": event_id, "type": "live_counter", "topic": topic, "data": data or {"n": 1}, **more}
    return await stage.server.ask("POST", "/v1/events", body)


async def _past(stage: Stage, topic: str, *clients: Client) -> None:
    """Everything published so far has reached these: a last event comes behind it."""
    last = action_id()
    assert (await _publish(stage, topic, last, {"last": True})).status == 200
    for client in clients:
        await client.until(lambda client=client: any(event["id"] == last for event in client.events()), last)


async def test_an_event_reaches_all_who_listen_with_the_same_bytes(stage: Stage) -> None:
    topic = f"live:{action_id()}"
    phone = await stage.phone(await stage.person())
    browser = await stage.js_phone(await stage.person())
    deaf = await stage.phone(await stage.person())
    for client in (phone, browser):
        assert await client.do("topic:subscribe", topic=topic) == {"topic": topic}
        assert await client.do("topic:subscribe", topic=topic) == {"topic": topic}, "again changes nothing"

    answer = await _publish(stage, topic, "score-1", {"home": 1}, eventType="match:score")

    assert (answer.status, answer.body) == (200, {"accepted": 0, "skipped": 0})
    await _past(stage, topic, phone, browser)
    event = phone.events()[0]
    assert event == {
        "id": "score-1", "seq": None, "type": "live_counter", "eventType": "match:score", "recipientIds": [],
        "data": {"home": 1}, "timestamp": event["timestamp"],
    }  # fmt: skip
    assert phone.events() == browser.events()
    assert len(phone.events()) == 2
    assert deaf.events() == []


async def test_a_repeat_sends_nothing_and_another_body_is_a_conflict(stage: Stage) -> None:
    topic = f"live:{action_id()}"
    phone = await stage.phone(await stage.person())
    await phone.do("topic:subscribe", topic=topic)
    event_id = action_id()

    first = await _publish(stage, topic, event_id)
    again = await _publish(stage, topic, event_id)
    named = await _publish(stage, topic, event_id, source="backend")
    other = await _publish(stage, topic, event_id, {"n": 2})
    elsewhere = await _publish(stage, topic, event_id, {"n": 3}, source="elsewhere")

    assert [answer.status for answer in (first, again, named, other, elsewhere)] == [200, 200, 200, 409, 200]
    assert first.body == again.body
    assert other.body["code"] == "idempotency_conflict"
    await _past(stage, topic, phone)
    assert [event["data"] for event in phone.events()] == [{"n": 1}, {"n": 3}, {"last": True}]


async def test_who_unsubscribes_or_leaves_hears_no_more(stage: Stage) -> None:
    topic = f"live:{action_id()}"
    staying, leaving, gone = [await stage.phone(await stage.person()) for _ in range(3)]
    for phone in (staying, leaving, gone):
        await phone.do("topic:subscribe", topic=topic)
    assert await leaving.do("topic:unsubscribe", topic=topic) == {"topic": topic}
    assert await leaving.do("topic:unsubscribe", topic=topic) == {"topic": topic}
    await gone.close()

    await _past(stage, topic, staying)

    assert (await leaving.call("wallet:get", {}))["ok"]
    assert (leaving.events(), gone.events()) == ([], [])


async def test_watchers_of_a_video_see_its_totals_grow(stage: Stage) -> None:
    video = await stage.video(await stage.person())
    phone, browser = await stage.phone(await stage.person()), await stage.js_phone(await stage.person())
    other = await stage.video(await stage.person())
    for client in (phone, browser):
        assert await client.do("topic:subscribe", topic=f"video:{video}") == {"topic": f"video:{video}"}

    for event, more in (("video:like", {}), ("video:view", {}), ("video:comment", {"text": "!"}), ("video:share", {})):
        await phone.do(event, videoId=video, actionId=action_id(), **more)
    await phone.do("video:like", videoId=other, actionId=action_id())

    def totals(client: Client) -> list[Any]:
        return [event["data"] for event in client.events() if event["type"] == "video_totals"]

    last = {"videoId": video, "totalLikes": 1, "totalViews": 1, "totalShares": 1, "totalComments": 1}
    for client in (phone, browser):
        await client.until(lambda client=client: last in totals(client), "the last totals")
        heard = totals(client)
        assert heard[-1] == last
        assert {row["videoId"] for row in heard} == {video}
        assert all(a["totalLikes"] <= b["totalLikes"] for a, b in pairwise(heard))
    [event] = [event for event in phone.events() if event["data"] == last]
    assert (event["seq"], event["eventType"], event["recipientIds"]) == (None, "notification:video_totals", [])

    await phone.do("topic:unsubscribe", topic=f"video:{video}")
    before = len(totals(phone))
    await browser.do("video:like", videoId=video, actionId=action_id())
    await browser.until(lambda: totals(browser)[-1]["totalLikes"] == 2, "another like")
    assert len(totals(phone)) == before


async def test_a_late_watcher_is_told_without_a_change(stage: Stage) -> None:
    video = await stage.video(await stage.person())
    first, late = await stage.phone(await stage.person()), await stage.phone(await stage.person())
    await first.do("topic:subscribe", topic=f"video:{video}")
    await first.until(lambda: len(first.events()) == 1, "the totals")
    await late.do("topic:subscribe", topic=f"video:{video}")
    await late.until(lambda: len(late.events()) == 1, "the totals")


async def test_only_live_topics_are_open(stage: Stage) -> None:
    phone = await stage.phone(await stage.person())
    for topic in (
        "live:",
        "campaign:1",
        "user:7",
        "video:",
        "video:none",
        "chat:1",
        "video:" + "x" * 65,
        "LIVE:x",
        "live:a b",
        "live:" + "x" * 65,
    ):
        assert (await phone.fail("not_found", "topic:subscribe", {"topic": topic}))["field"] == "topic"
    for payload in ({}, {"topic": ""}, {"topic": 7}, {"topic": "live:x", "room": "7"}):
        await phone.fail("invalid_payload", "topic:subscribe", payload)
    assert (await _publish(stage, "video:1", action_id())).body["code"] == "invalid_payload"


async def test_a_connection_listens_to_so_many_topics(stage: Stage) -> None:
    phone = await stage.phone(await stage.person())
    answers = await asyncio.gather(*(phone.call("topic:subscribe", {"topic": f"live:{n}"}) for n in range(100)))
    assert all(answer["ok"] for answer in answers)
    while (answer := await phone.call("topic:subscribe", {"topic": "live:one-more"}))["error"]["code"] != "conflict":
        await asyncio.sleep(answer["error"]["retryAfterMs"] / 1000)  # a hundred used the user's rate up
    await asyncio.sleep(0.1)
    assert (await phone.call("topic:unsubscribe", {"topic": "live:0"}))["ok"]
    assert (await phone.call("topic:subscribe", {"topic": "live:one-more"}))["ok"]


@pytest.mark.parametrize("token", ["", "user"])
async def test_only_backends_publish(stage: Stage, token: str) -> None:
    bearer = stage.server.token(await stage.person()) if token else ""
    answer = await stage.server.ask("POST", "/v1/events", {"id": "x"}, token=bearer)
    assert (answer.status, answer.body["code"]) == ((403, "forbidden") if token else (401, "unauthorized"))


async def test_live_and_durable_events_share_a_connection(stage: Stage) -> None:
    """Ephemeral ones have no `seq` and leave no trace in the inbox."""
    topic = f"live:{action_id()}"
    viewer = await stage.person(follows=VIEWER)
    video = await stage.video(await stage.person())
    phone = await stage.phone(viewer)
    await phone.do("topic:subscribe", topic=topic)

    await _publish(stage, topic, action_id())
    await phone.do("video:like", videoId=video, actionId=action_id())
    await _past(stage, topic, phone)
    await phone.caught_up(1)

    assert sorted((event["seq"] or 0) for event in phone.events()) == [0, 0, 1]
    assert (await stage.inbox(viewer))["seq"] == 1
