"""Likes, views and shares: who is paid, once, and who hears of it."""

from __future__ import annotations

import asyncio
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from tests.support.stage import CREATOR, VIEWER, Stage, action_id

AWARDS = [
    ("video:like", 1, "Liked a video", "video_liked", 1, "Your video received a like", "like_received"),
    ("video:view", 1, "Viewed a video", "video_viewed", 0.1, "Your video received a view", "view_received"),
    ("video:share", 2, "Shared a video", "video_shared", 1, "Your video received a share", "share_received"),
]
TOTAL_OF = {"video:like": "totalLikes", "video:view": "totalViews", "video:share": "totalShares"}


@pytest.mark.parametrize(("event", "points", "reason", "action", "creator_points", "text", "creator_action"), AWARDS)
async def test_both_are_paid_by_the_table(
    stage: Stage, event: str, points: float, reason: str, action: str, creator_points: float, text: str,
    creator_action: str,
) -> None:  # fmt: skip
    creator, viewer = await stage.person(followers=CREATOR), await stage.person(follows=VIEWER)
    video = await stage.video(creator, "Sunrise")
    creators, viewers = await stage.phone(creator), await stage.phone(viewer)

    data = await viewers.do(event, videoId=video, actionId=action_id())

    assert data == {
        "videoId": video, "total": 1, "already": False, "award": {"points": points, "newBalance": points},
    }  # fmt: skip
    [mine] = await viewers.told("points_earned")
    [theirs] = await creators.told("points_earned")
    common = {"currency": "LYK", "previousBalance": 0}
    assert mine == {
        "id": mine["id"], "seq": 1, "type": "points_earned", "eventType": "wallet:points:earned",
        "recipientIds": [viewer], "timestamp": mine["timestamp"],
        "data": common | {
            "userId": viewer, "action": action, "points": points, "newBalance": points, "reason": reason,
            "timestamp": mine["timestamp"],
            "metadata": {"videoId": video, "videoTitle": "Sunrise", "userType": "viewer"},
        },
    }  # fmt: skip
    assert theirs["data"] == common | {
        "userId": creator, "action": creator_action, "points": creator_points, "newBalance": creator_points,
        "reason": text, "timestamp": theirs["timestamp"],
        "metadata": {
            "videoId": video, "videoTitle": "Sunrise", "userType": "creator", "count": 1, TOTAL_OF[event]: 1,
        },
    }  # fmt: skip
    assert await viewers.do("wallet:get") == {"balances": [{"currency": "LYK", "balance": points, "reserved": 0}]}


@pytest.mark.parametrize(("follows", "followers"), [(99, 999), (100, 999), (99, 1000), (100, 1000)])
async def test_viewer_and_creator_are_eligible_each_on_their_own(stage: Stage, follows: int, followers: int) -> None:
    creator, viewer = await stage.person(followers=followers), await stage.person(follows=follows)
    video = await stage.video(creator)
    creators, viewers = await stage.phone(creator), await stage.phone(viewer)

    data = await viewers.do("video:like", videoId=video, actionId=action_id())

    assert data["total"] == 1, "an action that is not paid still counts"
    if follows >= VIEWER:
        assert (data["award"], data.get("reason")) == ({"points": 1, "newBalance": 1}, None)
    else:
        assert (data["award"], data["reason"]) == (None, "not_eligible")
    [notice] = await creators.told("video_like")  # and it still notifies
    assert notice["eventType"] == "notification:video_like"
    assert notice["data"] == {
        "actorId": viewer, "actorUsername": f"user_{viewer}", "videoId": video, "count": 1, "actorIds": [viewer],
    }  # fmt: skip
    earned = followers >= CREATOR
    await creators.caught_up(1 + earned)
    assert (await stage.balance(viewer))[0] == (follows >= VIEWER)
    assert (await stage.balance(creator))[0] == earned


async def test_who_becomes_eligible_later_is_paid_then_and_once(stage: Stage) -> None:
    creator, viewer = await stage.person(), await stage.person(follows=99)
    video = await stage.video(creator)
    phone = await stage.phone(viewer)
    like = {"videoId": video}

    assert (await phone.do("video:like", **like, actionId=action_id()))["reason"] == "not_eligible"
    await stage.server.ask("PUT", f"/v1/users/{viewer}", {"followingCount": 100})
    fresh_try = await phone.do("video:like", **like, actionId=action_id())
    assert (fresh_try["already"], fresh_try["total"]) == (True, 1)
    assert fresh_try["award"] == {"points": 1, "newBalance": 1}
    assert (await phone.do("video:like", **like, actionId=action_id()))["reason"] == "already_paid"
    assert (await stage.balance(viewer))[0] == 1


async def test_unliking_and_liking_again_pays_and_notifies_nobody_again(stage: Stage) -> None:
    creator, viewer = await stage.person(followers=CREATOR), await stage.person(follows=VIEWER)
    video = await stage.video(creator)
    creators, viewers = await stage.phone(creator), await stage.phone(viewer)

    async def act(event: str) -> Any:
        return await viewers.do(event, videoId=video, actionId=action_id())

    nothing = {"videoId": video, "award": None}
    assert await act("video:unlike") == nothing | {"total": 0, "already": True}
    assert (await act("video:like"))["award"] == {"points": 1, "newBalance": 1}
    assert await act("video:unlike") == nothing | {"total": 0, "already": False}
    assert await act("video:unlike") == nothing | {"total": 0, "already": True}
    again = nothing | {"total": 1, "already": False, "reason": "already_paid"}
    assert await act("video:like") == again
    assert await act("video:like") == again | {"already": True}
    await stage.settled(creator)
    await creators.caught_up((await stage.inbox(creator))["seq"])
    assert [event["type"] for event in creators.events()] == ["video_like", "points_earned"]
    assert [event["type"] for event in viewers.events()] == ["points_earned"]


async def test_views_and_shares_can_be_repeated_and_count_each(stage: Stage) -> None:
    creator, viewer = await stage.person(), await stage.person(follows=VIEWER)
    video = await stage.video(creator)
    creators, viewers = await stage.phone(creator), await stage.phone(viewer)

    for event in ("video:view", "video:share"):
        answers = [await viewers.do(event, videoId=video, actionId=action_id()) for _ in range(3)]
        assert [answer["total"] for answer in answers] == [1, 2, 3]
        assert [answer["already"] for answer in answers] == [False, True, True]
        assert [answer.get("reason") for answer in answers] == [None, "already_paid", "already_paid"]
    await stage.settled(creator)
    [shared] = await creators.told("video_share")
    assert shared["data"]["channel"] is None
    await creators.caught_up((await stage.inbox(creator))["seq"])
    assert creators.events() == [shared], "views notify nobody, shares once"


async def test_a_share_tells_its_channel_and_a_view_its_time(stage: Stage) -> None:
    creator, viewer = await stage.person(), await stage.person()
    video = await stage.video(creator)
    creators, viewers = await stage.phone(creator), await stage.phone(viewer)

    await viewers.do("video:share", videoId=video, actionId=action_id(), channel="whatsapp")
    await viewers.do("video:view", videoId=video, actionId=action_id(), watchedMs=12_000)

    [shared] = await creators.told("video_share")
    assert shared["data"] == {
        "actorId": viewer, "actorUsername": f"user_{viewer}", "videoId": video, "count": 1, "actorIds": [viewer],
        "channel": "whatsapp",
    }  # fmt: skip
    answer = await stage.server.ask("GET", f"/v1/videos/{video}")
    assert (answer.body["totalShares"], answer.body["totalViews"], answer.body["totalLikes"]) == (1, 1, 0)


async def test_ones_own_video_is_recorded_and_never_paid(stage: Stage) -> None:
    creator = await stage.person(follows=VIEWER, followers=CREATOR)
    video = await stage.video(creator)
    phone = await stage.phone(creator)

    for event in ("video:like", "video:view", "video:share"):
        data = await phone.do(event, videoId=video, actionId=action_id())
        assert data == {"videoId": video, "total": 1, "already": False, "award": None, "reason": "own_video"}
    assert await stage.balance(creator) == (0, 0), "and nobody is told"


async def test_the_same_action_id_gives_the_first_answer_and_changes_nothing(stage: Stage) -> None:
    creator, viewer = await stage.person(followers=CREATOR), await stage.person(follows=VIEWER)
    video, other = await stage.video(creator), await stage.video(creator)
    phone, tablet = await stage.phone(viewer), await stage.phone(viewer)
    key = action_id()
    share = {"videoId": video, "actionId": key, "channel": "x"}

    first = await phone.call("video:share", share)
    assert "replayed" not in first
    assert await phone.call("video:share", share) == first | {"replayed": True}
    reordered = dict(reversed(share.items()))
    assert await tablet.call("video:share", reordered) == first | {"replayed": True}, (
        "the order of keys is no other payload"
    )
    await phone.fail("idempotency_conflict", "video:share", share | {"videoId": other})
    await phone.fail("idempotency_conflict", "video:share", {"videoId": video, "actionId": key})
    await tablet.fail("idempotency_conflict", "video:view", {"videoId": video, "actionId": key})
    assert (await stage.server.ask("GET", f"/v1/videos/{video}")).body["totalShares"] == 1
    assert await stage.balance(viewer) == (2, 1)


async def test_an_action_id_is_its_users_own(stage: Stage) -> None:
    creator, one, two = [await stage.person(follows=VIEWER) for _ in range(3)]
    video = await stage.video(creator)
    like = {"videoId": video, "actionId": action_id()}

    answers = [await (await stage.phone(user)).call("video:like", like) for user in (one, two)]

    assert [answer["data"]["total"] for answer in answers] == [1, 2]
    assert ["replayed" in answer for answer in answers] == [False, False]


async def test_the_same_action_sent_at_once_from_everywhere_happens_once(stage: Stage) -> None:
    creator, viewer = await stage.person(followers=CREATOR), await stage.person(follows=VIEWER)
    video = await stage.video(creator)
    phones = [await stage.phone(viewer) for _ in range(3)]
    like = {"videoId": video, "actionId": action_id()}

    answers = await asyncio.gather(*(phone.call("video:like", like) for phone in phones for _ in range(5)))

    assert sum("replayed" not in answer for answer in answers) == 1
    assert len({str(answer["data"]) for answer in answers}) == 1
    assert await stage.balance(viewer) == (1, 1)
    assert await stage.balance(creator) == (1, 2)


async def test_a_refusal_leaves_no_trace_so_a_later_try_succeeds(stage: Stage) -> None:
    creator, viewer = await stage.person(), await stage.person(follows=VIEWER)
    phone = await stage.phone(viewer)
    video = f"later-{creator}"
    like = {"videoId": video, "actionId": action_id()}

    error = await phone.fail("not_found", "video:like", like)
    assert error["retryable"] is False
    assert "outcome" not in error
    await stage.server.ask("PUT", f"/v1/videos/{video}", {"ownerId": creator, "title": "Later"})
    answer = await phone.call("video:like", like)
    assert (answer["ok"], answer.get("replayed")) == (True, None)


async def test_an_event_without_an_ack_is_carried_out(stage: Stage) -> None:
    creator, viewer = await stage.person(), await stage.person(follows=VIEWER)
    video = await stage.video(creator)
    phone = await stage.phone(viewer)
    like = {"videoId": video, "actionId": action_id()}

    await phone.send("video:like", like)
    await phone.send("video:like", {"videoId": "no such video", "actionId": action_id()})

    await phone.told("points_earned")
    assert phone.of("ack") == []
    assert (await phone.call("video:like", like))["replayed"] is True


@pytest.mark.parametrize("client", ["phone", "js_phone"])
async def test_on_the_acting_connection_the_ack_comes_before_its_events(stage: Stage, client: str) -> None:
    creator, viewer = await stage.person(), await stage.person(follows=VIEWER)
    videos = [await stage.video(creator) for _ in range(20)]
    acting = await getattr(stage, client)(viewer)
    watching = await stage.phone(viewer)

    likes = [{"videoId": video, "actionId": action_id()} for video in videos]
    await asyncio.gather(*(acting.call("video:like", like) for like in likes))
    await asyncio.gather(acting.caught_up(len(videos)), watching.caught_up(len(videos)))

    acked: list[str] = []
    for name, data in acting.log:
        if name == "ack":
            acked.append(data["data"]["videoId"])
        elif name == "notification":
            assert data["data"]["metadata"]["videoId"] in acked
    assert acked == videos, "answers come in the order of the questions"
    assert watching.events() == acting.events()


async def test_a_read_behind_actions_sees_them(stage: Stage) -> None:
    creator, viewer = await stage.person(), await stage.person(follows=VIEWER)
    phone = await stage.phone(viewer)
    likes = [{"videoId": await stage.video(creator), "actionId": action_id()} for _ in range(10)]

    *_, wallet = await asyncio.gather(*(phone.call("video:like", like) for like in likes), phone.call("wallet:get", {}))

    assert wallet["data"]["balances"][0]["balance"] == 10


async def test_a_popular_video_is_gathered(stage: Stage) -> None:
    """Eighty likes at once: the creator hears a few times, and earns every point."""
    fans = 80
    creator = await stage.person(followers=CREATOR)
    video = await stage.video(creator)
    creators = await stage.phone(creator)
    crowd = await asyncio.gather(*(stage.person(follows=VIEWER) for _ in range(fans)))
    phones = await asyncio.gather(*(stage.phone(fan) for fan in crowd))

    await asyncio.gather(*(phone.do("video:like", videoId=video, actionId=action_id()) for phone in phones))

    def earned() -> list[Any]:
        return [event["data"] for event in creators.events("points_earned")]

    await creators.until(lambda: sum(data["points"] for data in earned()) >= fans, "all points")
    awards, notices = earned(), [event["data"] for event in creators.events("video_like")]
    moments = [datetime.fromisoformat(data["timestamp"]) for data in awards]
    assert all((after - before).total_seconds() > 0.998 for before, after in pairwise(moments)), "one a second"
    assert len(awards) < fans / 4, "gathered"
    assert sum(data["points"] for data in awards) == fans
    assert sum(data["metadata"]["count"] for data in awards) == fans
    assert awards[-1]["metadata"]["totalLikes"] == fans
    assert awards[-1]["newBalance"] == fans
    for data in awards:
        count = data["metadata"]["count"]
        assert data["points"] == count
        assert data["reason"] == (f"Your video received {count} likes" if count > 1 else "Your video received a like")
    assert sum(data["count"] for data in notices) == fans
    assert len(notices) == len(awards)
    for data in notices:
        assert len(data["actorIds"]) == min(data["count"], 10)
        assert data["actorId"] == data["actorIds"][0]
        assert data["actorUsername"] == f"user_{data['actorId']}"
        assert set(data["actorIds"]) <= set(crowd)
    assert (await stage.server.ask("GET", f"/v1/videos/{video}")).body["totalLikes"] == fans


async def test_history_is_the_chain_behind_the_balance(stage: Stage) -> None:
    creator, viewer = await stage.person(), await stage.person(follows=VIEWER)
    phone = await stage.phone(viewer)
    for _ in range(5):
        await phone.do("video:share", videoId=await stage.video(creator), actionId=action_id())

    rows: list[Any] = []
    page = await phone.do("wallet:history", limit=2)
    while True:
        rows += page["transactions"]
        if page["nextCursor"] is None:
            break
        page = await phone.do("wallet:history", limit=2, cursor=page["nextCursor"])

    assert [row["n"] for row in rows] == [5, 4, 3, 2, 1]
    assert [(row["balanceBefore"], row["balanceAfter"]) for row in rows] == [(8, 10), (6, 8), (4, 6), (2, 4), (0, 2)]
    assert {(row["userId"], row["currency"], row["action"], row["points"], row["status"]) for row in rows} == {
        (viewer, "LYK", "video_shared", 2, "completed")
    }
    assert [row["id"] for row in reversed(rows)] == [event["id"] for event in await phone.told("points_earned", 5)]
