"""HTTP from outside, on the real database: what backends put and everybody gets."""

from __future__ import annotations

import json

from tests.support.site import USER, Site, problem_of, token_of


async def test_a_user_from_put_to_me(site: Site) -> None:
    fields = {
        "username": "john_doe", "displayName": "John", "pictureUrl": "https://x/y.png", "email": "john@x.org",
        "roles": ["viewer", "creator"], "status": "active", "followingCount": 150, "followersCount": 2000, "version": 4,
    }  # fmt: skip
    put = await site.ask("PUT", "/v1/users/7", json=fields)
    assert (put.status, put.content_type, await put.json()) == (200, "application/json", {"id": 7, **fields})
    got = await site.ask("GET", "/v1/users/7", "admin")
    assert (got.status, await got.json()) == (200, {"id": 7, **fields})
    me = await site.ask("GET", "/v1/me", "7")
    assert (me.status, await me.json(), me.headers["X-Inbox-Seq"]) == (200, {"id": 7, **fields}, "0")
    older = await site.ask("PUT", "/v1/users/7", json={"followersCount": 1, "version": 3})
    assert (older.status, (await older.json())["followersCount"]) == (200, 2000)


async def test_me_creates_an_unknown_user(site: Site) -> None:
    token = token_of("9", username="niner")
    response = await site.ask("GET", "/v1/me", None, headers={"Authorization": f"bearer  {token}"})
    assert (await response.json())["username"] == "niner"
    await problem_of(await site.ask("GET", "/v1/me", "service"), 404, "not_found")


async def test_a_video_from_put_to_get(site: Site) -> None:
    await problem_of(
        await site.ask("PUT", "/v1/videos/a%2Fb", json={"ownerId": 7, "title": "x"}), 404, "not_found", "ownerId"
    )
    await site.ask("PUT", "/v1/users/7", json=USER)
    put = await site.ask("PUT", "/v1/videos/a%2Fb", json={"ownerId": 7, "title": "Amazing Dance"})
    video = {
        "videoId": "a/b", "ownerId": 7, "title": "Amazing Dance", "totalLikes": 0, "totalViews": 0, "totalShares": 0,
        "totalComments": 0,
    }  # fmt: skip
    assert (put.status, await put.json()) == (200, video)
    assert await (await site.ask("GET", "/v1/videos/a%2Fb")).json() == video
    await problem_of(await site.ask("GET", "/v1/videos/other"), 404, "not_found")


async def test_accounts_of_a_user(site: Site) -> None:
    wallet = await site.ask("GET", "/v1/users/7/wallet")
    assert (await wallet.text(), wallet.headers["X-Inbox-Seq"]) == (
        '{"balances":[{"currency":"LYK","balance":0.1,"reserved":0}]}', "12",
    )  # fmt: skip
    assert (await site.ask("GET", "/v1/users/7/inbox")).status == 200
    await problem_of(await site.ask("GET", "/v1/users/404/wallet"), 404, "not_found", "userId")


async def test_an_event_goes_out_once(site: Site) -> None:
    event = {"id": "e1", "type": "goal", "topic": "live:match", "data": {"score": 1}}
    for body in (event, {**event, "source": "service"}):
        response = await site.ask("POST", "/v1/events", json=body)
        assert (response.status, await response.json()) == (200, {"accepted": 0, "skipped": 0})
    assert [(topic, json.loads(envelope)["id"]) for topic, envelope in site.published] == [("live:match", "e1")]
    again = await site.ask("POST", "/v1/events", json={**event, "type": "foul"})
    await problem_of(again, 409, "idempotency_conflict", "id")
    await problem_of(
        await site.ask("POST", "/v1/events", json={**event, "id": "e2", "recipientIds": [7]}),
        400, "invalid_payload", "recipientIds",
    )  # fmt: skip
