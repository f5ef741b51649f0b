"""Door 2: the same actions over HTTP, through the same lane, with the same answers; and a user's own state."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Answer, Gateway, running
from tests.support.stage import CREATOR, VIEWER, Stage, action_id


async def act(stage: Stage, user: int, event: str, **payload: Any) -> Answer:
    """`POST /v1/actions/{event}` of this user."""
    return await stage.server.ask("POST", f"/v1/actions/{event}", payload, token=stage.server.token(user))


async def get(stage: Stage, user: int, path: str) -> Answer:
    return await stage.server.ask("GET", path, token=stage.server.token(user))


def is_problem(answer: Answer, status: int, code: str, field: str | None = None) -> None:
    assert answer.status == status, answer
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert (answer.body["code"], answer.body.get("field"), answer.body["status"]) == (code, field, status)
    assert answer.body["title"]
    assert answer.body["detail"] == answer.body["message"]


@pytest.mark.parametrize("event", ["video:like", "video:view", "video:share"])
async def test_an_action_is_paid_and_heard_of_as_over_the_socket(stage: Stage, event: str) -> None:
    creator, viewer = await stage.person(followers=CREATOR), await stage.person(follows=VIEWER)
    video = await stage.video(creator)
    creators, viewers = await stage.phone(creator), await stage.phone(viewer)

    answer = await act(stage, viewer, event, videoId=video, actionId=action_id())

    points = 2 if event == "video:share" else 1
    award = {"points": points, "newBalance": points}
    data = {"videoId": video, "total": 1, "already": False, "award": award}
    assert (answer.status, answer.body) == (200, {"ok": True, "data": data})
    [mine] = await viewers.told("points_earned")
    [theirs] = await creators.told("points_earned")
    assert (mine["recipientIds"], theirs["recipientIds"]) == ([viewer], [creator])


async def test_one_key_has_one_outcome_whichever_door_it_comes_through(stage: Stage) -> None:
    creator, viewer = await stage.person(followers=CREATOR), await stage.person(follows=VIEWER)
    video, other = await stage.video(creator), await stage.video(creator)
    phone = await stage.phone(viewer)
    by_socket, by_http = action_id(), action_id()
    first = await phone.call("video:like", {"videoId": video, "actionId": by_socket})
    second = await act(stage, viewer, "video:share", videoId=video, actionId=by_http, channel="sms")

    again = await act(stage, viewer, "video:like", actionId=by_socket, videoId=video)  # keys in another order
    assert (again.status, again.body) == (200, first | {"replayed": True})
    over_socket = await phone.call("video:share", {"videoId": video, "actionId": by_http, "channel": "sms"})
    assert over_socket == second.body | {"replayed": True}
    is_problem(
        await act(stage, viewer, "video:like", videoId=other, actionId=by_http), 409, "idempotency_conflict", "actionId"
    )
    refused = await phone.call("video:unlike", {"videoId": video, "actionId": by_http})
    assert refused["error"]["code"] == "idempotency_conflict"
    for key, outcome in ((by_socket, first), (by_http, second.body)):
        kept = await get(stage, viewer, f"/v1/actions/{key}")
        assert (kept.status, kept.body) == (200, outcome)


async def test_many_doors_at_once_pay_once(stage: Stage) -> None:
    creator, viewer = await stage.person(followers=CREATOR), await stage.person(follows=VIEWER)
    video, key = await stage.video(creator), action_id()
    phones = [await stage.phone(viewer) for _ in range(3)]
    over_sockets = [phone.call("video:like", {"videoId": video, "actionId": key}) for phone in phones]
    over_http = [act(stage, viewer, "video:like", videoId=video, actionId=key) for _ in range(5)]
    answers = await asyncio.gather(*over_sockets, *over_http)
    bodies = [answer.body if isinstance(answer, Answer) else answer for answer in answers]
    assert sum("replayed" not in body for body in bodies) == 1
    assert all(body["ok"] and body["data"] == bodies[0]["data"] for body in bodies)
    assert (await stage.balance(viewer))[0] == 1


async def test_what_is_kept_is_the_callers_own(stage: Stage) -> None:
    creator, viewer, other = await stage.person(), await stage.person(follows=VIEWER), await stage.person()
    key = action_id()
    assert (await act(stage, viewer, "video:like", videoId=await stage.video(creator), actionId=key)).status == 200
    is_problem(await get(stage, other, f"/v1/actions/{key}"), 404, "not_found", "actionId")
    is_problem(await get(stage, viewer, f"/v1/actions/{action_id()}"), 404, "not_found", "actionId")
    is_problem(await get(stage, viewer, "/v1/actions/short"), 400, "invalid_payload", "actionId")
    backend = await stage.server.ask("GET", f"/v1/actions/{key}")
    is_problem(backend, 404, "not_found", "actionId")


BAD: list[tuple[str, dict[str, Any], int, str, str | None]] = [
    ("video:like", {"videoId": "v", "actionId": "short"}, 400, "invalid_payload", "actionId"),
    ("video:like", {"videoId": "v"}, 400, "invalid_payload", "actionId"),
    ("video:like", {"videoId": "v", "actionId": "12345678", "more": 1}, 400, "invalid_payload", "more"),
    ("video:like", {"videoId": 7, "actionId": "12345678"}, 400, "invalid_payload", "videoId"),
    ("video:like", {"videoId": "no such", "actionId": "12345678"}, 404, "not_found", "videoId"),
    ("video:dance", {"videoId": "v", "actionId": "12345678"}, 404, "unknown_event", None),
    ("wallet:get", {}, 404, "unknown_event", None),  # no action
    ("connect", {}, 404, "unknown_event", None),
]


@pytest.mark.parametrize(("event", "payload", "status", "code", "field"), BAD)
async def test_bad_actions_are_problems_and_leave_no_trace(
    stage: Stage, event: str, payload: dict[str, Any], status: int, code: str, field: str | None
) -> None:
    viewer = await stage.person(follows=VIEWER)
    is_problem(await act(stage, viewer, event, **payload), status, code, field)
    is_problem(await get(stage, viewer, "/v1/actions/12345678"), 404, "not_found", "actionId")
    assert await stage.balance(viewer) == (0, 0)


async def test_who_may_not_act(stage: Stage) -> None:
    video = await stage.video(await stage.person())
    like = {"videoId": video, "actionId": action_id()}
    path = "/v1/actions/video:like"
    is_problem(await stage.server.ask("POST", path, like, token=""), 401, "unauthorized")
    is_problem(await stage.server.ask("POST", path, like), 403, "forbidden")  # a backend that is no user
    suspended = await stage.person(status="suspended")
    is_problem(await act(stage, suspended, "video:like", **like), 403, "forbidden")
    stage.people.discard(suspended)
    wrong_method = await stage.server.ask("DELETE", path)
    is_problem(wrong_method, 405, "invalid_payload")
    assert wrong_method.headers["Allow"] == "GET,HEAD,POST"


async def test_a_first_request_of_a_stranger_makes_them_a_user(stage: Stage) -> None:
    creator = await stage.person()
    video = await stage.video(creator)
    for path in ("/v1/wallet", "/v1/wallet/transactions", "/v1/inbox"):
        assert (await get(stage, stage.stranger(), path)).status == 200
    answer = await act(stage, stage.stranger(), "video:like", videoId=video, actionId=action_id())
    assert (answer.status, answer.body["data"]["reason"]) == (200, "not_eligible")


# -- one's own state -------------------------------------------------------------------------------------------------


async def test_wallet_and_inbox_are_those_of_the_socket(stage: Stage) -> None:
    creator, viewer = await stage.person(followers=CREATOR), await stage.person(follows=VIEWER)
    phone = await stage.phone(viewer)
    videos = [await stage.video(creator) for _ in range(3)]
    for video in videos:
        await act(stage, viewer, "video:like", videoId=video, actionId=action_id())
    await phone.caught_up(3)

    wallet = await get(stage, viewer, "/v1/wallet?currency=LYK")
    assert (wallet.body, wallet.headers["X-Inbox-Seq"]) == (await phone.do("wallet:get"), "3")
    history = await get(stage, viewer, "/v1/wallet/transactions")
    assert (history.body, history.headers["X-Inbox-Seq"]) == (await phone.do("wallet:history"), "3")
    inbox = await get(stage, viewer, "/v1/inbox?afterSeq=1")
    assert (inbox.body, inbox.headers["X-Inbox-Seq"]) == (await phone.do("inbox:fetch", afterSeq=1, limit=50), "3")

    pages, cursor = [], ""
    while True:
        page = (await get(stage, viewer, f"/v1/wallet/transactions?limit=2{cursor}")).body
        pages.append([row["n"] for row in page["transactions"]])
        if page["nextCursor"] is None:
            break
        cursor = f"&cursor={page['nextCursor']}"
    assert pages == [[3, 2], [1]]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/wallet?currency=lyk", "currency"),
        ("/v1/wallet/transactions?limit=0", "limit"),
        ("/v1/wallet/transactions?limit=101", "limit"),
        ("/v1/wallet/transactions?limit=x", "limit"),
        ("/v1/wallet/transactions?limit=1&limit=2", "limit"),
        ("/v1/wallet/transactions?cursor=abc", "cursor"),
        ("/v1/inbox?afterSeq=-1", "afterSeq"),
        ("/v1/inbox?limit=501", "limit"),
    ],
)
async def test_bad_queries_name_their_parameter(stage: Stage, path: str, field: str) -> None:
    is_problem(await get(stage, await stage.person(), path), 400, "invalid_payload", field)


# -- limits ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running(tmp_path / "data", LIMITS__ACTIONS_PER_SECOND=0.1) as gateway:  # one, and the next in 10 s
        yield gateway


async def test_both_doors_share_a_users_rate(slow: Gateway) -> None:
    stage = Stage(slow)
    one, other = await stage.person(follows=VIEWER), await stage.person(follows=VIEWER)
    video = await stage.video(await stage.person())
    ones, others = await stage.phone(one), await stage.phone(other)

    await ones.do("video:like", videoId=video, actionId=action_id())
    answer = await act(stage, one, "video:like", videoId=video, actionId=action_id())
    is_problem(answer, 429, "rate_limited")
    assert answer.body["retryable"]
    assert 0 < answer.body["retryAfterMs"] <= 10_000
    assert int(answer.headers["Retry-After"]) == math.ceil(answer.body["retryAfterMs"] / 1000)

    assert (await act(stage, other, "video:like", videoId=video, actionId=action_id())).status == 200
    refused = await others.call("video:like", {"videoId": video, "actionId": action_id()})
    assert refused["error"]["code"] == "rate_limited"
    await stage.close()
