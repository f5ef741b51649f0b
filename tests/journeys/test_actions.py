"""Comments, uploads and follows, over real sockets and HTTP."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Gateway, running
from tests.support.stage import CREATOR, VIEWER, Stage, action_id

# -- comments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", ["phone", "js_phone"])
async def test_a_comment_is_paid_stored_and_told_to_the_owner(stage: Stage, client: str) -> None:
    creator, viewer = await stage.person(followers=CREATOR), await stage.person(follows=VIEWER)
    video = await stage.video(creator)
    creators, viewers = await stage.phone(creator), await getattr(stage, client)(viewer)
    text = "Wie schön 🌅\n— \u00e9"

    data = await viewers.do("video:comment", videoId=video, text=text, actionId=action_id())

    comment_id = data["commentId"]
    assert data == {
        "videoId": video, "total": 1, "already": False, "award": {"points": 2, "newBalance": 2},
        "commentId": comment_id,
    }  # fmt: skip
    [earned] = await viewers.told("points_earned")
    assert earned["data"]["action"] == "comment_posted"
    assert earned["data"]["reason"] == "Commented on a video"
    assert earned["data"]["metadata"] == {"videoId": video, "videoTitle": "Sunrise", "userType": "viewer"}
    [told] = await creators.told("video_comment")
    assert told["eventType"] == "notification:video_comment"
    assert told["data"] == {
        "actorId": viewer, "actorUsername": f"user_{viewer}", "videoId": video, "commentId": comment_id, "text": text,
    }  # fmt: skip
    page = (await stage.server.ask("GET", f"/v1/videos/{video}/comments", token=stage.server.token(viewer))).body
    [row] = page["comments"]
    assert page["nextCursor"] is None
    assert row == {
        "commentId": comment_id, "videoId": video, "userId": viewer, "username": f"user_{viewer}", "text": text,
        "timestamp": told["timestamp"],
    }  # fmt: skip
    assert (await stage.server.ask("GET", f"/v1/videos/{video}")).body["totalComments"] == 1


async def test_the_same_action_id_comments_once_from_every_door(stage: Stage) -> None:
    creator, viewer = await stage.person(), await stage.person(follows=VIEWER)
    video = await stage.video(creator)
    phone, tablet = await stage.phone(viewer), await stage.js_phone(viewer)
    comment = {"videoId": video, "text": "Once", "actionId": action_id()}

    first = await phone.call("video:comment", comment)
    assert await tablet.call("video:comment", comment) == first | {"replayed": True}
    over_http = await stage.server.ask("POST", "/v1/actions/video:comment", comment, token=stage.server.token(viewer))
    assert over_http.body == first | {"replayed": True}
    await phone.fail("idempotency_conflict", "video:comment", comment | {"text": "Twice"})
    assert await stage.balance(viewer) == (2, 1)
    assert (await stage.inbox(creator))["seq"] == 1


async def test_five_comments_a_day_are_paid_and_every_one_is_told(stage: Stage) -> None:
    creator, viewer = await stage.person(), await stage.person(follows=VIEWER)
    video = await stage.video(creator)
    creators, viewers = await stage.phone(creator), await stage.phone(viewer)
    await not_near_midnight()

    comments = [{"videoId": video, "text": str(number), "actionId": action_id()} for number in range(7)]
    answers = await asyncio.gather(*(viewers.call("video:comment", comment) for comment in comments))

    data = [answer["data"] for answer in answers]
    assert [each.get("reason") for each in data] == [None] * 5 + ["daily_cap"] * 2
    assert [(each["total"], each["already"]) for each in data] == [(total, False) for total in range(1, 8)]
    assert [event["data"]["text"] for event in await creators.told("video_comment", 7)] == list("0123456")
    assert await stage.balance(viewer) == (10, 5)
    elsewhere = await viewers.do("video:comment", videoId=await stage.video(creator), text="x", actionId=action_id())
    assert elsewhere["award"] == {"points": 2, "newBalance": 12}


async def not_near_midnight() -> None:
    """The cap's day must not end in the middle of a test."""
    while datetime.now(UTC).strftime("%H:%M:%S") > "23:59:50":
        await asyncio.sleep(0.5)


async def test_one_s_own_video_and_the_ineligible(stage: Stage) -> None:
    creator, viewer = await stage.person(follows=VIEWER), await stage.person(follows=VIEWER - 1)
    video = await stage.video(creator)
    creators, viewers = await stage.phone(creator), await stage.phone(viewer)

    own = await creators.do("video:comment", videoId=video, text="Mine", actionId=action_id())
    other = await viewers.do("video:comment", videoId=video, text="Yours", actionId=action_id())

    assert (own["reason"], own["award"], own["total"]) == ("own_video", None, 1)
    assert (other["reason"], other["award"], other["total"]) == ("not_eligible", None, 2)
    [told] = await creators.told("video_comment")
    assert told["data"]["text"] == "Yours"
    assert (await stage.inbox(creator))["seq"] == 1, "of one's own nobody is told"


async def test_comments_are_paged_newest_first_for_everybody(stage: Stage) -> None:
    creator, viewer = await stage.person(), await stage.person()
    video = await stage.video(creator)
    phone = await stage.phone(viewer)
    for number in range(5):
        await phone.do("video:comment", videoId=video, text=str(number), actionId=action_id())

    async def ask(query: str = "", status: int = 200) -> Any:
        path, token = f"/v1/videos/{video}/comments{query}", stage.server.token(creator)
        answer = await stage.server.ask("GET", path, token=token)
        assert answer.status == status, answer
        return answer.body

    texts: list[str] = []
    page = await ask("?limit=2")
    while True:
        texts += [row["text"] for row in page["comments"]]
        if page["nextCursor"] is None:
            break
        page = await ask(f"?limit=2&cursor={page['nextCursor']}&unknown=1")
    assert texts == list("43210")
    assert len((await ask())["comments"]) == 5
    for query, field in (
        ("?limit=0", "limit"), ("?limit=101", "limit"), ("?limit=x", "limit"), ("?limit=", "limit"),
        ("?limit=-1", "limit"), ("?limit=%D9%A1", "limit"), ("?limit=1&limit=2", "limit"),
        ("?cursor=x", "cursor"), ("?cursor=", "cursor"), ("?cursor=1%00", "cursor"), (f"?cursor={'9' * 17}", "cursor"),
        ("?cursor=1%0A", "cursor"),
    ):  # fmt: skip
        refused = await ask(query, 400)
        assert (refused["code"], refused["field"]) == ("invalid_payload", field), query
    assert (await stage.server.ask("GET", "/v1/videos/nowhere/comments")).status == 404
    assert (await stage.server.ask("GET", f"/v1/videos/{video}/comments", token="")).status == 401


async def test_no_text_of_a_comment_and_no_title_reaches_the_log(stage: Stage) -> None:
    viewer = await stage.person()
    video = await stage.video(await stage.person())
    phone = await stage.phone(viewer)
    secret = "correct-horse-battery-staple"

    await phone.do("video:comment", videoId=video, text=secret, actionId=action_id())
    for text in (secret * 50, f"{secret}\0", {"a": secret}):
        error = await phone.fail(
            "invalid_payload", "video:comment", {"videoId": video, "text": text, "actionId": "a" * 8}
        )
        assert secret not in str(error)
    await phone.fail("invalid_payload", "video:upload", {"videoId": "x", "title": f"{secret}\0", "actionId": "a" * 8})
    await phone.fail("not_found", "video:comment", {"videoId": "nowhere", "text": secret, "actionId": "a" * 8})
    assert secret not in stage.server.log


# -- deleted videos ----------------------------------------------------------------------------------


async def test_a_deleted_video_is_gone_for_all_and_settles_what_it_owes(stage: Stage) -> None:
    creator = await stage.person(followers=CREATOR)
    fans = [await stage.person(follows=VIEWER) for _ in range(4)]
    video = await stage.video(creator)
    path = f"/v1/videos/{video}"
    phones = [await stage.phone(fan) for fan in fans]
    for phone in phones:
        await phone.do("video:like", videoId=video, actionId=action_id())
    await phones[0].do("video:comment", videoId=video, text="Stays", actionId=action_id())

    for who in ("", stage.server.token(creator)):
        assert (await stage.server.ask("DELETE", path, token=who)).status == (403 if who else 401)
    answer = await stage.server.ask("DELETE", path)
    assert (answer.status, answer.body) == (204, None)
    assert "Content-Type" not in answer.headers

    assert (await stage.server.ask("DELETE", path)).body["code"] == "not_found"
    assert (await stage.server.ask("GET", path)).status == 404
    assert (await stage.server.ask("GET", f"{path}/comments")).status == 404
    for event, fields in (
        ("video:like", {}), ("video:unlike", {}), ("video:view", {}), ("video:share", {}),
        ("video:comment", {"text": "x"}),
    ):  # fmt: skip
        payload = {"videoId": video, "actionId": action_id(), **fields}
        error = await phones[0].fail("not_found", event, payload)
        assert (error["field"], error.get("outcome")) == ("videoId", None)
    await stage.settled(creator)
    assert (await stage.balance(creator))[0] == len(fans), "every like that was acknowledged"
    assert await stage.server.findings() == []

    assert (await stage.server.ask("PUT", path, {"title": "Back"})).body["field"] == "ownerId"
    back = await stage.server.ask("PUT", path, {"ownerId": creator, "title": "Back"})
    assert (back.body["totalLikes"], back.body["totalComments"]) == (len(fans), 1)
    again = await phones[0].do("video:like", videoId=video, actionId=action_id())
    assert (again["already"], again["reason"]) == (True, "already_paid")


# -- uploads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", ["phone", "js_phone"])
async def test_an_upload_is_paid_once_for_ever(stage: Stage, client: str) -> None:
    creator, viewer = await stage.person(followers=CREATOR), await stage.person(follows=VIEWER)
    phone = await getattr(stage, client)(creator)
    video = f"upload-{creator}"
    upload = {"videoId": video, "title": "Sunset", "actionId": action_id()}

    first = await phone.call("video:upload", upload)
    assert first == {"ok": True, "data": {"videoId": video, "award": {"points": 5, "newBalance": 5}}}
    [earned] = await phone.told("points_earned")
    assert earned["data"]["action"] == "video_uploaded"
    assert earned["data"]["reason"] == "Uploaded a video"
    assert earned["data"]["metadata"] == {"videoId": video, "videoTitle": "Sunset", "userType": "creator"}
    assert await phone.call("video:upload", upload) == first | {"replayed": True}
    assert await phone.do("video:upload", videoId=video, title="Sunrise", actionId=action_id()) == {
        "videoId": video, "award": None, "reason": "already_paid",
    }  # fmt: skip
    viewers = await stage.phone(viewer)
    assert (await viewers.do("video:like", videoId=video, actionId=action_id()))["award"]
    await stage.server.ask("DELETE", f"/v1/videos/{video}")
    again = await phone.do("video:upload", videoId=video, title="Once more", actionId=action_id())
    assert again["reason"] == "already_paid"
    stored = (await stage.server.ask("GET", f"/v1/videos/{video}")).body
    assert (stored["ownerId"], stored["title"], stored["totalLikes"]) == (creator, "Once more", 1)


async def test_another_s_id_is_a_conflict_and_few_followers_are_not_eligible(stage: Stage) -> None:
    owner, other = await stage.person(), await stage.person(followers=CREATOR - 1)
    video = await stage.video(owner)
    phone = await stage.phone(other)
    upload = {"videoId": video, "title": "Mine", "actionId": action_id()}

    error = await phone.fail("conflict", "video:upload", upload)
    assert (error["field"], error["retryable"]) == ("videoId", False)
    assert (await phone.call("video:upload", upload))["replayed"] is True, "a conflict is kept"
    over_http = await stage.server.ask("POST", "/v1/actions/video:upload", upload, token=stage.server.token(other))
    assert (over_http.status, over_http.body["code"], over_http.body["replayed"]) == (409, "conflict", True)
    own = await phone.do("video:upload", videoId=f"own-{other}", title="Own", actionId=action_id())
    assert own == {"videoId": f"own-{other}", "award": None, "reason": "not_eligible"}
    await stage.server.ask("PUT", f"/v1/users/{other}", {"followersCount": CREATOR})
    fresh = await phone.do("video:upload", videoId=f"own-{other}", title="Own", actionId=action_id())
    assert fresh["award"] == {"points": 5, "newBalance": 5}


# -- follows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", ["phone", "js_phone"])
async def test_the_followed_hears_once_and_the_directory_counts(stage: Stage, client: str) -> None:
    star = await stage.person(followers=7)
    fan = await stage.person(pictureUrl="https://x.example/fan.png")
    stars, fans = await stage.phone(star), await getattr(stage, client)(fan)

    async def act(event: str) -> Any:
        return await fans.do(event, userId=star, actionId=action_id())

    assert await act("profile:follow") == {"userId": star, "already": False}
    assert await act("profile:follow") == {"userId": star, "already": True}
    assert await act("profile:unfollow") == {"userId": star, "already": False}
    assert await act("profile:unfollow") == {"userId": star, "already": True}
    assert await act("profile:follow") == {"userId": star, "already": False}
    [told] = await stars.told("profile_followed")
    assert told["eventType"] == "notification:profile_followed"
    assert told["data"] == {
        "actorId": fan, "actorUsername": f"user_{fan}", "actorProfilePic": "https://x.example/fan.png",
        "followersCount": 7,
    }  # fmt: skip
    assert (await stage.inbox(star))["seq"] == 1
    assert (await stage.server.ask("GET", f"/v1/users/{star}")).body["followersCount"] == 7


async def test_whom_nobody_can_follow(stage: Stage) -> None:
    user = await stage.person()
    phone = await stage.phone(user)
    own = {"userId": user, "actionId": action_id()}
    for payload, code, field in (
        (own, "forbidden", "userId"),
        ({"userId": 2**50, "actionId": action_id()}, "not_found", "userId"),
        ({"userId": 0, "actionId": action_id()}, "invalid_payload", "userId"),
        ({"userId": str(user), "actionId": action_id()}, "invalid_payload", "userId"),
        ({"userId": 2**53, "actionId": action_id()}, "invalid_payload", "userId"),
        ({"actionId": action_id()}, "invalid_payload", "userId"),
    ):
        assert (await phone.fail(code, "profile:follow", payload))["field"] == field
    assert (await phone.call("profile:follow", own))["replayed"] is True
    assert (await stage.inbox(user))["seq"] == 0


async def test_follow_verbs_count_where_they_are_the_master(tmp_path: Path) -> None:
    async with running(tmp_path / "data", USERS__FOLLOW_COUNTS="applause") as gateway:
        stage = Stage(gateway)
        star, *fans = [await stage.person() for _ in range(6)]
        stars = await stage.phone(star)
        phones = [await stage.phone(fan) for fan in fans]
        await asyncio.gather(*(phone.do("profile:follow", userId=star, actionId=action_id()) for phone in phones * 3))
        told = await stars.told("profile_followed", 5)
        assert sorted(event["data"]["followersCount"] for event in told) == [1, 2, 3, 4, 5]
        await phones[0].do("profile:unfollow", userId=star, actionId=action_id())
        assert await counts(gateway, star) == (0, 4)
        assert [await counts(gateway, fan) for fan in fans] == [(0, 0)] + [(1, 0)] * 4
        refused = await gateway.ask("PUT", f"/v1/users/{star}", {"followersCount": 1000})
        assert (refused.status, refused.body["code"], refused.body["field"]) == (409, "conflict", "followersCount")
        same = await gateway.ask("PUT", f"/v1/users/{star}", {"followersCount": 4, "displayName": "Star"})
        assert (same.status, same.body["displayName"]) == (200, "Star")
        await stage.check()
        await stage.close()


async def counts(gateway: Gateway, user: int) -> tuple[int, int]:
    """(following, followers) as backends see them."""
    body = (await gateway.ask("GET", f"/v1/users/{user}")).body
    return body["followingCount"], body["followersCount"]


# -- bad input ---------------------------------------------------------------------------------------

ACTION = {"actionId": "action-1"}
MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("video:comment", {"videoId": "v"} | ACTION, "text"),
    ("video:comment", {"videoId": "v", "text": ""} | ACTION, "text"),
    ("video:comment", {"videoId": "v", "text": " \n\t\u3000"} | ACTION, "text"),
    ("video:comment", {"videoId": "v", "text": "x" * 1001} | ACTION, "text"),
    ("video:comment", {"videoId": "v", "text": "🌅" * 1001} | ACTION, "text"),
    ("video:comment", {"videoId": "v", "text": "a\0b"} | ACTION, "text"),
    ("video:comment", {"videoId": "v", "text": 7} | ACTION, "text"),
    ("video:comment", {"videoId": "v", "text": "x"}, "actionId"),
    ("video:comment", {"videoId": "v", "text": "x", "parentId": "y"} | ACTION, "parentId"),
    ("video:upload", {"videoId": "v"} | ACTION, "title"),
    ("video:upload", {"videoId": "v", "title": ""} | ACTION, "title"),
    ("video:upload", {"videoId": "v", "title": "x" * 501} | ACTION, "title"),
    ("video:upload", {"videoId": "v", "title": "a\0b"} | ACTION, "title"),
    ("video:upload", {"videoId": "v" * 65, "title": "x"} | ACTION, "videoId"),
    ("video:upload", {"videoId": "v", "title": "x", "ownerId": 7} | ACTION, "ownerId"),
    ("profile:unfollow", {"userId": 1.5} | ACTION, "userId"),
    ("profile:unfollow", {"userId": True} | ACTION, "userId"),
]


@pytest.mark.parametrize(("event", "payload", "field"), MALFORMED, ids=lambda value: str(value)[:40])
async def test_payloads_are_strict_and_the_field_is_named(
    stage: Stage, event: str, payload: dict[str, Any], field: str
) -> None:
    phone = await stage.phone(await stage.person())
    assert (await phone.fail("invalid_payload", event, payload))["field"] == field
    assert (await phone.call("wallet:get", {}))["ok"], "the connection stays open"
