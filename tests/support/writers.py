"""Transactions that post entries and stay open, in any interleaving; and what whoever reads the topic makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

import asyncpg

from storage import db, heads, ledger
from storage.inbox import append
from storage.ledger import ISSUANCE, Entry
from storage.statement import write_together

POSTED: Final = "SELECT user_id, seq, n FROM wallet_transactions ORDER BY user_id, seq"


class Writer:
    """One transaction at a time, on a connection of its own."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self.conn = conn
        self.held: set[int] = set()
        self.is_open = False

    async def begin(self) -> int:
        """Its number."""
        await self.conn.execute("BEGIN")
        self.is_open = True
        number: int = await self.conn.fetchval("SELECT pg_current_xact_id()")
        return number

    async def post(self, *user_ids: int) -> None:
        """One point each, as a batch does it: under the heads."""
        seqs = await heads.lock(self.conn, user_ids)
        self.held |= set(user_ids)
        rows = await self.conn.fetch(
            "SELECT user_id, balance, n FROM accounts WHERE user_id = ANY($1::bigint[])", user_ids
        )
        entries = [_entry(user_id, seqs[user_id] + 1, n + 1, balance) for user_id, balance, n in rows]
        await write_together(
            self.conn, [*ledger.post(entries), *append([], {each.user_id: each.seq for each in entries})]
        )

    async def end(self, how: str = "COMMIT") -> None:
        await self.conn.execute(how)
        self.held.clear()
        self.is_open = False


def _entry(user_id: int, seq: int, n: int, before: int) -> Entry:
    now = datetime.now(UTC)
    return Entry(user_id, seq, "LYK", n, uuid4(), "refund", 1, before, before + 1, ISSUANCE, None, "{}", now)


async def writers(dsn: str, count: int) -> list[Writer]:
    return [Writer(await db.connect(dsn)) for _ in range(count)]


def deduplicated(entries: Sequence[Entry]) -> dict[int, list[int]]:
    """user -> the `n`s that a consumer keeps: it drops what is not above the last one."""
    kept: dict[int, list[int]] = {}
    for entry in entries:
        own = kept.setdefault(entry.user_id, [])
        if not own or entry.n > own[-1]:
            own.append(entry.n)
    return kept


async def ledger_of(conn: asyncpg.Connection) -> dict[int, list[int]]:
    """user -> the `n`s of the committed entries, in their order."""
    found: dict[int, list[int]] = {}
    for user_id, _, n in await conn.fetch(POSTED):
        found.setdefault(user_id, []).append(n)
    return found
