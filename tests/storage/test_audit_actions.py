"""The audit of comments, uploads and follows: says nothing of real ones, and finds each fault that is planted, under
its own name."""

from __future__ import annotations

from typing import Final

import asyncpg
import pytest

from handlers.engagement.handler import EngagementHandler
from handlers.profile.handler import ProfileHandler
from handlers.uploads.handler import UploadHandler
from storage.audit import audit
from storage.audit_actions import ACTIONS_CHECKS
from tests.support.deeds import Runs, deed
from tests.support.engagements import CREATOR, FAN, OTHER_CREATOR, STRANGER, awards_of, seed

CAP: Final = "comments were paid beyond the cap of a day"
DAY: Final = "comments were paid on a day that is not flagged"
COUNTED: Final = "comments are not as many as are counted"
TWICE: Final = "a comment stands twice"
UPLOADS: Final = "upload awards are not their entries"
FOLLOWS: Final = "follow counts are not the directory's part plus counted follows"
ACTORS: Final = "actors' flags are not their entries"
TOTALS: Final = "totals are not engagements less waiting changes"
NOT_ISSUED: Final = "an award that the platform did not issue"
OWN: Final = "somebody was paid for their own video"

# A second entry like the last one of (user, action), with everything around it moved as if it were right.
AGAIN: Final = """
    INSERT INTO wallet_transactions (user_id, seq, currency, n, id, action, points, balance_before, balance_after,
        counter_account, metadata, created_at)
    SELECT e.user_id, h.seq + 1, e.currency, a.n + 1, gen_random_uuid(), e.action, e.points, a.balance,
        a.balance + e.points, e.counter_account, e.metadata, e.created_at
    FROM wallet_transactions e JOIN accounts a USING (user_id, currency) JOIN heads h USING (user_id)
    WHERE e.user_id = {0} AND e.action = '{1}' ORDER BY e.seq DESC LIMIT 1;
    UPDATE accounts a SET n = e.n, balance = e.balance_after
    FROM (SELECT * FROM wallet_transactions WHERE user_id = {0} ORDER BY seq DESC LIMIT 1) e WHERE a.user_id = {0};
    UPDATE heads SET seq = seq + 1 WHERE user_id = {0};"""
OF: Final = "WHERE actor_id = {0} AND video_id = 'a' AND kind = 4"


async def be_busy(conn: asyncpg.Connection) -> None:
    """Comments up to the cap and beyond, of the ineligible and on one's own; uploads; follows in both modes."""
    await seed(conn)
    awards = await awards_of(conn)
    await Runs(conn, EngagementHandler(awards=lambda: awards)).run(
        *(deed(FAN, "video:comment", videoId="a", text=str(number)) for number in range(7)),
        *(deed(FAN + 1, "video:comment", videoId=video, text="Hi") for video in ("a", "c")),
        deed(STRANGER, "video:comment", videoId="a", text="Hi"), deed(CREATOR, "video:comment", videoId="a", text="Hi"),
        deed(FAN, "video:like", videoId="a"),
    )  # fmt: skip
    await Runs(conn, UploadHandler(awards=lambda: awards)).run(
        deed(CREATOR, "video:upload", videoId="a", title="A"), deed(CREATOR, "video:upload", videoId="new", title="N"),
        deed(CREATOR, "video:upload", videoId="c", title="C"), deed(FAN, "video:upload", videoId="fan", title="F"),
    )  # fmt: skip
    await Runs(conn, ProfileHandler(counts_follows=False)).run(deed(FAN, "profile:follow", userId=OTHER_CREATOR))
    await Runs(conn, ProfileHandler(counts_follows=True)).run(
        *(deed(FAN + each, "profile:follow", userId=CREATOR) for each in range(3)),
        deed(FAN, "profile:unfollow", userId=CREATOR), deed(FAN, "profile:follow", userId=FAN + 1),
    )  # fmt: skip


async def found_by(conn: asyncpg.Connection) -> set[str]:
    return {finding.check for finding in await audit(conn)}


async def test_real_activity_is_right(conn: asyncpg.Connection) -> None:
    await be_busy(conn)
    assert await audit(conn) == []


@pytest.mark.parametrize(("changed", "is_right"), [("0 s", True), ("30 min", True), ("26 h", False)])
async def test_a_cap_that_is_lowered_holds_from_then_on(conn: asyncpg.Connection, changed: str, is_right: bool) -> None:
    """Within the day, and an hour that other nodes may take to hear of it, what was paid before is right."""
    await be_busy(conn)
    await conn.execute(
        "INSERT INTO awards (action, version, points, threshold, daily_cap, valid_from)"
        " SELECT action, 2, points, threshold, 1, date_trunc('day', created_at, 'UTC') - $1::text::interval"
        " FROM awards CROSS JOIN (SELECT max(created_at) AS created_at FROM comments) last"
        " WHERE action = 'comment_posted'",
        changed,
    )
    assert await found_by(conn) == (set() if is_right else {CAP})


async def test_a_cap_of_none_is_none(conn: asyncpg.Connection) -> None:
    await be_busy(conn)
    await conn.execute("UPDATE awards SET daily_cap = NULL WHERE action = 'comment_posted'")
    await conn.execute(AGAIN.format(FAN, "comment_posted"))
    assert CAP not in await found_by(conn)


def fault(name: str, sql: str, *checks: str) -> object:
    """A fault with the SQL that plants it and exactly those checks that see it, its own first."""
    return pytest.param(sql, checks, id=name.replace(" ", "-"))


FLAGGED: Final = "UPDATE engagements SET actor_points = actor_points + 200 " + OF
FAULTS: Final = [
    fault("paid beyond the cap", AGAIN.format(FAN, "comment_posted"), CAP, DAY, ACTORS),
    fault("paid and flagged beyond the cap", AGAIN.format(FAN, "comment_posted") + FLAGGED.format(FAN)
          + ";UPDATE engagements SET paid_on_day = 6 " + OF.format(FAN), CAP),
    fault("the cap was lower", "UPDATE awards SET daily_cap = 4 WHERE action = 'comment_posted'", CAP),
    fault("paid and flagged but for the day", AGAIN.format(FAN + 1, "comment_posted")
          + "UPDATE engagements SET actor_points = 400 WHERE kind = 4 AND video_id = 'c'"
          f" AND actor_id = {FAN + 1}", DAY),
    fault("the day of the flag lies before", "UPDATE engagements SET paid_day = paid_day - 1 " + OF.format(FAN), DAY),
    fault("the day is gone", "UPDATE engagements SET paid_day = NULL " + OF.format(FAN), DAY),
    fault("a comment paid without a flag", "UPDATE engagements SET actor_points = 800 " + OF.format(FAN), ACTORS),
    fault("a comment flagged without an entry", FLAGGED.format(FAN), ACTORS),
    fault("paid for a comment on one's own", f"UPDATE engagements SET creator_id = {FAN} " + OF.format(FAN), OWN),
    fault("a comment lost", f"DELETE FROM comments WHERE user_id = {STRANGER}", COUNTED),
    fault("a comment of nobody's counting", "INSERT INTO comments (video_id, id, user_id, username, text, created_at)"
          " VALUES ('b', gen_random_uuid(), 1, 'x', 'x', now())", COUNTED),
    fault("a comment counted and not there", "UPDATE engagements SET count = count + 1 " + OF.format(FAN)
          + ";UPDATE video_counters SET total = total + 1 WHERE video_id = 'a' AND kind = 4", COUNTED),
    fault("a total of comments raised", "UPDATE video_counters SET total = total + 1 WHERE kind = 4 AND video_id = 'a'",
          TOTALS),
    fault("a comment stands twice", "UPDATE comments SET id = (SELECT min(id::text)::uuid FROM comments"
          f" WHERE user_id <> {STRANGER}) WHERE user_id = {STRANGER}", TWICE),
    fault("an upload paid twice", AGAIN.format(CREATOR, "video_uploaded"), UPLOADS),
    fault("an upload paid and flagged twice", AGAIN.format(CREATOR, "video_uploaded")
          + "UPDATE upload_awards SET points = 1000 WHERE video_id = 'new'", UPLOADS),
    fault("an upload paid without a flag", "DELETE FROM upload_awards WHERE video_id = 'new'", UPLOADS),
    fault("an upload flagged without an entry", f"INSERT INTO upload_awards VALUES ({FAN}, 'fan', 500, now())",
          UPLOADS),
    fault("an upload flagged for another", "UPDATE upload_awards SET video_id = 'b' WHERE video_id = 'new'", UPLOADS),
    fault("an upload that another paid", "UPDATE wallet_transactions SET counter_account = 'platform:fees'"
          " WHERE action = 'video_uploaded'", NOT_ISSUED),
    fault("a follower too many", f"UPDATE users SET followers_count = followers_count + 1 WHERE id = {CREATOR}",
          FOLLOWS),
    fault("follows one too few", f"UPDATE users SET following_count = following_count - 1 WHERE id = {FAN + 1}",
          FOLLOWS),
    fault("a follow lost", f"DELETE FROM follows WHERE follower_id = {FAN + 2}", FOLLOWS),
    fault("a follow counted that was not", f"UPDATE follows SET counted = true WHERE followed_id = {OTHER_CREATOR}",
          FOLLOWS),
    fault("a base lost", f"UPDATE users SET following_base = NULL WHERE id = {FAN + 2}", FOLLOWS),
    fault("another base lost", f"UPDATE users SET followers_base = NULL WHERE id = {CREATOR}", FOLLOWS),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "checks"), FAULTS)
async def test_a_planted_fault_is_found(conn: asyncpg.Connection, sql: str, checks: tuple[str, ...]) -> None:
    await be_busy(conn)
    await conn.execute(sql)
    assert await found_by(conn) == set(checks)


def test_each_check_has_a_fault_of_its_own() -> None:
    assert {fault.values[1][0] for fault in FAULTS} >= ACTIONS_CHECKS.keys()  # type: ignore[attr-defined]
