"""Batches of likes, views and shares, and the settler, on the real database."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from handlers.engagement.settler import Settler
from handlers.inbox.envelope import render
from storage import db, heads
from storage.audit import audit
from tests.support.engagements import (
    CREATOR,
    FAN,
    OTHER_CREATOR,
    STRANGER,
    Batches,
    asked,
    awards_of,
    balances,
    let_pass,
    of_user,
    seed,
)
from tests.support.videos import upsert_video


@pytest.fixture
async def batches(conn: asyncpg.Connection) -> Batches:
    """Runs batches on `conn`, whose database has people and videos."""
    await seed(conn, fans=40)
    return Batches(conn, await awards_of(conn))


@pytest.fixture(autouse=True)
async def _audited(conn: asyncpg.Connection) -> Any:
    """Whatever a test does, the books are right afterwards, with what waits and without."""
    yield
    assert await audit(conn) == []
    await let_pass(conn, 2)
    await Settler().settle(conn)
    assert await audit(conn) == []


def envelopes(batches: Batches, user_id: int) -> list[Any]:
    return [json.loads(render(event.row)) for event in of_user(batches.events, user_id)]


# -- keys --------------------------------------------------------------------------------------------


async def test_a_like_is_answered_paid_and_told(batches: Batches, conn: asyncpg.Connection) -> None:
    [data] = await batches.data(asked(FAN, "video:like"))
    assert data == {"videoId": "a", "total": 1, "already": False, "award": {"points": 1, "newBalance": 1}}
    assert await balances(conn) == {FAN: 100, CREATOR: 100}
    [earned] = envelopes(batches, FAN)
    assert (earned["type"], earned["eventType"], earned["seq"]) == ("points_earned", "wallet:points:earned", 1)
    assert earned["data"]["metadata"] == {"videoId": "a", "videoTitle": "A", "userType": "viewer"}
    told, paid = envelopes(batches, CREATOR)
    assert (told["type"], told["seq"], told["data"]) == (
        "video_like",
        1,
        {"actorId": FAN, "actorUsername": f"user_{FAN}", "videoId": "a", "count": 1, "actorIds": [FAN]},
    )
    assert (paid["seq"], paid["data"]["action"], paid["data"]["reason"]) == (
        2, "like_received", "Your video received a like",
    )  # fmt: skip
    assert paid["data"]["metadata"] == {
        "videoId": "a", "videoTitle": "A", "userType": "creator", "count": 1, "totalLikes": 1,
    }  # fmt: skip


async def test_the_same_key_is_answered_again_and_changes_nothing(batches: Batches, conn: asyncpg.Connection) -> None:
    [first] = await batches.run(asked(FAN, "video:like", action_id="the-key-1"))
    before = await balances(conn), len(batches.events)
    [again] = await batches.run(asked(FAN, "video:like", action_id="the-key-1"))
    assert again == {**first, "replayed": True}
    assert (await balances(conn), len(batches.events)) == before


async def test_the_same_key_twice_in_one_batch(batches: Batches, conn: asyncpg.Connection) -> None:
    one, two = asked(FAN, "video:share", action_id="the-key-1"), asked(FAN, "video:share", action_id="the-key-1")
    first, second = await batches.run(one, two)
    assert second == {**first, "replayed": True}
    assert await conn.fetchval("SELECT count FROM engagements") == 1
    assert await conn.fetchval("SELECT count(*) FROM requests") == 1


async def test_a_batch_that_runs_again_after_an_unknown_commit_is_no_replay(batches: Batches) -> None:
    like = asked(FAN, "video:like")
    [first] = await batches.run(like)
    like.deed.attempted = True
    assert await batches.run(like) == [first]


async def test_a_replay_stays_one_when_its_batch_runs_again(batches: Batches) -> None:
    await batches.run(asked(FAN, "video:like", action_id="the-key-1"))
    repeated = asked(FAN, "video:like", action_id="the-key-1")
    [first] = await batches.run(repeated)
    repeated.deed.attempted = True
    assert await batches.run(repeated) == [first]
    assert first["replayed"]


@pytest.mark.parametrize("same_batch", [True, False])
async def test_the_same_key_for_another_action_is_a_conflict(
    batches: Batches, conn: asyncpg.Connection, same_batch: bool
) -> None:
    like = asked(FAN, "video:like", action_id="the-key-1")
    others = [
        asked(FAN, "video:view", action_id="the-key-1"),
        asked(FAN, "video:like", "b", action_id="the-key-1"),
        asked(FAN, "video:share", action_id="the-key-1", channel="x"),
    ]
    if same_batch:
        answers = await batches.run(like, *others)
    else:
        answers = [*await batches.run(like), *await batches.run(*others)]
    assert answers[1:] == ["idempotency_conflict"] * 3
    assert await conn.fetchval("SELECT count(*) FROM engagements") == 1


async def test_keys_are_each_user_s_own(batches: Batches) -> None:
    answers = await batches.run(*(asked(FAN + each, "video:like", action_id="the-key-1") for each in range(3)))
    assert [answer["data"]["total"] for answer in answers] == [1, 2, 3]
    assert not any("replayed" in answer for answer in answers)


async def test_a_key_is_free_again_after_seven_days(batches: Batches, conn: asyncpg.Connection) -> None:
    await batches.run(asked(FAN, "video:like", action_id="the-key-1"))
    await conn.execute("UPDATE requests SET created_at = created_at - interval '6 days 23 hours'")
    [kept] = await batches.run(asked(FAN, "video:like", action_id="the-key-1"))
    assert kept["replayed"]
    await conn.execute("UPDATE requests SET created_at = created_at - interval '2 hours'")
    [again] = await batches.run(asked(FAN, "video:like", action_id="the-key-1"))
    assert (again["data"]["reason"], "replayed" in again) == ("already_paid", False), "paid once all the same"
    [newest] = await batches.run(asked(FAN, "video:like", action_id="the-key-1"))
    assert newest == {**again, "replayed": True}


async def test_a_refusal_leaves_no_trace(batches: Batches, conn: asyncpg.Connection) -> None:
    assert await batches.run(asked(FAN, "video:like", "new", action_id="the-key-1")) == ["not_found"]
    await upsert_video(conn, "new", CREATOR, "New")
    [answer] = await batches.run(asked(FAN, "video:like", "new", action_id="the-key-1"))
    assert answer["ok"]
    assert "replayed" not in answer


async def test_what_is_not_found_does_not_stop_the_rest_of_its_batch(batches: Batches) -> None:
    first, missing, last = await batches.run(
        asked(FAN, "video:like"), asked(FAN, "video:like", "nowhere"), asked(FAN, "video:like", "b")
    )
    assert (first["ok"], missing, last["ok"]) == (True, "not_found", True)


# -- paid once ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("one_batch", [True, False])
async def test_like_unlike_like_pays_once(batches: Batches, conn: asyncpg.Connection, one_batch: bool) -> None:
    deeds = [asked(FAN, event) for event in ("video:like", "video:unlike", "video:like", "video:like")]
    if one_batch:
        data = await batches.data(*deeds)
    else:
        data = [(await batches.data(deed))[0] for deed in deeds]
    assert [(d["total"], d["already"], d.get("reason")) for d in data] == [
        (1, False, None),
        (0, False, None),
        (1, False, "already_paid"),
        (1, True, "already_paid"),
    ]
    await let_pass(conn, 2)
    await Settler().settle(conn)
    assert await balances(conn) == {FAN: 100, CREATOR: 100}
    assert await conn.fetchval("SELECT count(*) FROM inbox") == 1, "and tells once"


async def test_who_becomes_eligible_later_is_paid_later(batches: Batches, conn: asyncpg.Connection) -> None:
    [data] = await batches.data(asked(STRANGER, "video:like"))
    assert data["reason"] == "not_eligible"
    await conn.execute("UPDATE users SET following_count = 100 WHERE id = $1", STRANGER)
    [data] = await batches.data(asked(STRANGER, "video:like"))
    assert (data["already"], data["award"]) == (True, {"points": 1, "newBalance": 1})
    [data] = await batches.data(asked(STRANGER, "video:like"))
    assert data["reason"] == "already_paid"
    assert await balances(conn) == {STRANGER: 100, CREATOR: 100}


async def test_a_creator_who_becomes_eligible_is_paid_for_a_like_that_stood(
    batches: Batches, conn: asyncpg.Connection
) -> None:
    await batches.data(asked(FAN, "video:like", "s"))
    assert await balances(conn) == {FAN: 100}
    await conn.execute("UPDATE users SET followers_count = 1000 WHERE id = $1", STRANGER)
    await let_pass(conn, 2)
    await batches.data(asked(FAN, "video:like", "s"))
    assert await balances(conn) == {FAN: 100, STRANGER: 100}


async def test_one_s_own_video_is_recorded_and_never_paid(batches: Batches, conn: asyncpg.Connection) -> None:
    data = await batches.data(*(asked(CREATOR, f"video:{verb}") for verb in ("like", "view", "share")))
    assert [d["reason"] for d in data] == ["own_video"] * 3
    assert await balances(conn) == {}
    assert batches.events == []
    assert await conn.fetchval("SELECT sum(total) FROM video_counters") == 3


async def test_two_creators_like_each_other_and_themselves_in_one_batch(
    batches: Batches, conn: asyncpg.Connection
) -> None:
    """Each is actor and owner at once: their running balance and seq serve both."""
    await batches.data(
        asked(CREATOR, "video:like", "c"), asked(OTHER_CREATOR, "video:like", "a"),
        asked(OTHER_CREATOR, "video:view", "b"), asked(CREATOR, "video:like", "a"),
    )  # fmt: skip
    assert await balances(conn) == {CREATOR: 100 + 100 + 10, OTHER_CREATOR: 100 + 100 + 100}


async def test_a_video_that_changes_hands_meanwhile_waits_for_the_next_batch(
    batches: Batches, conn: asyncpg.Connection
) -> None:
    await batches.data(asked(FAN, "video:like", "c"))  # so that the two owners' balances differ
    like, later, unconcerned = (
        asked(FAN, "video:like"),
        asked(FAN, "video:like", "c"),
        asked(FAN + 1, "video:view", "c"),
    )
    handed_over = upsert_video(conn, "a", OTHER_CREATOR, None)
    answers = await batches.run(like, later, unconcerned, meanwhile=handed_over)
    assert answers[:2] == [None, None]
    assert answers[2]["ok"]
    await batches.data(like, later)
    assert await balances(conn) == {FAN: 200, FAN + 1: 100, OTHER_CREATOR: 100 + 10 + 100}


async def test_in_a_large_batch_it_is_whose_it_was_when_the_action_came(conn: asyncpg.Connection) -> None:
    """What is left to the settler needs no owner's head, and does not look at the video again."""
    await seed(conn)
    batches = Batches(conn, await awards_of(conn), prompt_batch=0)
    handed_over = upsert_video(conn, "a", OTHER_CREATOR, None)
    [answer] = await batches.run(asked(FAN, "video:like"), meanwhile=handed_over)
    assert answer["ok"]
    await batches.data(asked(FAN + 1, "video:like"))
    assert len(await Settler().settle(conn)) == 4, "both owners, each told and paid of the same video"
    assert await balances(conn) == {FAN: 100, FAN + 1: 100, CREATOR: 100, OTHER_CREATOR: 100}
    assert await conn.fetchval("SELECT total FROM video_counters") == 2


# -- quiet and popular -------------------------------------------------------------------------------


async def test_a_popular_creator_hears_once_a_second_of_all(batches: Batches, conn: asyncpg.Connection) -> None:
    await batches.data(asked(FAN, "video:like"))
    assert len(of_user(batches.events, CREATOR)) == 2
    batches.events.clear()
    await let_pass(conn, -60)  # however long the machine takes
    for each in range(1, 31):
        [data] = await batches.data(asked(FAN + each, "video:like"))
        assert data["total"] == 1 + each, "the total holds what waits"
    await batches.data(asked(FAN + 5, "video:unlike"))
    await batches.data(asked(STRANGER, "video:like"))
    assert of_user(batches.events, CREATOR) == []
    assert await balances(conn) == {CREATOR: 100, **{FAN + each: 100 for each in range(31)}}

    assert await Settler().settle(conn) == [], "not before its second is over"
    await let_pass(conn, 62)
    told, paid = (json.loads(render(event.row)) for event in await Settler().settle(conn))
    assert (told["type"], told["seq"], paid["seq"]) == ("video_like", 3, 4)
    newest = [STRANGER, *range(FAN + 30, FAN + 21, -1)]
    assert told["data"] == {
        "actorId": STRANGER, "actorUsername": "stranger", "videoId": "a", "count": 31, "actorIds": newest,
    }  # fmt: skip
    data = paid["data"]
    assert (data["points"], data["previousBalance"], data["newBalance"]) == (31, 1, 32), "a like that counts no more"
    assert data["reason"] == "Your video received 31 likes"
    assert data["metadata"]["count"] == 31
    assert data["metadata"]["totalLikes"] == 31
    assert await Settler().settle(conn) == []


async def test_a_thousand_views_are_one_entry_of_a_hundred_points(batches: Batches, conn: asyncpg.Connection) -> None:
    await seed(conn, fans=1000)
    large = Batches(conn, await awards_of(conn))
    for start in range(0, 1000, 500):
        await large.data(*(asked(FAN + each, "video:view") for each in range(start, start + 500)))
    assert of_user(large.events, CREATOR) == [], "in a large batch quiet creators wait too"
    [event] = await Settler().settle(conn)
    data = json.loads(render(event.row))["data"]
    assert (data["points"], data["reason"]) == (100, "Your video received 1000 views")
    assert (data["metadata"]["count"], data["metadata"]["totalViews"]) == (1000, 1000)


async def test_each_video_and_kind_is_quiet_by_itself(batches: Batches, conn: asyncpg.Connection) -> None:
    await batches.data(
        asked(FAN, "video:like", "a"), asked(FAN, "video:like", "b"), asked(FAN, "video:view", "a"),
        asked(FAN, "video:share", "a"), asked(FAN, "video:like", "c"),
    )  # fmt: skip
    assert await conn.fetchval("SELECT count(*) FROM accruals") == 0
    assert [event.seq for event in of_user(batches.events, CREATOR)] == [1, 2, 3, 4, 5, 6, 7]


async def test_a_second_later_the_creator_is_quiet_again(batches: Batches, conn: asyncpg.Connection) -> None:
    await batches.data(asked(FAN, "video:like"))
    await let_pass(conn, 1.01)
    await batches.data(asked(FAN + 1, "video:like"))
    assert len(of_user(batches.events, CREATOR)) == 4
    assert await conn.fetchval("SELECT count(*) FROM accruals") == 0


async def test_while_something_waits_nothing_goes_past_it(batches: Batches, conn: asyncpg.Connection) -> None:
    await batches.data(asked(FAN, "video:like"), asked(FAN + 1, "video:like"))
    await let_pass(conn, 2)
    await batches.data(asked(FAN + 2, "video:like"))
    assert len(of_user(batches.events, CREATOR)) == 2
    [told, paid] = await Settler().settle(conn)
    assert json.loads(render(told.row))["data"]["actorIds"] == [FAN + 2, FAN + 1]
    assert json.loads(render(paid.row))["data"]["points"] == 2


async def test_shares_carry_the_newest_channel(batches: Batches, conn: asyncpg.Connection) -> None:
    await batches.data(asked(FAN, "video:share", channel="first"))
    [told, _] = envelopes(batches, CREATOR)
    assert (told["type"], told["data"]["channel"]) == ("video_share", "first")
    await let_pass(conn, -60)
    await batches.data(asked(FAN + 1, "video:share", channel="second"))
    await batches.data(asked(FAN + 2, "video:share"))
    await let_pass(conn, 62)
    told = json.loads(render((await Settler().settle(conn))[0].row))
    assert (told["data"]["channel"], told["data"]["actorId"], told["data"]["count"]) == (None, FAN + 2, 2)


async def test_an_unlike_alone_reaches_the_total_and_tells_nobody(batches: Batches, conn: asyncpg.Connection) -> None:
    await batches.data(asked(FAN, "video:like"))
    await let_pass(conn, -60)
    await batches.data(asked(FAN, "video:unlike"))
    assert await conn.fetchval("SELECT total FROM video_counters WHERE kind = 1") == 1
    await let_pass(conn, 62)
    assert await Settler().settle(conn) == []
    assert await conn.fetchval("SELECT total FROM video_counters WHERE kind = 1") == 0
    assert await conn.fetchval("SELECT count(*) FROM accruals") == 0


async def test_what_is_due_of_one_video_takes_nothing_of_another(batches: Batches, conn: asyncpg.Connection) -> None:
    for video in ("a", "b"):
        await batches.data(asked(FAN, "video:like", video), asked(FAN + 1, "video:like", video))
    await let_pass(conn, -60)
    await conn.execute("UPDATE video_counters SET last_paid_at = last_paid_at - interval '62 s' WHERE video_id = 'b'")
    assert [json.loads(render(event.row))["type"] for event in await Settler().settle(conn)] == [
        "video_like", "points_earned",
    ]  # fmt: skip
    assert [row[0] for row in await conn.fetch("SELECT video_id FROM accruals")] == ["a"]
    await let_pass(conn, 60)


async def test_the_settler_serves_several_videos_of_one_creator_in_one_chain(
    batches: Batches, conn: asyncpg.Connection
) -> None:
    for event in ("video:like", "video:view", "video:share"):
        await batches.data(*(asked(FAN + each, event, video) for each in range(3) for video in ("a", "b", "c")))
    before = await conn.fetchval("SELECT seq FROM heads WHERE user_id = $1", CREATOR)
    await let_pass(conn, 2)
    events = await Settler().settle(conn)
    mine = of_user(events, CREATOR)
    assert [event.seq for event in mine] == list(range(before + 1, before + len(mine) + 1))
    assert (await balances(conn))[CREATOR] == 2 * 3 * (100 + 10 + 100)
    assert (await balances(conn))[OTHER_CREATOR] == 3 * (100 + 10 + 100)


async def test_more_than_a_transaction_s_worth_is_settled_one_after_the_other(conn: asyncpg.Connection) -> None:
    await seed(conn)
    batches = Batches(conn, await awards_of(conn), prompt_batch=0)
    await batches.data(*(asked(FAN, "video:view", video) for video in ("a", "b", "c")))
    settler = Settler(most_places=2)
    for told, is_behind in ((2, True), (1, False), (0, False)):
        assert (len(await settler.settle(conn)), settler.is_behind) == (told, is_behind)


# -- other nodes -------------------------------------------------------------------------------------


async def test_whose_head_somebody_holds_waits_and_the_others_don_t(
    batches: Batches, conn: asyncpg.Connection, dsn: str
) -> None:
    other = await db.connect(dsn)
    held = other.transaction()
    await held.start()
    await heads.lock(other, [FAN, CREATOR])
    first, second, third = asked(FAN, "video:like"), asked(FAN + 1, "video:like"), asked(FAN, "video:view")
    answers = await batches.run(first, second, third, skip_locked=True)
    assert (answers[0], answers[2]) == (None, None)
    assert answers[1]["data"]["total"] == 1, "with the creator's part left to the settler"
    assert await conn.fetchval("SELECT count(*) FROM accruals") == 1
    assert await Settler().settle(conn) == [], "the creator's head is held too"
    assert await conn.fetchval("SELECT count(*) FROM accruals") == 1
    await held.rollback()
    await other.close()
    assert [answer["data"]["total"] for answer in await batches.run(first, third)] == [2, 1]


async def test_two_settlers_at_once_settle_once(batches: Batches, conn: asyncpg.Connection, dsn: str) -> None:
    await batches.data(*(asked(FAN + each, "video:like") for each in range(10)))
    await let_pass(conn, 2)
    others = [await db.connect(dsn) for _ in range(3)]
    settled = await asyncio.gather(*(Settler().settle(other) for other in others))
    for other in others:
        await other.close()
    assert sorted(map(len, settled)) == [0, 0, 2]
    assert (await balances(conn))[CREATOR] == 1000


async def test_the_same_key_through_two_nodes_at_once(batches: Batches, conn: asyncpg.Connection, dsn: str) -> None:
    awards = await awards_of(conn)
    others = [await db.connect(dsn) for _ in range(4)]
    nodes = [Batches(other, awards) for other in others]
    for turn in range(10):
        answers = await asyncio.gather(
            *(
                node.run(
                    asked(FAN, "video:share", action_id=f"turn-{turn:08}"),
                    *(asked(FAN + 1 + each, "video:like", action_id=f"turn-{turn:08}-{n}") for each in range(5)),
                )
                for n, node in enumerate(nodes)
            )
        )
        shares = [answer[0] for answer in answers]
        assert sum("replayed" in share for share in shares) == 3
        assert [share["data"] for share in shares] == [shares[0]["data"]] * 4
    for other in others:
        await other.close()
    assert await conn.fetchval("SELECT count FROM engagements WHERE kind = 3") == 10
    assert {user: points for user, points in (await balances(conn)).items() if user != CREATOR} == {
        FAN: 200,
        **{FAN + 1 + each: 100 for each in range(5)},
    }
