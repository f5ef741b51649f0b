"""The notification list: what a person reads, how much of it is new, and that all their devices agree on it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.stage import CREATOR, VIEWER, Stage, action_id


async def _publish(stage: Stage, user: int, count: int = 1, **fields: Any) -> None:
    for _ in range(count):
        body = {"id": action_id(), "type": "follow_request", "recipientIds": [user], "data": {}, **fields}
        assert (await stage.server.ask("POST", "/v1/events", body)).status == 200


async def _list(stage: Stage, user: int, query: str = "") -> Any:
    answer = await stage.server.ask("GET", f"/v1/notifications{query}", token=stage.server.token(user))
    assert answer.status == 200, answer
    assert list(answer.body) == ["notifications", "unreadCount", "seenSeq", "nextCursor"]
    return answer


async def _see(stage: Stage, user: int, seq: int) -> Any:
    answer = await stage.server.ask("POST", "/v1/notifications/seen", {"seq": seq}, token=stage.server.token(user))
    assert answer.status == 200, answer
    return answer.body


async def test_it_lists_what_was_told_without_wallets_and_newest_first(stage: Stage) -> None:
    creator = await stage.person(follows=VIEWER, followers=CREATOR)
    fan = await stage.person(follows=VIEWER)
    video = await stage.video(creator)
    phone = await stage.js_phone(creator)
    liking = await stage.phone(fan)
    await liking.do("video:like", videoId=video, actionId=action_id())  # video_like and points_earned
    await phone.told("points_earned")
    await _publish(stage, creator, type="profile_followed", eventType="app:followed", data={"actorId": fan})
    await phone.told("profile_followed")

    answer = await _list(stage, creator)

    heard = [event for event in phone.events() if event["type"] != "points_earned"]
    assert [event["type"] for event in heard] == ["video_like", "profile_followed"]
    assert answer.body == {"notifications": heard[::-1], "unreadCount": 2, "seenSeq": 0, "nextCursor": None}
    assert answer.headers["X-Inbox-Seq"] == "3"


async def test_pages_go_back_to_the_first(stage: Stage) -> None:
    user = await stage.person()
    await _publish(stage, user, 7)
    seqs, cursor = [], ""
    while True:
        page = (await _list(stage, user, f"?limit=3{cursor}")).body
        seqs.append([event["seq"] for event in page["notifications"]])
        assert page["unreadCount"] == 7
        if page["nextCursor"] is None:
            break
        cursor = f"&cursor={page['nextCursor']}"
    assert seqs == [[7, 6, 5], [4, 3, 2], [1]]
    assert (await _list(stage, user, "?limit=7")).body["nextCursor"] is None


async def test_what_was_seen_is_seen_on_all_devices_and_never_unseen(stage: Stage) -> None:
    user = await stage.person()
    await _publish(stage, user, 5)
    assert await _see(stage, user, 3) == {"seenSeq": 3, "unreadCount": 2}
    assert await _see(stage, user, 1) == {"seenSeq": 3, "unreadCount": 2}, "never back"
    assert await _see(stage, user, 2**53 - 1) == {"seenSeq": 5, "unreadCount": 0}, "never above the head"
    await _publish(stage, user)
    page = (await _list(stage, user)).body
    assert (page["seenSeq"], page["unreadCount"]) == (5, 1)
    unread = await stage.server.ask("GET", "/v1/notifications/unread", token=stage.server.token(user))
    assert (unread.body, unread.headers["X-Inbox-Seq"]) == ({"seenSeq": 5, "unreadCount": 1}, "6")
    await asyncio.gather(*(_see(stage, user, seq) for seq in range(7)))
    assert await _see(stage, user, 0) == {"seenSeq": 6, "unreadCount": 0}


async def test_points_are_no_news(stage: Stage) -> None:
    viewer = await stage.person(follows=VIEWER)
    video = await stage.video(await stage.person())
    await (await stage.phone(viewer)).do("video:like", videoId=video, actionId=action_id())
    answer = await _list(stage, viewer)
    assert answer.body == {"notifications": [], "unreadCount": 0, "seenSeq": 0, "nextCursor": None}
    assert answer.headers["X-Inbox-Seq"] == "1"


async def test_somebody_new_has_an_empty_list_and_a_backend_none(stage: Stage) -> None:
    assert (await _list(stage, stage.stranger())).body["notifications"] == []
    answer = await stage.server.ask("GET", "/v1/notifications")
    assert (answer.status, answer.body["code"]) == (404, "not_found")
    answer = await stage.server.ask("GET", "/v1/notifications", token="")
    assert (answer.status, answer.body["code"]) == (401, "unauthorized")


@pytest.mark.parametrize(
    ("query", "field"),
    [("limit=0", "limit"), ("limit=101", "limit"), ("cursor=x", "cursor"), ("cursor=1&cursor=2", "cursor")],
)
async def test_wrong_parameters_are_named(stage: Stage, query: str, field: str) -> None:
    token = stage.server.token(await stage.person())
    answer = await stage.server.ask("GET", f"/v1/notifications?{query}", token=token)
    assert (answer.status, answer.body["code"], answer.body["field"]) == (400, "invalid_payload", field)


@pytest.mark.parametrize("body", [{}, {"seq": -1}, {"seq": "1"}, {"seq": 2**53}, {"seq": 1, "all": True}], ids=str)
async def test_wrong_bodies_change_nothing(stage: Stage, body: dict[str, Any]) -> None:
    user = await stage.person()
    await _publish(stage, user)
    answer = await stage.server.ask("POST", "/v1/notifications/seen", body, token=stage.server.token(user))
    assert (answer.status, answer.body["code"]) == (400, "invalid_payload")
    assert (await _list(stage, user)).body["seenSeq"] == 0
