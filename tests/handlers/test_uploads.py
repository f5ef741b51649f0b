"""Batches of uploads: by rules, and on the real database."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.awards import Award
from handlers.deed import Deed
from handlers.uploads.handler import UploadHandler
from handlers.uploads.rules import Books, Creator, Outcome, decide
from storage import db, heads, videos
from storage.audit import audit
from storage.videos import fetch_video
from tests.support.deeds import Runs, deed
from tests.support.engagements import CREATOR, FAN, OTHER_CREATOR, STRANGER, awards_of, balances, seed
from tests.support.videos import upsert_video

# -- rules -------------------------------------------------------------------------------------------

AWARD: Final = Award(500, 1000)


def books(owners: dict[str, int], followers: int = 1000, paid: set[tuple[int, str]] | None = None) -> Books:
    return Books(
        award=AWARD,
        creators={user: Creator(0, 0, 0, followers) for user in (1, 2)},
        owners=owners,
        paid=paid or set(),
    )


@pytest.mark.parametrize(
    ("owner", "followers", "paid", "outcome"),
    [
        (1, 1000, False, Outcome(is_others=False, points=500, new_balance=500)),
        (1, 999, False, Outcome(is_others=False, reason="not_eligible")),
        (1, 1000, True, Outcome(is_others=False, reason="already_paid")),
        (1, 0, True, Outcome(is_others=False, reason="already_paid")),
        (2, 1000, False, Outcome(is_others=True)),
        (2, 1000, True, Outcome(is_others=True)),
    ],
)
def test_outcomes(owner: int, followers: int, paid: bool, outcome: Outcome) -> None:
    stage = books({"v": owner}, followers, {(1, "v")} if paid else None)
    assert decide(stage, user_id=1, video_id="v", title="T", origin="o") == outcome
    assert stage.titles == ({"v": "T"} if owner == 1 else {})
    assert len(stage.payments) == (outcome.points > 0)


uploads = st.tuples(st.sampled_from([1, 2]), st.sampled_from("abc"), st.sampled_from(["X", "Y"]))


@given(st.lists(uploads, max_size=20), st.booleans())
def test_each_user_is_paid_once_per_video_of_theirs(deeds: list[tuple[int, str, str]], eligible: bool) -> None:
    owners = {"a": 1, "b": 2, "c": 1}
    stage = books(owners, 1000 if eligible else 999)
    for user, video, title in deeds:
        decide(stage, user_id=user, video_id=video, title=title, origin="o")
    own = [(user, video) for user, video, _ in deeds if owners[video] == user]
    assert [(p.user_id, p.video_id) for p in stage.payments] == (list(dict.fromkeys(own)) if eligible else [])
    assert stage.titles == {video: title for user, video, title in deeds if owners[video] == user}
    for user in (1, 2):
        mine = [p for p in stage.payments if p.user_id == user]
        assert [(p.seq, p.n, p.balance_before) for p in mine] == [(n + 1, n + 1, n * 500) for n in range(len(mine))]
        assert stage.creators[user].balance == 500 * len(mine)


# -- on the database ---------------------------------------------------------------------------------


def upload(user: int, video: str = "new", title: str = "Sunrise", **fields: Any) -> Deed:
    return deed(user, "video:upload", videoId=video, title=title, **fields)


async def runs_on(conn: asyncpg.Connection) -> Runs:
    awards = await awards_of(conn)
    return Runs(conn, UploadHandler(awards=lambda: awards))


@pytest.fixture
async def runs(conn: asyncpg.Connection) -> Runs:
    """Runs batches on `conn`, whose database has people and videos."""
    await seed(conn)
    return await runs_on(conn)


@pytest.fixture(autouse=True)
async def _audited(conn: asyncpg.Connection) -> Any:
    """Whatever a test does, the books are right afterwards."""
    yield
    assert await audit(conn) == []


async def video(conn: asyncpg.Connection, video_id: str = "new") -> tuple[int, str] | None:
    """(owner, title)."""
    stored = await fetch_video(conn, video_id)
    return (stored.owner_id, stored.title) if stored else None


async def test_an_upload_is_registered_and_paid(runs: Runs, conn: asyncpg.Connection) -> None:
    assert await runs.data(upload(CREATOR)) == [{"videoId": "new", "award": {"points": 5, "newBalance": 5}}]
    assert await video(conn) == (CREATOR, "Sunrise")
    [earned] = runs.told(CREATOR)
    assert (earned["seq"], earned["type"]) == (1, "points_earned")
    data = earned["data"]
    assert (data["action"], data["points"], data["reason"]) == ("video_uploaded", 5, "Uploaded a video")
    assert data["metadata"] == {"videoId": "new", "videoTitle": "Sunrise", "userType": "creator"}


async def test_it_pays_once_for_ever_whatever_is_deleted_and_uploaded_again(
    runs: Runs, conn: asyncpg.Connection
) -> None:
    await runs.data(upload(CREATOR))
    assert await runs.data(upload(CREATOR, title="Again")) == [
        {"videoId": "new", "award": None, "reason": "already_paid"}
    ]
    assert await video(conn) == (CREATOR, "Again")
    await videos.mark_deleted(conn, "new")
    assert await runs.data(upload(CREATOR, title="Back")) == [
        {"videoId": "new", "award": None, "reason": "already_paid"}
    ]
    assert await video(conn) == (CREATOR, "Back")
    await upsert_video(conn, "new", OTHER_CREATOR, None)
    await upsert_video(conn, "new", CREATOR, None)
    assert (await runs.data(upload(CREATOR)))[0]["reason"] == "already_paid"
    assert await balances(conn) == {CREATOR: 500}


async def test_a_video_that_a_backend_put_is_paid_at_the_first_upload(runs: Runs, conn: asyncpg.Connection) -> None:
    assert (await runs.data(upload(CREATOR, "a")))[0]["award"] == {"points": 5, "newBalance": 5}
    assert await video(conn, "a") == (CREATOR, "Sunrise")


async def test_an_upload_is_a_fresh_try_at_an_award_that_was_not_paid(runs: Runs, conn: asyncpg.Connection) -> None:
    assert (await runs.data(upload(STRANGER)))[0]["reason"] == "not_eligible"
    assert await video(conn) == (STRANGER, "Sunrise"), "registered all the same"
    await conn.execute("UPDATE users SET followers_count = 1000 WHERE id = $1", STRANGER)
    assert (await runs.data(upload(STRANGER)))[0]["award"] == {"points": 5, "newBalance": 5}


async def test_another_s_video_is_a_conflict_that_is_kept(runs: Runs, conn: asyncpg.Connection) -> None:
    [refused] = await runs.run(upload(CREATOR, "c", action_id="the-key-1"))
    assert (refused["ok"], refused["error"]["code"], refused["error"]["field"]) == (False, "conflict", "videoId")
    assert await video(conn, "c") == (OTHER_CREATOR, "C")
    await upsert_video(conn, "c", CREATOR, None)
    assert await runs.run(upload(CREATOR, "c", action_id="the-key-1")) == [{**refused, "replayed": True}]
    assert (await runs.data(upload(CREATOR, "c")))[0]["award"], "another key is another try"


async def test_the_id_of_a_deleted_video_stays_its_owner_s(runs: Runs, conn: asyncpg.Connection) -> None:
    await videos.mark_deleted(conn, "c")
    [refused] = await runs.run(upload(CREATOR, "c"))
    assert refused["error"]["code"] == "conflict"
    assert await video(conn, "c") is None


async def test_a_key_uploads_once(runs: Runs, conn: asyncpg.Connection) -> None:
    first, again, other = await runs.run(
        upload(CREATOR, action_id="the-key-1"), upload(CREATOR, action_id="the-key-1"),
        upload(CREATOR, "another", action_id="the-key-1"),
    )  # fmt: skip
    assert again == {**first, "replayed": True}
    assert other == "idempotency_conflict"
    assert await video(conn, "another") is None, "nothing is registered by what is refused"
    assert await runs.run(upload(CREATOR, "another", action_id="the-key-1")) == ["idempotency_conflict"]
    assert await video(conn, "another") is None
    await runs.data(upload(CREATOR, title="Newer"))
    assert await runs.run(upload(CREATOR, action_id="the-key-1")) == [again]
    assert await video(conn) == (CREATOR, "Newer"), "a replay changes nothing"


async def test_two_users_of_one_batch_want_the_same_id(runs: Runs, conn: asyncpg.Connection) -> None:
    first, second, third = await runs.run(
        upload(CREATOR), upload(OTHER_CREATOR, title="Mine"), upload(CREATOR, title="Still mine")
    )
    assert first["data"]["award"] == {"points": 5, "newBalance": 5}
    assert second["error"]["code"] == "conflict"
    assert third["data"]["reason"] == "already_paid"
    assert await video(conn) == (CREATOR, "Still mine")
    assert await balances(conn) == {CREATOR: 500}


async def test_who_races_for_an_id_over_two_nodes_wins_alone(runs: Runs, conn: asyncpg.Connection, dsn: str) -> None:
    others = [await db.connect(dsn) for _ in range(4)]
    nodes = [await runs_on(other) for other in others]
    await conn.execute("UPDATE users SET followers_count = 1000")
    for turn in range(10):
        ids = [f"v-{turn}-{number}" for number in range(6)]
        # Each node takes them in another order, and must not wait for the other in a circle.
        answers = await asyncio.gather(
            *(node.run(*(upload(FAN + n, each) for each in (ids[n:] + ids[:n]))) for n, node in enumerate(nodes))
        )
        won = [answer["data"]["videoId"] for of_node in answers for answer in of_node if answer["ok"]]
        lost = [answer["error"]["code"] for of_node in answers for answer in of_node if not answer["ok"]]
        assert sorted(won) == sorted(ids)
        assert lost == ["conflict"] * 18
    for other in others:
        await other.close()
    assert sum((await balances(conn)).values()) == 60 * 500


async def test_who_loses_waits_for_the_other_s_commit(runs: Runs, conn: asyncpg.Connection, dsn: str) -> None:
    other = await db.connect(dsn)
    taking = other.transaction()
    await taking.start()
    await videos.insert_video(other, "new", OTHER_CREATOR, "First")
    waiting = asyncio.create_task(runs.run(upload(CREATOR)))
    look = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
    while not await other.fetchval(look):
        await asyncio.sleep(0.01)
    await taking.commit()
    [refused] = await waiting
    await other.close()
    assert refused["error"]["code"] == "conflict"
    assert await video(conn) == (OTHER_CREATOR, "First")


async def test_who_want_the_same_ids_in_another_order_don_t_wait_in_a_circle(
    runs: Runs, conn: asyncpg.Connection, dsn: str
) -> None:
    """Both stop in the middle of their claims; unsorted, each would then hold what the other wants."""
    taker, other = await db.connect(dsn), await db.connect(dsn)
    taking = taker.transaction()
    await taking.start()
    await videos.insert_video(taker, "m", STRANGER, "First")
    one = asyncio.create_task(runs.run(*(upload(CREATOR, each) for each in ("z", "m", "aa"))))
    two = asyncio.create_task((await runs_on(other)).run(*(upload(OTHER_CREATOR, each) for each in ("aa", "m", "z"))))
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    while await taker.fetchval(waiting) < 2:
        await asyncio.sleep(0.01)
    await taking.commit()
    answers = [*await one, *await two]
    await taker.close()
    await other.close()
    assert sum(answer["ok"] for answer in answers) == 2, "z and aa have one winner each"


async def test_whose_head_is_held_waits(runs: Runs, conn: asyncpg.Connection, dsn: str) -> None:
    other = await db.connect(dsn)
    held = other.transaction()
    await held.start()
    await heads.lock(other, [CREATOR])
    waits, passes = upload(CREATOR), upload(OTHER_CREATOR, "another")
    answers = await runs.run(waits, passes, skip_locked=True)
    assert (answers[0], answers[1]["ok"]) == (None, True)
    assert await runs.run(waits, skip_locked=True) == [None]
    await held.rollback()
    await other.close()
    assert await video(conn) is None
    await runs.data(waits)
