"""Live totals: each change is told once, to whoever is there, and what somebody missed again."""

from __future__ import annotations

import json
from typing import Any, Final

import asyncpg
import pytest

from handlers.engagement import totals as module
from handlers.engagement.rules import watched_video
from handlers.engagement.totals import LiveTotals
from handlers.errors import Refusal
from storage import videos
from storage.videos import VideoTotals
from tests.support.engagements import CREATOR, seed

LIKES_OF_A: Final = "INSERT INTO video_counters (video_id, kind, total) VALUES ('a', 1, $1)"


class Room:
    """Topics that somebody listens to, and what they were told; `all_get_it`: nobody is too slow to."""

    def __init__(self, *topics: str) -> None:
        self.topics = dict.fromkeys(topics)
        self.all_get_it = True
        self._said: list[tuple[str, Any]] = []

    def publish(self, topic: str, envelope: bytes) -> bool:
        self._said.append((topic, json.loads(envelope)))
        return self.all_get_it

    def said(self) -> list[tuple[str, Any]]:
        """Since it was asked the last time."""
        said, self._said = self._said, []
        return [(topic, event["data"]) for topic, event in said]


def live(pool: asyncpg.Pool, room: Room) -> LiveTotals:
    return LiveTotals(pool=pool, topics=lambda: room.topics, publish=room.publish)


def told(video: str, likes: int = 0, views: int = 0, shares: int = 0, comments: int = 0) -> tuple[str, Any]:
    data = {
        "videoId": video, "totalLikes": likes, "totalViews": views, "totalShares": shares, "totalComments": comments,
    }  # fmt: skip
    return f"video:{video}", data


@pytest.fixture(autouse=True)
async def _seeded(conn: asyncpg.Connection) -> None:
    await seed(conn, fans=1)


async def test_a_change_is_told_once_and_only_of_what_is_watched(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    room = Room("video:a", "live:a", "video:nobody-has-it")
    totals = live(pool, room)
    await totals.look()
    assert room.said() == [told("a")]
    await totals.look()
    assert room.said() == []
    await conn.execute(LIKES_OF_A, 7)
    await totals.look()
    await totals.look()
    assert room.said() == [told("a", likes=7)]


async def test_whoever_begins_to_watch_is_told_at_the_next_look(pool: asyncpg.Pool) -> None:
    room = Room("video:a")
    totals = live(pool, room)
    await totals.look()
    totals.tell_again("a")
    await totals.look()
    assert room.said() == [told("a")] * 2


async def test_whoever_did_not_get_it_is_told_the_latest_later(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    room = Room("video:a")
    totals = live(pool, room)
    await totals.look()
    room.all_get_it = False
    await conn.execute(LIKES_OF_A, 1)
    await totals.look()
    await conn.execute("UPDATE video_counters SET total = 2")
    room.all_get_it = True
    await totals.look()
    await totals.look()
    assert room.said() == [told("a"), told("a", likes=1), told("a", likes=2)]


async def test_nothing_is_kept_of_what_nobody_watches_any_more(pool: asyncpg.Pool) -> None:
    room = Room("video:a")
    totals = live(pool, room)
    await totals.look()
    room.topics.clear()
    await totals.look()
    room.topics["video:a"] = None
    await totals.look()
    assert room.said() == [told("a")] * 2


async def test_many_videos_take_several_statements(
    conn: asyncpg.Connection, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "VIDEOS_AT_ONCE", 2)
    names = [f"v{number}" for number in range(5)]
    await conn.execute("INSERT INTO videos (id, owner_id, title) SELECT unnest($1::text[]), $2, 'x'", names, CREATOR)
    room = Room(*(f"video:{name}" for name in names))
    await live(pool, room).look()
    assert sorted(room.said()) == [told(name) for name in names]


async def test_totals_hold_what_waits_to_be_settled(conn: asyncpg.Connection) -> None:
    await conn.execute(LIKES_OF_A, 5)
    await conn.executemany(
        "INSERT INTO accruals (creator_id, video_id, kind, points, paid, change, notify, actors, created_at)"
        " VALUES ($1, $2, $3, 0, 0, $4, 0, '{}', now())",
        [(CREATOR, "a", 1, 2), (CREATOR, "a", 1, -1), (CREATOR, "a", 3, 4), (CREATOR, "b", 1, 9)],
    )
    assert await videos.list_totals(conn, ["a", "none"]) == {"a": VideoTotals(6, 0, 4, 0)}


async def test_a_video_that_is_not_there_can_not_be_watched(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    totals = live(pool, Room())
    await totals.check("a")
    await conn.execute("UPDATE videos SET deleted_at = now() WHERE id = 'a'")
    for video in ("a", "none"):
        with pytest.raises(Refusal) as refused:
            await totals.check(video)
        assert (refused.value.code, refused.value.field) == ("not_found", "topic")


@pytest.mark.parametrize(
    ("topic", "video"),
    [
        ("video:a", "a"), ("video:a b/ü:video:", "a b/ü:video:"), ("video:" + "x" * 64, "x" * 64),
        ("video:" + "x" * 65, None), ("video:", None), ("video", None), ("live:a", None), ("video:a\0", None),
        ("Video:a", None), (" video:a", None),
    ],
)  # fmt: skip
def test_a_topic_names_a_video(topic: str, video: str | None) -> None:
    assert watched_video(topic) == video
