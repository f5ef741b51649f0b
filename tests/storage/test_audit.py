"""The audit: says nothing of real activity, and finds each fault that is planted, under its own name."""

from __future__ import annotations

import asyncio
from typing import Final

import asyncpg
import pytest

from handlers.engagement.settler import Settler
from storage import db, inbox
from storage.audit import CHECKS, MOST_ROWS, audit
from storage.audit_access import ACCESS_CHECKS
from storage.audit_actions import ACTIONS_CHECKS
from storage.audit_events import EVENTS_CHECKS
from storage.audit_messaging import MESSAGING_CHECKS
from storage.audit_push import PUSH_CHECKS
from storage.audit_spending import SPENDING_CHECKS
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
    seed,
)
from tests.support.videos import upsert_video

FANS: Final = 20
IDLE: Final = FAN + FANS - 1  # nothing ever concerns them
IN_THE_FUTURE: Final = -3600  # so that nobody is quiet, however long the machine takes

LACKS: Final = "a user lacks a head or a wallet"
BALANCE: Final = "balance is not the sum of its entries"
CHAIN: Final = "n is not gapless, or the chain of before and after is broken"
LAST_N: Final = "the account's n is not that of its last entry"
NEGATIVE: Final = "a negative balance"
NOT_ISSUED: Final = "an award that the platform did not issue"
SEQ: Final = "seq is not gapless up to the head"
TWICE: Final = "an event stands twice"
DEVICE: Final = "a device has confirmed more than there is"
REQUEST: Final = "a request key was taken twice"
ACTORS: Final = "actors' flags are not their entries"
CREATORS: Final = "creators' flags are not entries plus waiting accruals"
TOTALS: Final = "totals are not engagements less waiting changes"
COUNTS: Final = "a like counts more than once, or something less than never"
OWN: Final = "somebody was paid for their own video"
FLAG: Final = "paid flag without points"


async def be_busy(conn: asyncpg.Connection) -> None:
    """Likes, unlikes, views and shares, paid at once, settled and still waiting; own videos, strangers, a device."""
    await seed(conn, fans=FANS)
    batches = Batches(conn, await awards_of(conn))
    for event in ("video:like", "video:view", "video:share"):
        await batches.data(*(asked(FAN + each, event, video) for each in range(4) for video in ("a", "b", "c")))
    await batches.data(
        asked(FAN, "video:unlike"), asked(FAN, "video:view"), asked(FAN, "video:like", "s"),
        asked(CREATOR, "video:like"), asked(CREATOR, "video:share", "c"), asked(STRANGER, "video:like"),
    )  # fmt: skip
    await let_pass(conn, 2)
    assert len(await Settler().settle(conn)) == 15  # a like, a view and a share of each of three videos
    await let_pass(conn, IN_THE_FUTURE)
    await batches.data(
        asked(FAN + 4, "video:like"), asked(FAN + 5, "video:like"), asked(FAN + 4, "video:share"),
        asked(FAN + 1, "video:unlike"), asked(FAN, "video:like"), asked(FAN + 4, "video:view", "c"),
    )  # fmt: skip
    assert await conn.fetchval("SELECT count(*) FROM accruals") == 3
    await inbox.mark_acked(conn, CREATOR, "phone-1", 3)


async def found_by(conn: asyncpg.Connection) -> set[str]:
    return {finding.check for finding in await audit(conn)}


# -- what is right -----------------------------------------------------------------------------------


async def test_an_empty_database_is_right(conn: asyncpg.Connection) -> None:
    assert await audit(conn) == []


async def test_real_activity_is_right_with_what_waits_and_without(conn: asyncpg.Connection) -> None:
    await be_busy(conn)
    assert await audit(conn) == []
    await let_pass(conn, 2 - IN_THE_FUTURE)
    assert await Settler().settle(conn)
    assert await conn.fetchval("SELECT count(*) FROM accruals") == 0
    assert await audit(conn) == []


async def test_an_inbox_that_was_trimmed_is_right_and_its_ledger_stays(conn: asyncpg.Connection) -> None:
    await be_busy(conn)
    await conn.execute("UPDATE heads SET oldest_seq = seq / 2 WHERE user_id = $1", CREATOR)
    await conn.execute("UPDATE heads SET oldest_seq = seq + 1 WHERE user_id = $1", OTHER_CREATOR)
    await conn.execute("DELETE FROM inbox i USING heads h WHERE h.user_id = i.user_id AND i.seq < h.oldest_seq")
    assert await audit(conn) == []


async def test_videos_that_change_hands_leave_the_books_right(conn: asyncpg.Connection) -> None:
    """Whoever liked as the owner, or becomes it later, was not paid for a video of their own."""
    await seed(conn)
    batches = Batches(conn, await awards_of(conn))
    await upsert_video(conn, "own", FAN, "Own")
    await batches.data(asked(FAN, "video:like", "own"), asked(FAN, "video:like", "s"))
    for video, owner in (("own", STRANGER), ("s", FAN), ("own", CREATOR), ("s", CREATOR), ("own", FAN), ("s", FAN)):
        await let_pass(conn, 2)
        await upsert_video(conn, video, owner, None)
        await batches.data(*(asked(FAN, event, video) for event in ("video:unlike", "video:like", "video:like")))
        await batches.data(asked(FAN + 1, "video:view", video), asked(FAN + 2, "video:view", video))
        assert await audit(conn) == [], (video, owner)
    await let_pass(conn, 2)
    await Settler().settle(conn)
    assert await audit(conn) == []


async def test_a_creator_stays_who_was_paid_when_the_actor_is_paid_later(conn: asyncpg.Connection) -> None:
    await seed(conn)
    batches = Batches(conn, await awards_of(conn))
    await batches.data(asked(STRANGER, "video:view"))
    await upsert_video(conn, "a", OTHER_CREATOR, None)
    await conn.execute("UPDATE users SET following_count = 100 WHERE id = $1", STRANGER)
    await batches.data(asked(STRANGER, "video:view"))
    assert await balances(conn) == {STRANGER: 100, CREATOR: 10}
    assert await audit(conn) == []


async def test_it_is_clean_while_everybody_acts(conn: asyncpg.Connection, dsn: str) -> None:
    await seed(conn, fans=200)
    awards = await awards_of(conn)
    others = [await db.connect(dsn) for _ in range(2)]
    done = asyncio.Event()

    async def act() -> None:
        node = Batches(others[0], awards)
        for start in range(0, 200, 4):
            fans = range(FAN + start, FAN + start + 4)
            await node.data(*(asked(fan, event) for fan in fans for event in ("video:like", "video:view")))
        done.set()

    async def settle() -> None:
        while not done.is_set():
            await let_pass(others[1], 2)
            await Settler().settle(others[1])

    acting = asyncio.gather(act(), settle())
    audits = 0
    while not done.is_set():
        assert await audit(conn) == []
        audits += 1
    await acting
    assert audits > 1
    for other in others:
        await other.close()


async def test_all_checks_read_one_snapshot(
    conn: asyncpg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await db.connect(dsn)
    await seed(other)
    look = f"SELECT balance FROM accounts WHERE user_id = {FAN}"
    checks = {"before": look, "in between": "SELECT pg_advisory_lock(1)", "after": look}
    monkeypatch.setattr("storage.audit.CHECKS", checks)
    await other.execute("SELECT pg_advisory_lock(1)")
    auditing = asyncio.create_task(audit(conn))
    while not await other.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"):
        await asyncio.sleep(0.01)
    await other.execute("UPDATE accounts SET balance = 7 WHERE user_id = $1", FAN)
    await other.execute("SELECT pg_advisory_unlock(1)")
    before, _, after = await auditing
    assert before.row == after.row == "balance=0"
    await other.close()


async def test_it_may_read_where_nothing_may_be_written(conn: asyncpg.Connection) -> None:
    await seed(conn)
    await conn.execute("SET default_transaction_read_only = on")
    assert await audit(conn) == []


# -- what is wrong -----------------------------------------------------------------------------------

ADVANCE = "UPDATE heads SET seq = seq + 1 WHERE user_id = {0};"
# A second entry like the user's first, with everything around it moved as if it were right.
PAY_AGAIN = (
    """INSERT INTO wallet_transactions (user_id, seq, currency, n, id, action, points, balance_before, balance_after,
        counter_account, metadata, created_at)
    SELECT e.user_id, h.seq + 1, e.currency, a.n + {1}, gen_random_uuid(), e.action, e.points, a.balance,
        a.balance + e.points, e.counter_account, e.metadata, e.created_at
    FROM wallet_transactions e JOIN accounts a USING (user_id, currency) JOIN heads h USING (user_id)
    WHERE e.user_id = {0} AND e.n = 1;
    UPDATE accounts a SET n = e.n, balance = e.balance_after
    FROM (SELECT * FROM wallet_transactions WHERE user_id = {0} ORDER BY seq DESC LIMIT 1) e WHERE a.user_id = {0};"""
    + ADVANCE
)
LAST_OF = f"WHERE a.user_id = {FAN} AND t.user_id = {FAN} AND t.n = a.n"
LIKE_OF = "WHERE actor_id = {0} AND video_id = 'b' AND kind = 1;"
FIRST = "WHERE ctid = (SELECT min(ctid) FROM {0} WHERE {1});"


def fault(name: str, sql: str, *checks: str) -> object:
    """A fault with the SQL that plants it and exactly those checks that see it, its own first."""
    return pytest.param(sql, checks, id=name.replace(" ", "-"))


FAULTS: Final = [
    fault("head lost", f"DELETE FROM heads WHERE user_id = {FAN}", LACKS, SEQ),
    fault("head of somebody idle lost", f"DELETE FROM heads WHERE user_id = {IDLE}", LACKS),
    fault("empty wallet lost", f"DELETE FROM accounts WHERE user_id = {IDLE}", LACKS),
    fault("wallet lost", f"DELETE FROM accounts WHERE user_id = {FAN}", BALANCE, LACKS),
    fault("balance raised", f"UPDATE accounts SET balance = balance + 1 WHERE user_id = {FAN}", BALANCE),
    fault("balance out of nothing", f"UPDATE accounts SET balance = 100 WHERE user_id = {IDLE}", BALANCE),
    fault(
        "last entry lost",
        f"DELETE FROM wallet_transactions t USING accounts a {LAST_OF}",
        LAST_N, BALANCE, SEQ, ACTORS,
    ),
    fault(
        "an entry in between lost",
        f"DELETE FROM wallet_transactions WHERE user_id = {FAN} AND n = 2",
        CHAIN, BALANCE, SEQ, ACTORS,
    ),
    fault("all entries lost", "DELETE FROM wallet_transactions", BALANCE, LAST_N, SEQ, ACTORS, CREATORS),
    fault(
        "n with a gap",
        f"UPDATE wallet_transactions t SET n = t.n + 1 FROM accounts a {LAST_OF};"
        f"UPDATE accounts SET n = n + 1 WHERE user_id = {FAN}",
        CHAIN,
    ),
    fault("n against seq", f"UPDATE wallet_transactions SET n = 3 - n WHERE user_id = {FAN} AND n < 3", CHAIN),
    fault(
        "before and after moved",
        "UPDATE wallet_transactions SET balance_before = balance_before + 5, balance_after = balance_after + 5"
        f" WHERE user_id = {FAN} AND n = 2",
        CHAIN,
    ),
    fault(
        "the first does not start at nothing",
        "UPDATE wallet_transactions SET balance_before = 5, balance_after = points + 5"
        " WHERE n = 1 AND user_id = (SELECT user_id FROM accounts WHERE n = 1 LIMIT 1)",
        CHAIN,
    ),
    fault(
        "after is not before and points",
        "ALTER TABLE wallet_transactions DROP CONSTRAINT wallet_transactions_check;"
        f"UPDATE wallet_transactions t SET balance_after = balance_after + 5 FROM accounts a {LAST_OF}",
        CHAIN,
    ),
    fault("an entry doubled with a gap", PAY_AGAIN.format(FAN, 2), CHAIN, ACTORS),
    fault("n of the account ahead", f"UPDATE accounts SET n = n + 1 WHERE user_id = {FAN}", LAST_N),
    fault("n of the account behind", f"UPDATE accounts SET n = n - 1 WHERE user_id = {FAN}", LAST_N),
    fault("n out of nothing", f"UPDATE accounts SET n = 1 WHERE user_id = {IDLE}", LAST_N),
    fault(
        "balance below zero",
        "ALTER TABLE accounts DROP CONSTRAINT accounts_balance_check;"
        f"UPDATE accounts SET balance = -1 WHERE user_id = {IDLE}",
        NEGATIVE, BALANCE,
    ),
    fault(
        "reserved below zero",
        "ALTER TABLE accounts DROP CONSTRAINT accounts_reserved_check;"
        f"UPDATE accounts SET reserved = -1 WHERE user_id = {IDLE}",
        NEGATIVE,
    ),
    fault(
        "another counter-account",
        f"UPDATE wallet_transactions SET counter_account = 'platform:fees' WHERE user_id = {FAN} AND n = 1",
        NOT_ISSUED,
    ),
    fault(
        "an award in a transfer",
        f"UPDATE wallet_transactions SET transfer_id = gen_random_uuid() WHERE user_id = {CREATOR} AND n = 1",
        NOT_ISSUED,
    ),
    fault("an event lost", f"DELETE FROM inbox WHERE user_id = {CREATOR} AND seq = 1", SEQ),
    fault("the last event lost", f"DELETE FROM inbox WHERE user_id = {CREATOR} AND seq = (SELECT max(seq) FROM inbox"
          f" WHERE user_id = {CREATOR})", SEQ),
    fault("head behind", f"UPDATE heads SET seq = seq - 1 WHERE user_id = {FAN}", SEQ),
    fault("head ahead", f"UPDATE heads SET seq = seq + 1 WHERE user_id = {FAN}", SEQ),
    fault("head of somebody idle ahead", f"UPDATE heads SET seq = 1 WHERE user_id = {IDLE}", SEQ),
    fault("one seq for two events", f"UPDATE inbox SET seq = (SELECT min(seq) FROM wallet_transactions"
          f" WHERE user_id = {CREATOR}) WHERE user_id = {CREATOR} AND seq = 1", SEQ),
    fault("a hole and one beyond the head", f"UPDATE inbox SET seq = (SELECT seq + 1 FROM heads"
          f" WHERE user_id = {CREATOR}) WHERE user_id = {CREATOR} AND seq = 1", SEQ),
    fault("an event of nobody", "UPDATE inbox SET user_id = 404 WHERE user_id = 9", SEQ),
    fault("an inbox that begins before its first", f"UPDATE heads SET oldest_seq = 0 WHERE user_id = {CREATOR}", SEQ),
    fault("an inbox that begins beyond its end", f"UPDATE heads SET oldest_seq = seq + 2 WHERE user_id = {CREATOR};"
          f"DELETE FROM inbox WHERE user_id = {CREATOR}", SEQ),
    fault(
        "an event doubled",
        "INSERT INTO inbox SELECT i.user_id, h.seq + 1, i.id, i.type, i.event_type, i.data, i.created_at"
        f" FROM inbox i JOIN heads h USING (user_id) WHERE i.user_id = {CREATOR} AND i.seq = 1;"
        + ADVANCE.format(CREATOR),
        TWICE,
    ),
    fault("a device ahead", "UPDATE devices SET acked = 10000", DEVICE),
    fault("a device of nobody", "UPDATE devices SET user_id = 404", DEVICE),
    fault(
        "a key taken twice",
        "INSERT INTO requests SELECT user_id, action_id, fingerprint, outcome, created_at - interval '6 days'"
        f" FROM requests WHERE user_id = {FAN} LIMIT 1",
        REQUEST,
    ),
    fault("paid twice", PAY_AGAIN.format(FAN, 1), ACTORS),
    fault(
        "paid and flagged twice",
        PAY_AGAIN.format(FAN, 1)
        + "UPDATE engagements e SET actor_points = 2 * actor_points FROM wallet_transactions t"
        f" WHERE t.user_id = {FAN} AND t.n = 1 AND actor_id = {FAN} AND kind = 1"
        " AND video_id = t.metadata ->> 'videoId'",
        ACTORS,
    ),
    fault("flagged without an entry", f"UPDATE engagements SET actor_paid = true, actor_points = 100"
          f" WHERE actor_id = {STRANGER}", ACTORS),
    fault("entry without a flag", "UPDATE engagements SET actor_paid = false, actor_points = 0 "
          + LIKE_OF.format(FAN), ACTORS),
    fault(
        "flagged for another video",
        "UPDATE engagements SET actor_points = actor_points + CASE video_id WHEN 'a' THEN 50 ELSE -50 END"
        f" WHERE actor_id = {FAN} AND kind = 1 AND video_id IN ('a', 'b')",
        ACTORS,
    ),
    fault("engagement lost", "DELETE FROM engagements " + LIKE_OF.format(FAN), ACTORS, CREATORS, TOTALS),
    fault("an accrual lost", "DELETE FROM accruals " + FIRST.format("accruals", "change > 0"), CREATORS, TOTALS),
    fault("an accrual doubled", "INSERT INTO accruals SELECT * FROM accruals "
          + FIRST.format("accruals", "change > 0"), CREATORS, TOTALS),
    fault("an accrual of another creator", f"UPDATE accruals SET creator_id = {OTHER_CREATOR} "
          + FIRST.format("accruals", "video_id = 'a'"), CREATORS),
    fault("points waiting changed", "UPDATE accruals SET points = points + 1 "
          + FIRST.format("accruals", "true"), CREATORS),
    fault("change waiting changed", "UPDATE accruals SET change = change - 1 "
          + FIRST.format("accruals", "true"), TOTALS),
    fault("creator paid twice", PAY_AGAIN.format(CREATOR, 1), CREATORS),
    fault(
        "creator paid and flagged twice",
        PAY_AGAIN.format(CREATOR, 1)
        + "UPDATE engagements SET creator_points = creator_points + t.points FROM wallet_transactions t"
        f" WHERE t.user_id = {CREATOR} AND t.n = 1 AND engagements.video_id = t.metadata ->> 'videoId'"
        f" AND kind = 1 AND actor_id = {FAN}",
        CREATORS,
    ),
    fault("creator flagged without an entry", "UPDATE engagements SET creator_paid = true, creator_points = 100"
          " WHERE video_id = 's'", CREATORS),
    fault("entry without the creator's flag", "UPDATE engagements SET creator_paid = false, creator_points = 0 "
          + LIKE_OF.format(FAN), CREATORS),
    fault("flagged for another creator", f"UPDATE engagements SET creator_id = {OTHER_CREATOR} "
          + LIKE_OF.format(FAN), CREATORS),
    fault(
        "flagged for another of the creator's videos",
        "UPDATE engagements SET creator_points = creator_points + CASE video_id WHEN 'a' THEN 50 ELSE -50 END"
        f" WHERE actor_id = {FAN} AND kind = 1 AND video_id IN ('a', 'b')",
        CREATORS,
    ),
    fault(
        "a settlement that says another count",
        """UPDATE wallet_transactions SET metadata = (metadata::jsonb || '{"count": 2}')::json"""
        f" WHERE user_id = {CREATOR} AND n = 1",
        CREATORS,
    ),
    fault("total raised", "UPDATE video_counters SET total = total + 1 WHERE video_id = 'a' AND kind = 1", TOTALS),
    fault("total lost", "DELETE FROM video_counters WHERE video_id = 'a' AND kind = 2", TOTALS),
    fault("total of nothing", "INSERT INTO video_counters VALUES ('new', 1, 1)", TOTALS),
    fault("an engagement counts again", "UPDATE engagements SET count = count + 1"
          f" WHERE actor_id = {FAN} AND video_id = 'b' AND kind = 2", TOTALS),
    fault("a like counts twice", "UPDATE video_counters SET total = total + 1 WHERE video_id = 'b' AND kind = 1;"
          "UPDATE engagements SET count = 2 " + LIKE_OF.format(FAN), COUNTS),
    fault("a view counts less than never", "UPDATE video_counters SET total = total - 2"
          " WHERE video_id = 'b' AND kind = 2; UPDATE engagements SET count = -1"
          f" WHERE actor_id = {FAN} AND video_id = 'b' AND kind = 2", COUNTS),
    fault("paid as actor for their own", "UPDATE engagements SET actor_paid = true, actor_points = 100"
          f" WHERE actor_id = {CREATOR} AND creator_id = {CREATOR}", OWN, ACTORS),
    fault("paid as creator for their own", "UPDATE engagements SET creator_paid = true, creator_points = 100"
          f" WHERE actor_id = {CREATOR} AND creator_id = {CREATOR}", OWN, CREATORS),
    fault("actor flagged without points", f"UPDATE engagements SET actor_paid = true WHERE actor_id = {STRANGER}",
          FLAG),
    fault("actor's points without a flag", "UPDATE engagements SET actor_paid = false " + LIKE_OF.format(FAN), FLAG),
    fault("creator flagged without points", "UPDATE engagements SET creator_paid = true WHERE video_id = 's'",
          FLAG, CREATORS),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "checks"), FAULTS)
async def test_a_planted_fault_is_found(conn: asyncpg.Connection, sql: str, checks: tuple[str, ...]) -> None:
    await be_busy(conn)
    await conn.execute(sql)
    assert await found_by(conn) == set(checks)


def test_each_check_has_a_fault_of_its_own() -> None:
    """Those of actions, spends and events have theirs in test_audit_actions.py and its kin."""
    others = ACTIONS_CHECKS | SPENDING_CHECKS | EVENTS_CHECKS | ACCESS_CHECKS | MESSAGING_CHECKS | PUSH_CHECKS
    assert {fault.values[1][0] for fault in FAULTS} == CHECKS.keys() - others.keys()  # type: ignore[attr-defined]


async def test_a_finding_names_the_row(conn: asyncpg.Connection) -> None:
    await seed(conn)
    await conn.execute("UPDATE accounts SET balance = 7 WHERE user_id = $1", FAN)
    await conn.execute("DELETE FROM accounts WHERE user_id = $1", CREATOR)
    lacking, changed = await audit(conn)
    assert str(changed) == f"{BALANCE}: user_id={FAN} currency=LYK balance=7 sum=0"
    assert str(lacking) == f"{LACKS}: user_id={CREATOR} head=True wallet=False"


async def test_a_row_of_one_side_only_is_named_too(conn: asyncpg.Connection) -> None:
    await be_busy(conn)
    await conn.execute("DELETE FROM accounts WHERE user_id = $1", FAN)
    await conn.execute("DELETE FROM engagements " + LIKE_OF.format(FAN))
    rows = {finding.check: finding.row for finding in await audit(conn)}
    assert rows[BALANCE].startswith(f"user_id={FAN} currency=LYK ")
    assert rows[ACTORS] == f"user_id={FAN} video_id=b action=video_liked flagged=0 paid=100 times=1"


async def test_of_many_faults_it_tells_some(conn: asyncpg.Connection) -> None:
    await seed(conn, fans=2 * MOST_ROWS)
    await conn.execute("UPDATE accounts SET balance = 1, n = 1")
    findings = [finding.check for finding in await audit(conn)]
    assert findings == [BALANCE] * MOST_ROWS + [LAST_N] * MOST_ROWS
