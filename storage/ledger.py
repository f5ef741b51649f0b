"""The ledger: `post` is the only writer of balances. Amounts are minor units of the currency."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from storage.statement import Write, columns, micros, moment_of

if TYPE_CHECKING:
    from asyncpg import Connection

# The platform's own accounts. What a user gives back of issued points goes where they came from.
ISSUANCE: Final = "platform:issuance"
PURCHASES: Final = "platform:purchases"
PAYOUTS: Final = "platform:payouts"


def user_account(user_id: int) -> str:
    """How an entry names the wallet of another user as its counter-account."""
    return f"user:{user_id}"


class Entry(NamedTuple):
    """One row of wallet_transactions, which is also the event `seq` of its user.

    `points` carries the sign of the change. `reason` None means the action's fixed text,
    `metadata` is JSON text. `transfer_id` is what the rows of one transfer have in common; None: it is this row alone.
    """

    user_id: int
    seq: int
    currency: str
    n: int
    id: UUID
    action: str
    points: int
    balance_before: int
    balance_after: int
    counter_account: str
    reason: str | None
    metadata: str
    created_at: datetime
    transfer_id: UUID | None = None


COLUMNS: Final = (
    "user_id, seq, currency, n, id, action, points, balance_before, balance_after, "
    "counter_account, reason, metadata, created_at, transfer_id"
)

POST_ENTRIES = f"""
INSERT INTO wallet_transactions ({COLUMNS})
SELECT user_id, seq, currency, n, id, action, points, balance_before, balance_after, counter_account, reason,
    metadata::json, {moment_of("created_us")}, transfer_id FROM unnest($1::entry_row[])
"""

POST_BALANCES = """
UPDATE accounts a SET balance = new.balance, n = new.n FROM unnest($1::balance_row[]) AS new
WHERE a.user_id = new.user_id AND a.currency = new.currency
"""


def post(entries: Sequence[Entry]) -> list[Write]:
    """The writes that store the entries and move each account to its last balance and `n`.

    The caller holds the heads of all users named, and gives each account's entries in order of `n`.
    """
    if not entries:
        return []
    last = {(entry.user_id, entry.currency): (entry.balance_after, entry.n) for entry in entries}
    accounts = [(user_id, currency, *state) for (user_id, currency), state in last.items()]
    rows = [(*entry[:12], micros(entry.created_at), entry.transfer_id) for entry in entries]
    return [Write(POST_ENTRIES, (rows,)), Write(POST_BALANCES, (accounts,))]


LIST_BALANCES = """
SELECT a.currency, a.balance, a.reserved, h.seq FROM heads h JOIN accounts a USING (user_id)
WHERE h.user_id = $1 AND ($2::text IS NULL OR a.currency = $2) ORDER BY a.currency
"""


async def list_balances(conn: Connection, user_id: int, currency: str | None) -> list[tuple[str, int, int, int]]:
    """(currency, balance, reserved, the user's seq in the same snapshot) of each account."""
    return [tuple(row) for row in await conn.fetch(LIST_BALANCES, user_id, currency)]


LIST_ENTRIES = f"""
SELECT h.seq, e.* FROM heads h LEFT JOIN LATERAL (
    SELECT {COLUMNS}, status FROM wallet_transactions
    WHERE user_id = h.user_id AND seq < $2 AND ($3::text IS NULL OR currency = $3) ORDER BY seq DESC LIMIT $4
) e ON true WHERE h.user_id = $1 ORDER BY e.seq DESC
"""


async def list_entries(
    conn: Connection, user_id: int, before_seq: int, currency: str | None, limit: int
) -> tuple[list[tuple[Entry, str, UUID]], int]:
    """([(entry, status, transfer id)], the user's seq in the same snapshot), newest first: `seq` and `n` of one account
    rise together."""
    rows = await conn.fetch(LIST_ENTRIES, user_id, before_seq, currency, limit)
    entries = [(Entry(*row[1:15]), row[15]) for row in rows if row[1] is not None]
    page = [(entry, status, entry.transfer_id or entry.id) for entry, status in entries]
    return page, rows[0][0] if rows else 0


class Wallet(NamedTuple):
    """One account of a user in the moment of `now`; amounts are minor units."""

    user_id: int
    currency: str
    status: str
    balance: int
    reserved: int
    n: int
    now: datetime


LIST_WALLETS = """
SELECT d.user_id, d.currency, u.status, a.balance, a.reserved, a.n, clock_timestamp()
FROM unnest($1::bigint[], $2::text[]) AS d(user_id, currency)
JOIN users u ON u.id = d.user_id JOIN accounts a ON a.user_id = d.user_id AND a.currency = d.currency
"""


async def list_wallets(conn: Connection, wallets: Sequence[tuple[int, str]]) -> list[Wallet]:
    """These (user, currency) accounts, to be moved: the caller holds the users' heads."""
    return [Wallet(*row) for row in await conn.fetch(LIST_WALLETS, *columns(wallets, 2))]
