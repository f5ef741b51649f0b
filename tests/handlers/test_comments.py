"""Batches of comments on the real database: counted, told and paid each, up to the cap of a UTC day."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import msgspec
import pytest

from handlers.deed import Deed
from handlers.engagement.comments import CommentPages
from handlers.engagement.handler import EngagementHandler
from handlers.engagement.settler import Settler
from handlers.engagement.wire import CommentRequest
from handlers.errors import Refusal
from handlers.wire import encode
from storage import db, heads, videos
from storage.audit import audit
from storage.comments import LIST_NEWEST
from storage.videos import fetch_video
from tests.support.clock import at, have_clock
from tests.support.deeds import Runs, deed
from tests.support.engagements import CREATOR, FAN, OTHER_CREATOR, STRANGER, awards_of, balances, let_pass, seed
from tests.support.videos import upsert_video

NIGHT: Final = datetime(2026, 3, 2, 23, 59, 59, tzinfo=UTC)


def comment(user: int, text: str = "Nice!", video: str = "a", **fields: Any) -> Deed:
    return deed(user, "video:comment", videoId=video, text=text, **fields)


async def runs_on(conn: asyncpg.Connection, *, prompt_batch: int = 64) -> Runs:
    awards = await awards_of(conn)
    return Runs(conn, EngagementHandler(awards=lambda: awards, prompt_batch=prompt_batch))


@pytest.fixture
async def runs(conn: asyncpg.Connection) -> Runs:
    """Runs batches on `conn`, whose database has people and videos."""
    await seed(conn, fans=40)
    return await runs_on(conn)


@pytest.fixture(autouse=True)
async def _audited(conn: asyncpg.Connection) -> Any:
    """Whatever a test does, the books are right afterwards."""
    yield
    assert await audit(conn) == []


async def stored(conn: asyncpg.Connection, video: str = "a") -> list[str]:
    """The texts of a video, oldest first."""
    return [row[0] for row in await conn.fetch("SELECT text FROM comments WHERE video_id = $1 ORDER BY number", video)]


async def test_a_comment_is_answered_stored_paid_and_told(runs: Runs, conn: asyncpg.Connection) -> None:
    [data] = await runs.data(comment(FAN, "How lovely 🌅"))
    comment_id = data["commentId"]
    assert data == {
        "videoId": "a", "total": 1, "already": False, "award": {"points": 2, "newBalance": 2}, "commentId": comment_id,
    }  # fmt: skip
    assert await balances(conn) == {FAN: 200}, "the creator earns nothing by it"
    [earned] = runs.told(FAN)
    assert (earned["seq"], earned["data"]["action"], earned["data"]["reason"], earned["data"]["metadata"]) == (
        1, "comment_posted", "Commented on a video", {"videoId": "a", "videoTitle": "A", "userType": "viewer"},
    )  # fmt: skip
    [told] = runs.told(CREATOR)
    assert (told["seq"], told["type"], told["eventType"]) == (1, "video_comment", "notification:video_comment")
    assert told["data"] == {
        "actorId": FAN, "actorUsername": f"user_{FAN}", "videoId": "a", "commentId": comment_id,
        "text": "How lovely 🌅",
    }  # fmt: skip
    row = await conn.fetchrow("SELECT id::text, user_id, username, text, video_id FROM comments")
    assert tuple(row) == (comment_id, FAN, f"user_{FAN}", "How lovely 🌅", "a")


async def test_each_comment_is_told_by_itself_and_at_once(runs: Runs, conn: asyncpg.Connection) -> None:
    await runs.data(*(comment(FAN + each, str(each)) for each in range(5)))
    await runs.data(comment(FAN, "5"))
    assert [(event["seq"], event["data"]["text"]) for event in runs.told(CREATOR)] == [
        (each + 1, str(each)) for each in range(6)
    ]
    assert await conn.fetchval("SELECT count(*) FROM accruals") == 0
    assert (await fetch_video(conn, "a")).total_comments == 6  # type: ignore[union-attr]


@pytest.mark.parametrize("one_batch", [True, False])
async def test_five_a_day_are_paid(runs: Runs, conn: asyncpg.Connection, one_batch: bool) -> None:
    deeds = [comment(FAN, str(number)) for number in range(7)]
    data = await runs.data(*deeds) if one_batch else [(await runs.data(each))[0] for each in deeds]
    assert [d.get("reason") for d in data] == [None] * 5 + ["daily_cap"] * 2
    assert [d["total"] for d in data] == [1, 2, 3, 4, 5, 6, 7]
    assert not any(d["already"] for d in data)
    assert len({d["commentId"] for d in data}) == 7
    [data] = await runs.data(comment(FAN, video="c"))
    assert data["award"] == {"points": 2, "newBalance": 12}, "each video has a cap of its own"
    [data] = await runs.data(comment(FAN + 1))
    assert data["award"], "and each actor"
    assert len(runs.told(CREATOR)) == 8, "what is not paid is told all the same"
    assert await balances(conn) == {FAN: 1200, FAN + 1: 200}


async def test_the_cap_begins_again_at_midnight_utc_of_the_database(conn: asyncpg.Connection) -> None:
    await have_clock(conn, NIGHT)
    await conn.execute("SET timezone = 'Asia/Kathmandu'")  # where it is morning
    await seed(conn)
    runs = await runs_on(conn)
    for moment, paid in (
        (NIGHT, 5),
        (NIGHT + timedelta(microseconds=999_999), 0),
        (NIGHT + timedelta(seconds=1), 5),
        (NIGHT, 0),  # the clock was put back
        (NIGHT + timedelta(seconds=2), 0),
        (NIGHT + timedelta(days=1, seconds=1), 5),
    ):
        await at(conn, moment)
        data = await runs.data(*(comment(FAN) for _ in range(6)))
        assert [d["award"] is not None for d in data] == [True] * paid + [False] * (6 - paid), moment
    await conn.execute("SET timezone = 'UTC'")


async def test_who_is_not_eligible_counts_tells_and_keeps_the_day_free(runs: Runs, conn: asyncpg.Connection) -> None:
    data = await runs.data(*(comment(STRANGER) for _ in range(6)))
    assert [d["reason"] for d in data] == ["not_eligible"] * 6
    assert len(runs.told(CREATOR)) == 6
    await conn.execute("UPDATE users SET following_count = 100 WHERE id = $1", STRANGER)
    data = await runs.data(*(comment(STRANGER) for _ in range(6)))
    assert [d.get("reason") for d in data] == [None] * 5 + ["daily_cap"]


async def test_one_s_own_video_is_commented_on_without_pay_or_news(runs: Runs, conn: asyncpg.Connection) -> None:
    [data] = await runs.data(comment(CREATOR))
    assert (data["reason"], data["award"], data["total"]) == ("own_video", None, 1)
    assert runs.events == []
    assert await balances(conn) == {}
    assert await stored(conn) == ["Nice!"]


async def test_a_key_comments_once(runs: Runs, conn: asyncpg.Connection) -> None:
    one = comment(FAN, action_id="the-key-1")
    first, second = await runs.run(one, comment(FAN, action_id="the-key-1"))
    assert second == {**first, "replayed": True}
    again, other = await runs.run(
        comment(FAN, action_id="the-key-1"), comment(FAN, "Another text", action_id="the-key-1")
    )
    assert again == second
    assert other == "idempotency_conflict"
    assert await stored(conn) == ["Nice!"]
    assert await balances(conn) == {FAN: 200}


async def test_the_same_key_through_two_nodes_at_once(runs: Runs, conn: asyncpg.Connection, dsn: str) -> None:
    others = [await db.connect(dsn) for _ in range(4)]
    nodes = [await runs_on(other) for other in others]
    for turn in range(8):
        key = f"turn-{turn:08}"
        answers = await asyncio.gather(
            *(
                node.run(comment(FAN, key, action_id=key), comment(FAN + 1, f"{n} {key}"))
                for n, node in enumerate(nodes)
            )
        )
        assert sum("replayed" in mine for mine, _ in answers) == 3
        assert len({mine["data"]["commentId"] for mine, _ in answers}) == 1
    for other in others:
        await other.close()
    assert len(await stored(conn)) == 8 + 32
    assert await balances(conn) == {FAN: 1000, FAN + 1: 1000}, "five each, whichever node"
    assert await conn.fetchval("SELECT total FROM video_counters WHERE kind = 4") == 40


async def test_likes_and_comments_of_one_connection_share_a_batch_in_their_order(
    runs: Runs, conn: asyncpg.Connection
) -> None:
    events = [comment(FAN, "1"), deed(FAN, "video:like", videoId="a"), comment(FAN, "2"),
              deed(FAN, "video:view", videoId="a"), comment(OTHER_CREATOR, "3", "b")]  # fmt: skip
    data = await runs.data(*events)
    assert [d["award"]["newBalance"] for d in data] == [2, 3, 5, 6, 2]
    assert [event["seq"] for event in runs.told(CREATOR)] == list(range(1, 7))
    assert await balances(conn) == {FAN: 600, OTHER_CREATOR: 200, CREATOR: 110}


async def test_in_a_large_batch_comments_are_told_at_once_and_quiet_likes_wait(
    runs: Runs, conn: asyncpg.Connection
) -> None:
    large = await runs_on(conn, prompt_batch=2)
    await large.data(*(deed(FAN + each, "video:like", videoId="b") for each in range(3)), comment(FAN, video="c"))
    assert [event["type"] for event in large.told(OTHER_CREATOR)] == ["video_comment"]
    assert large.told(CREATOR) == []
    await let_pass(conn, 2)
    await Settler().settle(conn)


async def test_a_comment_waits_for_its_owner_s_head_and_the_actor_s_later_deeds_with_it(
    runs: Runs, conn: asyncpg.Connection, dsn: str
) -> None:
    other = await db.connect(dsn)
    held = other.transaction()
    await held.start()
    await heads.lock(other, [CREATOR])
    before, waits, behind = deed(FAN, "video:view", videoId="c"), comment(FAN), deed(FAN, "video:like", videoId="c")
    unconcerned = comment(FAN + 1, video="c")
    answers = await runs.run(before, waits, behind, unconcerned, skip_locked=True)
    assert [answer is not None for answer in answers] == [True, False, False, True]
    await held.rollback()
    await other.close()
    assert [data["total"] for data in await runs.data(waits, behind)] == [1, 1]


async def test_a_video_that_changes_hands_meanwhile_waits_for_the_next_batch(
    runs: Runs, conn: asyncpg.Connection
) -> None:
    await runs.data(comment(FAN, "first"))
    waits = comment(FAN + 1, "second")
    assert await runs.run(waits, meanwhile=upsert_video(conn, "a", OTHER_CREATOR, None)) == [None]
    await runs.data(waits)
    assert [event["data"]["text"] for event in runs.told(OTHER_CREATOR)] == ["second"]


async def test_who_was_paid_and_owns_the_video_now_is_paid_no_more(runs: Runs, conn: asyncpg.Connection) -> None:
    await runs.data(comment(FAN, video="c"))
    await upsert_video(conn, "c", FAN, None)
    [data] = await runs.data(comment(FAN, video="c"))
    assert data["reason"] == "own_video"
    assert await audit(conn) == []
    await upsert_video(conn, "c", CREATOR, None)
    [data] = await runs.data(comment(FAN, video="c"))
    assert data["award"] == {"points": 2, "newBalance": 4}


# -- deleted videos ----------------------------------------------------------------------------------


async def test_on_a_deleted_video_nobody_acts_and_what_waits_is_settled(runs: Runs, conn: asyncpg.Connection) -> None:
    await runs.data(*(deed(FAN + each, "video:like", videoId="a") for each in range(3)))
    assert await conn.fetchval("SELECT count(*) FROM accruals") == 1
    assert await videos.mark_deleted(conn, "a")
    assert not await videos.mark_deleted(conn, "a")
    assert await fetch_video(conn, "a") is None
    assert await audit(conn) == []
    verbs = [deed(FAN, f"video:{verb}", videoId="a") for verb in ("like", "unlike", "view", "share")]
    assert await runs.run(*verbs, comment(FAN)) == ["not_found"] * 5
    await let_pass(conn, 2)
    assert len(await Settler().settle(conn)) == 2
    assert await balances(conn) == {CREATOR: 300, FAN: 100, FAN + 1: 100, FAN + 2: 100}

    await upsert_video(conn, "a", None, "Only a title")
    assert await fetch_video(conn, "a") is None
    await upsert_video(conn, "a", CREATOR, "Back")
    [data] = await runs.data(deed(FAN, "video:like", videoId="a"))
    assert (data["already"], data["reason"], data["total"]) == (True, "already_paid", 3)


# -- pages -------------------------------------------------------------------------------------------


async def test_pages_are_newest_first_and_hold_each_comment_once(
    runs: Runs, conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    await runs.data(*(comment(FAN, str(number)) for number in range(5)), comment(FAN, "elsewhere", "c"))
    pages = CommentPages(pool=pool)
    first = await pages.list("a", None, 2)
    await runs.data(comment(FAN + 1, "meanwhile"))
    second = await pages.list("a", first.next_cursor, 2)
    third = await pages.list("a", second.next_cursor, 2)
    assert [[row.text for row in page.comments] for page in (first, second, third)] == [["4", "3"], ["2", "1"], ["0"]]
    assert third.next_cursor is None
    assert (await pages.list("a", None, 6)).next_cursor is None
    [row] = json.loads(encode(await pages.list("c", None, 1)))["comments"]
    assert row == {
        "commentId": row["commentId"], "videoId": "c", "userId": FAN, "username": f"user_{FAN}", "text": "elsewhere",
        "timestamp": row["timestamp"],
    }  # fmt: skip
    assert (await pages.list("b", None, 2)).comments == []
    with pytest.raises(Refusal, match="no such video"):
        await pages.list("nowhere", None, 2)


async def test_a_page_reads_no_more_than_it_shows(runs: Runs, conn: asyncpg.Connection) -> None:
    await conn.execute(
        "INSERT INTO comments (video_id, id, user_id, username, text, created_at)"
        " SELECT 'b', gen_random_uuid(), 1, 'x', 'x', now() FROM generate_series(1, 2000)"
    )
    await conn.execute("ANALYZE comments")
    plan = await conn.fetch("EXPLAIN " + LIST_NEWEST.replace("$1", "'b'").replace("$2", "1500").replace("$3", "50"))
    assert any("Index Scan Backward using comments_pkey" in row[0] for row in plan), plan
    await conn.execute("DELETE FROM comments WHERE video_id = 'b'")


# -- texts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["x", "x" * 1000, "🌅" * 1000, " \n x \t", "\u200b", "e\u0301", "'; DROP TABLE users"])
def test_texts_that_are_taken(text: str) -> None:
    assert decoded(text).text == text


@pytest.mark.parametrize(
    "text", ["", " ", "\n\t\r ", "\u3000\u00a0\u2003", "x" * 1001, "🌅" * 1001, "a\0b", "\0", " \0", "a\0", " " * 1000]
)
def test_texts_that_are_not(text: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.text"):
        decoded(text)


def decoded(text: str) -> CommentRequest:
    payload = json.dumps({"videoId": "v", "actionId": "action-1", "text": text})
    return msgspec.json.decode(payload, type=CommentRequest)
