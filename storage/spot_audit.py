"""The rolling audit: some accounts at a time, each one's last entries against its balance, in one statement's snapshot.

Unlike `storage/audit.py` it costs the same however long the ledger is, so that it may run all the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from asyncpg import Connection

Place = tuple[int, str]
"""(user, currency): accounts are looked at in this order."""

START: Final[Place] = (0, "")
LAST_ENTRIES: Final = 100

CHECKS: Final = ("balance", "chain", "number")


class Fault(NamedTuple):
    """What is wrong with an account: its balance is not that after its last entry, the chain of before and after (or
    of `n`) is broken within the last entries, or its `n` is not the last one's. `amount`: minor units."""

    check: str
    amount: int


class Looked(NamedTuple):
    """The accounts, in order, and those of them that are wrong."""

    places: list[Place]
    faults: dict[Place, Fault]


# An account's entries are found by its user's key, newest first; so those of other currencies are read past.
LOOK = f"""
SELECT d.user_id, d.currency, d.balance, d.n, coalesce(e.after, 0), coalesce(e.n, 0), coalesce(e.broken, false),
    coalesce(e.gap, 0)
FROM (SELECT user_id, currency, balance, n FROM accounts WHERE (user_id, currency) > ($1, $2)
    ORDER BY user_id, currency LIMIT $3) d
LEFT JOIN LATERAL (
    SELECT (array_agg(balance_after ORDER BY seq DESC))[1] AS after, (array_agg(n ORDER BY seq DESC))[1] AS n,
        bool_or(balance_before <> coalesce(before, balance_before) OR n <> coalesce(last_n + 1, n)
            OR balance_after <> balance_before + points) AS broken,
        sum(abs(balance_before - coalesce(before, balance_before)))::bigint AS gap
    FROM (SELECT *, lag(balance_after) OVER w AS before, lag(n) OVER w AS last_n
        FROM (SELECT seq, n, points, balance_before, balance_after FROM wallet_transactions t
            WHERE t.user_id = d.user_id AND t.currency = d.currency ORDER BY seq DESC LIMIT {LAST_ENTRIES}) entries
        WINDOW w AS (ORDER BY seq)) chain) e ON true
ORDER BY d.user_id, d.currency
"""


async def look(conn: Connection, after: Place, limit: int) -> Looked:
    """The next accounts behind `after`, at most `limit`."""
    rows = await conn.fetch(LOOK, *after, limit)
    faults: dict[Place, Fault] = {}
    for user_id, currency, balance, n, last_after, last_n, is_broken, gap in rows:
        if balance != last_after:
            faults[user_id, currency] = Fault("balance", abs(balance - last_after))
        elif is_broken:
            faults[user_id, currency] = Fault("chain", gap)
        elif n != last_n:
            faults[user_id, currency] = Fault("number", 0)
    return Looked([(row[0], row[1]) for row in rows], faults)
