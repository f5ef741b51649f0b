"""The audit of spends: says nothing of real ones, and finds each fault that is planted, under its own name."""

from __future__ import annotations

from typing import Final

import asyncpg
import pytest

from storage.audit import audit
from storage.audit_spending import SPENDING_CHECKS
from tests.support.spending import ANN, BEN, CLEO, Spends, boost, corrected, deducted, gift, purchase, seed_wallets

HALVES: Final = "a transfer between users lacks a half, or does not sum to zero"
SIDE: Final = "a spend with the wrong side, or of what there never was"
ANSWER: Final = "a spend's kept answer is not its entry"
LOG: Final = "what somebody gave, spent or took and the audit log differ"

UNGUARDED: Final = "ALTER TABLE audit_log DISABLE TRIGGER audit_log_is_append_only;"
# A second entry like the last one of (user, action), with everything around it moved as if it were right.
AGAIN: Final = """
    INSERT INTO wallet_transactions (user_id, seq, currency, n, id, action, points, balance_before, balance_after,
        counter_account, transfer_id, metadata, created_at)
    SELECT e.user_id, h.seq + 1, e.currency, a.n + 1, gen_random_uuid(), e.action, e.points, a.balance,
        a.balance + e.points, e.counter_account, e.transfer_id, e.metadata, e.created_at
    FROM wallet_transactions e JOIN accounts a USING (user_id, currency) JOIN heads h USING (user_id)
    WHERE e.user_id = {0} AND e.action = '{1}';
    UPDATE accounts a SET n = e.n, balance = e.balance_after
    FROM (SELECT * FROM wallet_transactions WHERE user_id = {0} ORDER BY seq DESC LIMIT 1) e WHERE a.user_id = {0};
    UPDATE heads SET seq = seq + 1 WHERE user_id = {0};"""
# The last entry of a user gone without a trace in what it had moved.
TAKE_LAST: Final = """
    UPDATE accounts a SET n = e.n - 1, balance = e.balance_before
    FROM (SELECT * FROM wallet_transactions WHERE user_id = {0} ORDER BY seq DESC LIMIT 1) e WHERE a.user_id = {0};
    DELETE FROM wallet_transactions t USING heads h WHERE h.user_id = {0} AND t.user_id = {0} AND t.seq = h.seq;
    UPDATE heads SET seq = seq - 1 WHERE user_id = {0};"""
OF: Final = "WHERE user_id = {0} AND action = '{1}'"
KEPT: Final = "UPDATE {0} SET outcome = convert_to(replace(convert_from(outcome, 'UTF8'), {1}), 'UTF8')"


async def be_busy(conn: asyncpg.Connection) -> None:
    """Each kind of spend, refusals too; Cleo's last is what she received, Ben's what was taken of him."""
    await seed_wallets(conn, ann=100, ben=5)
    await Spends(conn).run(
        gift(ANN, BEN, 1, note="hello"), gift(BEN, ANN, 0.5), purchase(ANN), boost(ANN, 3), boost(CLEO, 1),
        gift(ANN, ANN, 1), deducted(ANN, 2), deducted(ANN, 2.25, action="withdrawal"), corrected(ANN, -1.75),
        gift(ANN, CLEO, 2), deducted(BEN, 1), deducted(BEN, 100),
    )  # fmt: skip


async def found_by(conn: asyncpg.Connection) -> set[str]:
    return {finding.check for finding in await audit(conn)}


async def test_real_spends_are_right(conn: asyncpg.Connection) -> None:
    await be_busy(conn)
    assert await audit(conn) == []


async def test_keys_that_are_gone_after_their_time_are_right(conn: asyncpg.Connection) -> None:
    await be_busy(conn)
    await conn.execute("UPDATE wallet_transactions SET created_at = created_at - interval '40 days'")
    await conn.execute("DELETE FROM money_requests; DELETE FROM backend_requests")
    assert await audit(conn) == []


def fault(name: str, sql: str, *checks: str) -> object:
    """A fault with the SQL that plants it and exactly those checks that see it, its own first."""
    return pytest.param(sql, checks, id=name.replace(" ", "-"))


FAULTS: Final = [
    fault("what was received is lost", TAKE_LAST.format(CLEO), HALVES),
    fault("what was sent stands twice", AGAIN.format(ANN, "gift_received"), HALVES),
    fault("no transfer in common", "UPDATE wallet_transactions SET transfer_id = NULL"
          f" {OF.format(CLEO, 'gift_received')}", HALVES),
    fault("it names another", f"UPDATE wallet_transactions SET counter_account = 'user:{BEN}'"
          f" {OF.format(CLEO, 'gift_received')}", HALVES),
    fault("it names itself", f"UPDATE wallet_transactions SET counter_account = 'user:{CLEO}'"
          f" {OF.format(CLEO, 'gift_received')}", HALVES),
    fault("it names the platform", "UPDATE wallet_transactions SET counter_account = 'platform:issuance'"
          f" {OF.format(CLEO, 'gift_received')}", HALVES),
    fault("less was received", f"""UPDATE wallet_transactions SET points = points - 1, balance_after = balance_after - 1
          {OF.format(CLEO, 'gift_received')}; UPDATE accounts SET balance = balance - 1 WHERE user_id = {CLEO}""",
          HALVES),
    fault("what was sent came in", "UPDATE wallet_transactions SET action = 'gift_sent'"
          f" {OF.format(CLEO, 'gift_received')}", HALVES, ANSWER),
    fault("a purchase of nothing", "DELETE FROM items", SIDE),
    fault("a boost of nothing", "UPDATE wallet_transactions SET metadata = '{}' WHERE action = 'boost_post'", SIDE),
    fault("a purchase paid to nobody", "UPDATE wallet_transactions SET counter_account = 'platform:issuance'"
          " WHERE action = 'purchase'", SIDE),
    fault("a withdrawal that stays", "UPDATE wallet_transactions SET counter_account = 'platform:issuance'"
          " WHERE action = 'withdrawal'", SIDE),
    fault("a penalty to another user", f"UPDATE wallet_transactions SET counter_account = 'user:{CLEO}'"
          f" {OF.format(BEN, 'penalty')}", SIDE, HALVES),
    fault("a penalty in a transfer", "UPDATE wallet_transactions SET transfer_id = gen_random_uuid()"
          f" {OF.format(BEN, 'penalty')}", SIDE),
    fault("a penalty that pays", f"""UPDATE wallet_transactions SET points = 5, balance_after = balance_before + 5
          {OF.format(BEN, 'penalty')}; UPDATE accounts a SET balance = t.balance_after FROM wallet_transactions t
          WHERE a.user_id = {BEN} AND t.user_id = {BEN} AND t.n = a.n""", SIDE, ANSWER, LOG),
    fault("a purchase stands twice", AGAIN.format(ANN, "purchase"), ANSWER),
    fault("another balance was answered", KEPT.format("money_requests", """'"newBalance":', '"newBalance":1'"""),
          ANSWER),
    fault("another deduction was answered", KEPT.format("backend_requests", """'"newBalance":', '"newBalance":1'"""),
          ANSWER),
    fault("an answered gift is another", "UPDATE wallet_transactions SET id = gen_random_uuid()"
          f" {OF.format(BEN, 'gift_sent')}", ANSWER, LOG),
    fault("a deduction is lost", TAKE_LAST.format(BEN), LOG, ANSWER),
    fault("a deduction stands twice", AGAIN.format(BEN, "penalty"), LOG, ANSWER),
    fault("a key is lost", "DELETE FROM money_requests", ANSWER),
    fault("the log lacks one", UNGUARDED + f"DELETE FROM audit_log WHERE target = 'user:{BEN}'", LOG),
    fault("the log names another user", UNGUARDED + f"UPDATE audit_log SET target = 'user:{CLEO}'"
          f" WHERE target = 'user:{BEN}'", LOG),
    fault("the log says another amount", UNGUARDED
          + """UPDATE audit_log SET after = (after::jsonb || '{"points": 1}')::json""", LOG),
    fault("the log says another action", UNGUARDED
          + """UPDATE audit_log SET after = (after::jsonb || '{"action": "x"}')::json""", LOG),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "checks"), FAULTS)
async def test_a_planted_fault_is_found(conn: asyncpg.Connection, sql: str, checks: tuple[str, ...]) -> None:
    await be_busy(conn)
    await conn.execute(sql)
    assert await found_by(conn) == set(checks)


def test_each_check_has_a_fault_of_its_own() -> None:
    assert {fault.values[1][0] for fault in FAULTS} == set(SPENDING_CHECKS)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "statement", ["UPDATE audit_log SET who = 'nobody'", "DELETE FROM audit_log", "TRUNCATE audit_log"]
)
async def test_the_database_itself_keeps_the_audit_log(conn: asyncpg.Connection, statement: str) -> None:
    await be_busy(conn)
    before = await conn.fetch("SELECT * FROM audit_log")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await conn.execute(statement)
    assert await conn.fetch("SELECT * FROM audit_log") == before
    assert len(before) == 11
