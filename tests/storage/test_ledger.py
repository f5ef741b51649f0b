"""The ledger: `post` moves balances and nobody else does; each account's chain is unbroken and can be paged."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import db, heads, ledger
from storage.audit import audit
from storage.inbox import append
from storage.ledger import ISSUANCE, Entry
from storage.statement import write_together
from storage.users import insert_unknown_users

ROOT: Final = Path(__file__).parents[2]
NOW: Final = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
FROM_THE_NEWEST: Final = 2**53
USERS: Final = (1, 2, 3)


@pytest.fixture(autouse=True)
async def _users(conn: asyncpg.Connection) -> None:
    await insert_unknown_users(conn, USERS, [None] * len(USERS))
    await conn.execute("INSERT INTO currencies VALUES ('USD', 2)")
    await conn.execute("INSERT INTO accounts (user_id, currency) VALUES (1, 'USD')")


def entry(
    points: int,
    *,
    user_id: int = 1,
    seq: int = 1,
    n: int = 1,
    before: int = 0,
    currency: str = "LYK",
    metadata: str = "{}",
) -> Entry:
    return Entry(
        user_id, seq, currency, n, uuid4(), "refund", points, before, before + points, ISSUANCE, None, metadata, NOW
    )


async def post(conn: asyncpg.Connection, entries: Sequence[Entry]) -> None:
    """As a batch does: the entries with their seqs, in one statement."""
    seqs = {each.user_id: each.seq for each in entries}
    await write_together(conn, [*ledger.post(entries), *append([], seqs)])


async def balance(conn: asyncpg.Connection, user_id: int = 1, currency: str = "LYK") -> tuple[int, int]:
    """(balance, n)"""
    row = await conn.fetchrow("SELECT balance, n FROM accounts WHERE user_id = $1 AND currency = $2", user_id, currency)
    assert row is not None
    return row["balance"], row["n"]


async def entries_of(
    conn: asyncpg.Connection, user_id: int, currency: str | None = None, page: int = 500
) -> list[Entry]:
    """All entries, newest first, page by page as `wallet:history` asks for them."""
    found: list[Entry] = []
    before = FROM_THE_NEWEST
    while rows := (await ledger.list_entries(conn, user_id, before, currency, page))[0]:
        assert len(rows) <= page
        found += [row[0] for row in rows]
        before = found[-1].seq
    return found


# -- post --------------------------------------------------------------------------------------------


def test_nobody_else_writes_balances_or_entries() -> None:
    writes = re.compile(r"(?:UPDATE|INSERT INTO|DELETE FROM|TRUNCATE|MERGE INTO)\s+(accounts|wallet_transactions)\b")
    found = {
        (path.name, table)
        for room in ("storage", "handlers", "fanout", "gateway")
        for path in (ROOT / room).rglob("*.py")
        for table in writes.findall(path.read_text())
    }
    opened = ("users.py", "accounts")  # a new user's wallet, with nothing in it
    assert found == {("ledger.py", "accounts"), ("ledger.py", "wallet_transactions"), opened}


def test_nothing_to_post_is_no_write() -> None:
    assert ledger.post([]) == []


async def test_an_entry_comes_back_as_it_was_posted(conn: asyncpg.Connection) -> None:
    first = entry(150, metadata='{"count": 1.10, "b":  "\\u00e9",\n "a": [] }')
    second = Entry(1, 2, "LYK", 2, uuid4(), "penalty", -50, 150, 100, "platform:fees", "Spam \U0001f642", "{}", NOW)
    await post(conn, [first, second])
    listed = [(second, "completed", second.id), (first, "completed", first.id)]
    assert await ledger.list_entries(conn, 1, FROM_THE_NEWEST, None, 10) == (listed, 2)
    assert await balance(conn) == (100, 2)


async def test_accounts_of_several_users_and_currencies_move_each_by_itself(conn: asyncpg.Connection) -> None:
    await post(
        conn,
        [
            entry(100, seq=1), entry(7, seq=2, currency="USD"), entry(5, user_id=2),
            entry(-30, seq=3, n=2, before=100), entry(1, seq=4, n=2, before=7, currency="USD"),
        ],
    )  # fmt: skip
    assert await balance(conn) == (70, 2)
    assert await balance(conn, currency="USD") == (8, 2)
    assert await balance(conn, 2) == (5, 1)
    assert await balance(conn, 3) == (0, 0)
    assert await ledger.list_balances(conn, 1, None) == [("LYK", 70, 0, 4), ("USD", 8, 0, 4)]
    assert await ledger.list_balances(conn, 1, "USD") == [("USD", 8, 0, 4)]
    assert await ledger.list_balances(conn, 1, "EUR") == []
    assert await ledger.list_balances(conn, 404, None) == []
    assert [each.seq for each in await entries_of(conn, 1, "USD", page=1)] == [4, 2]
    assert await audit(conn) == []


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (entry(-101, seq=3, n=2, before=100), asyncpg.CheckViolationError),
        (entry(1, seq=3, n=2, before=100)._replace(balance_after=102), asyncpg.CheckViolationError),
        (entry(1, seq=1, n=2, before=100), asyncpg.UniqueViolationError),
        (entry(2**63 - 1, seq=3, n=2, before=0)._replace(balance_after=2**63), asyncpg.DataError),
        (entry(1, seq=3, n=2, before=100, metadata="{"), asyncpg.DataError),
    ],
)
async def test_what_must_not_be_is_refused_with_its_whole_statement(
    conn: asyncpg.Connection, bad: Entry, error: type[Exception]
) -> None:
    await post(conn, [entry(100)])
    with pytest.raises(error):
        await post(conn, [entry(100, user_id=2, seq=1), bad])
    assert await balance(conn) == (100, 1)
    assert await balance(conn, 2) == (0, 0)
    assert await entries_of(conn, 2) == []
    assert await audit(conn) == []


async def test_no_balance_goes_below_zero_whoever_writes_it(conn: asyncpg.Connection) -> None:
    for column in ("balance", "reserved"):
        with pytest.raises(asyncpg.CheckViolationError):
            await conn.execute(f"UPDATE accounts SET {column} = -1 WHERE user_id = 1")


# A step is a user and what they ask for; it is done where the model has enough. A batch is several.
steps = st.lists(
    st.lists(st.tuples(st.sampled_from(USERS), st.integers(-300, 300).filter(bool)), min_size=1, max_size=6), max_size=8
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=steps, page=st.integers(1, 9))
async def test_whatever_is_posted_the_chain_holds_and_pages_are_the_whole(
    conn: asyncpg.Connection, batches: list[list[tuple[int, int]]], page: int
) -> None:
    """Against a model: a list of entries a user."""
    model: dict[int, list[Entry]] = {user: [] for user in USERS}
    try:
        for batch in batches:
            posted: list[Entry] = []
            for user, points in batch:
                before = model[user][-1].balance_after if model[user] else 0
                if before + points >= 0:
                    number = len(model[user]) + 1
                    model[user].append(entry(points, user_id=user, seq=number, n=number, before=before))
                    posted.append(model[user][-1])
            await post(conn, posted)
        for user, entries in model.items():
            assert await balance(conn, user) == (sum(each.points for each in entries), len(entries))
            assert await entries_of(conn, user, page=page) == entries[::-1]
        assert await audit(conn) == []
    finally:
        await conn.execute("DELETE FROM wallet_transactions")
        await conn.execute("UPDATE accounts SET balance = 0, n = 0; UPDATE heads SET seq = 0")


async def test_under_the_head_nothing_is_lost_or_posted_twice(conn: asyncpg.Connection, dsn: str) -> None:
    """Several nodes each read the account after the lock, and write what follows."""
    nodes = [await db.connect(dsn) for _ in range(4)]

    async def earn(node: asyncpg.Connection) -> None:
        for _ in range(25):
            async with node.transaction():
                seqs = await heads.lock(node, [1])
                before, n = await balance(node)
                await post(node, [entry(2, seq=seqs[1] + 1, n=n + 1, before=before)])

    await asyncio.gather(*(earn(node) for node in nodes))
    for node in nodes:
        await node.close()
    assert await balance(conn) == (200, 100)
    assert await audit(conn) == []


# -- read --------------------------------------------------------------------------------------------


async def test_a_balance_and_its_seq_are_of_one_snapshot(conn: asyncpg.Connection, dsn: str) -> None:
    other = await db.connect(dsn)
    done = asyncio.Event()

    async def earn() -> None:
        for number in range(1, 201):
            await post(other, [entry(1, seq=number, n=number, before=number - 1)])
        done.set()

    earning = asyncio.create_task(earn())
    seen = set()
    while not done.is_set():
        [(_, amount, _, seq)] = await ledger.list_balances(conn, 1, "LYK")
        assert amount == seq
        seen.add(seq)
    await earning
    await other.close()
    assert len(seen) > 2


async def test_a_page_begins_before_the_cursor_and_ends_at_the_limit(conn: asyncpg.Connection) -> None:
    await post(conn, [entry(1, seq=number, n=number, before=number - 1) for number in range(1, 6)])
    for before, limit, seqs in ((6, 2, [5, 4]), (4, 2, [3, 2]), (2, 2, [1]), (1, 2, []), (5, 9, [4, 3, 2, 1])):
        rows, seq = await ledger.list_entries(conn, 1, before, None, limit)
        assert ([row[0].seq for row in rows], seq) == (seqs, 5)
    assert await ledger.list_entries(conn, 2, FROM_THE_NEWEST, None, 9) == ([], 0)
