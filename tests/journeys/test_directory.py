"""What backends tell the server of users and videos, and what it tells of them."""

from __future__ import annotations

import pytest

from tests.support.server import Gateway
from tests.support.stage import CREATOR, VIEWER, Stage, action_id


async def test_a_user_comes_and_changes(stage: Stage) -> None:
    user = stage.stranger()
    path = f"/v1/users/{user}"
    ask = stage.server.ask
    assert (await ask("GET", path)).status == 404
    incomplete = await ask("PUT", path, {"followersCount": 5})
    assert incomplete.status == 400
    assert (incomplete.body["code"], incomplete.body["field"]) == ("invalid_payload", "username")

    made = await ask("PUT", path, {"username": "ada", "followingCount": 100, "version": 5})
    assert made.body == {
        "id": user, "username": "ada", "displayName": None, "pictureUrl": None, "email": None, "roles": ["viewer"],
        "status": "active", "followingCount": 100, "followersCount": 0, "version": 5,
    }  # fmt: skip
    older = await ask("PUT", path, {"followingCount": 3, "version": 4})
    assert older.body["followingCount"] == 100, "an older version is ignored"
    newer = await ask("PUT", path, {"followersCount": 7, "version": 6})
    assert (newer.body["username"], newer.body["followingCount"], newer.body["followersCount"]) == ("ada", 100, 7)

    read = await ask("GET", path)
    assert (read.body, read.headers["X-Inbox-Seq"]) == (newer.body, "0")
    me = await ask("GET", "/v1/me", token=stage.server.token(user))
    assert (me.body, me.headers["X-Inbox-Seq"]) == (newer.body, "0")


async def test_a_video_comes_changes_and_counts(stage: Stage) -> None:
    creator, viewer = await stage.person(), await stage.person(follows=VIEWER)
    ask = stage.server.ask
    path = f"/v1/videos/v{creator}"
    assert (await ask("GET", path)).status == 404
    assert (await ask("PUT", path, {"title": "x"})).body["field"] == "ownerId"
    assert (await ask("PUT", path, {"ownerId": 2**50, "title": "x"})).body["code"] == "not_found"
    await ask("PUT", path, {"ownerId": creator, "title": "Sunrise"})
    phone = await stage.phone(viewer)
    await phone.do("video:like", videoId=f"v{creator}", actionId=action_id())

    renamed = await ask("PUT", path, {"title": "Sunset"})

    assert renamed.body == {
        "videoId": f"v{creator}", "ownerId": creator, "title": "Sunset", "totalLikes": 1, "totalViews": 0,
        "totalShares": 0, "totalComments": 0,
    }  # fmt: skip
    [event] = await phone.told("points_earned")
    assert event["data"]["metadata"]["videoTitle"] == "Sunrise", "titles are as of the event"
    assert (await phone.do("inbox:fetch", afterSeq=0, limit=5))["events"] == [event]


async def test_a_video_that_changes_hands_pays_its_new_owner(stage: Stage) -> None:
    first, second = await stage.person(followers=CREATOR), await stage.person(followers=CREATOR)
    video = await stage.video(first)
    for viewer in (await stage.person(), await stage.person()):
        await (await stage.phone(viewer)).do("video:like", videoId=video, actionId=action_id())
        await stage.server.ask("PUT", f"/v1/videos/{video}", {"ownerId": second})
    seconds = await stage.phone(second, lastSeq="0")
    await seconds.told("points_earned")
    assert [(await stage.balance(user))[0] for user in (first, second)] == [1, 1]


async def test_the_seq_beside_a_state_tells_which_events_it_holds(stage: Stage) -> None:
    """Old state + the events after its `X-Inbox-Seq` = the new state, without counting one twice."""
    viewer = await stage.person(follows=VIEWER)
    creator = await stage.person()
    phone = await stage.phone(viewer)
    seen = []
    for _ in range(4):
        await phone.do("video:share", videoId=await stage.video(creator), actionId=action_id())
        seen.append(await stage.balance(viewer))
    events = await phone.told("points_earned", 4)
    assert seen == [(event["data"]["newBalance"], event["seq"]) for event in events]


async def test_people_see_their_own_and_backends_all(stage: Stage) -> None:
    user = await stage.person()
    own = stage.server.token(user)
    for method, path in (
        ("GET", f"/v1/users/{user}"), ("PUT", f"/v1/users/{user}"), ("GET", f"/v1/users/{user}/wallet"),
        ("GET", f"/v1/users/{user}/inbox"), ("PUT", "/v1/videos/x"),
    ):  # fmt: skip
        body = {} if method == "PUT" else None
        answer = await stage.server.ask(method, path, body, token=own)
        assert (answer.status, answer.body["code"]) == (403, "forbidden"), path
        assert (await stage.server.ask(method, path, body, token="")).status == 401
    for role in ("admin", "service"):
        boss = stage.server.token("boss", role)
        assert (await stage.server.ask("GET", f"/v1/users/{user}", token=boss)).status == 200
    assert (await stage.server.ask("GET", "/v1/me", token=own)).body["id"] == user
    assert (await stage.server.ask("GET", "/v1/me")).body["code"] == "not_found", "a backend is no user"


async def test_presence_is_right_at_once(stage: Stage) -> None:
    user = await stage.person()
    assert (await stage.inbox(user)) == {"seq": 0, "oldestSeq": 1, "connected": False, "devices": [], "nodes": []}
    phone = await stage.phone(user, deviceId="phone")
    assert (await stage.inbox(user))["devices"] == [{"deviceId": "phone", "acked": 0, "connected": True}]
    await phone.close()
    await stage.gone(user)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("DELETE", "/v1/me", 405, "invalid_payload"),
        ("GET", "/v1/nowhere", 404, "not_found"),
        ("GET", "/v1/users/0", 400, "invalid_payload"),
        ("GET", "/v1/users/seven", 400, "invalid_payload"),
        ("GET", f"/v1/users/{2**53}", 400, "invalid_payload"),
        ("GET", f"/v1/videos/{'v' * 65}", 400, "invalid_payload"),
    ],
)
async def test_errors_are_problems(server: Gateway, method: str, path: str, status: int, code: str) -> None:
    answer = await server.ask(method, path)
    assert (answer.status, answer.body["code"]) == (status, code)
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.headers["X-Request-Id"]


async def test_it_is_alive_and_ready(server: Gateway) -> None:
    for path in ("/livez", "/readyz"):
        answer = await server.ask("GET", path, token="")
        assert (answer.status, answer.body) == (200, {"status": "ok", "problems": []})


async def test_the_audit_command_agrees(server: Gateway) -> None:
    done = server.run("audit")
    assert (done.returncode, done.stdout) == (0, "the audit found no fault\n")
