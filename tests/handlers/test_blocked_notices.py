"""Who is blocked is not heard of: what they do counts and pays as ever, and tells the blocker nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from handlers.engagement.handler import EngagementHandler
from handlers.engagement.settler import Settler
from handlers.messaging.conversations import ConversationsHandler
from handlers.profile.handler import ProfileHandler
from storage.audit import audit
from tests.support.deeds import Runs, deed
from tests.support.engagements import CREATOR, FAN, awards_of, seed

EVENTS: list[tuple[str, dict[str, Any], str]] = [
    ("video:like", {"videoId": "a"}, "video_like"),
    ("video:share", {"videoId": "a"}, "video_share"),
    ("video:comment", {"videoId": "a", "text": "hi"}, "video_comment"),
    ("profile:follow", {"userId": CREATOR}, "profile_followed"),
]


@pytest.fixture
async def desk(conn: asyncpg.Connection, pool: asyncpg.Pool) -> AsyncIterator[ConversationsHandler]:
    """The creator has blocked FAN, and FAN somebody else."""
    await seed(conn)
    made = ConversationsHandler(pool=pool, deliver=lambda _: None)
    await made.block(CREATOR, FAN)
    await made.block(FAN, CREATOR + 1)
    yield made
    assert await audit(conn) == []


async def runs_of(conn: asyncpg.Connection, event: str, *, prompt_batch: int = 64) -> Runs:
    if event == "profile:follow":
        return Runs(conn, ProfileHandler(counts_follows=False))
    awards = await awards_of(conn)
    return Runs(conn, EngagementHandler(awards=lambda: awards, prompt_batch=prompt_batch))


@pytest.mark.parametrize(("event", "fields", "type_"), EVENTS)
async def test_who_is_blocked_is_not_heard_of_and_others_are(
    conn: asyncpg.Connection, desk: ConversationsHandler, event: str, fields: dict[str, Any], type_: str
) -> None:
    runs = await runs_of(conn, event)
    blocked, other = deed(FAN, event, **fields), deed(FAN + 1, event, **fields)
    first, second = await runs.data(blocked, other)
    assert {**first, "commentId": 0, "total": 0} == {**second, "commentId": 0, "total": 0}, "it counts, and pays them"
    await conn.execute("UPDATE video_counters SET last_paid_at = NULL")
    runs.events += await Settler().settle(conn)  # the second one's award is gathered
    notices = [told["data"]["actorId"] for told in runs.told(CREATOR) if told["type"] == type_]
    assert notices == [FAN + 1]


@pytest.mark.parametrize(("event", "fields", "type_"), EVENTS)
async def test_a_block_that_is_taken_back_leaves_nothing(
    conn: asyncpg.Connection, desk: ConversationsHandler, event: str, fields: dict[str, Any], type_: str
) -> None:
    await desk.block(CREATOR, FAN + 1)
    await desk.unblock(CREATOR, FAN)
    runs = await runs_of(conn, event)
    await runs.data(deed(FAN + 1, event, **fields))
    assert type_ not in [told["type"] for told in runs.told(CREATOR)], "the other one stands"
    await desk.unblock(CREATOR, FAN + 1)
    await conn.execute("UPDATE video_counters SET last_paid_at = NULL")
    await runs.data(deed(FAN, event, **fields))
    assert type_ in [told["type"] for told in runs.told(CREATOR)]


async def test_what_is_gathered_for_a_popular_creator_leaves_them_out(
    conn: asyncpg.Connection, desk: ConversationsHandler
) -> None:
    runs = await runs_of(conn, "video:like", prompt_batch=0)
    await runs.data(*(deed(user, "video:like", videoId="a") for user in (FAN, FAN + 1, FAN + 2)))
    runs.events += await Settler().settle(conn)
    [event] = [told for told in runs.told(CREATOR) if told["type"] == "video_like"]
    assert sorted(event["data"]["actorIds"]) == [FAN + 1, FAN + 2]
    [paid] = [told for told in runs.told(CREATOR) if told["type"] == "points_earned"]
    assert paid["data"]["metadata"]["count"] == 3, "money is another thing"


async def test_a_like_of_the_time_of_the_block_is_told_when_it_is_made_anew(
    conn: asyncpg.Connection, desk: ConversationsHandler
) -> None:
    runs = await runs_of(conn, "video:like")
    await runs.data(deed(FAN, "video:like", videoId="a"))
    await desk.unblock(CREATOR, FAN)
    await runs.data(deed(FAN, "video:like", videoId="a"))
    assert [told for told in runs.told(CREATOR) if told["type"] == "video_like"] == []
    await conn.execute("UPDATE video_counters SET last_paid_at = NULL")
    await runs.data(deed(FAN, "video:unlike", videoId="a"), deed(FAN, "video:like", videoId="a"))
    assert len([told for told in runs.told(CREATOR) if told["type"] == "video_like"]) == 1
