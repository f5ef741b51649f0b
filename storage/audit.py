"""The audit: what must hold of every balance, chain and award, proven in one snapshot of a live database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from asyncpg import Connection

MOST_ROWS: Final = 20


class Finding(NamedTuple):
    """One offending row of one check."""

    check: str
    row: str

    def __str__(self) -> str:
        return f"{self.check}: {self.row}"


# Each query lists offending rows; none is the good answer.
CHECKS: Final[dict[str, str]] = {
    "balance is not the sum of its entries": """
        SELECT a.user_id, a.currency, a.balance, coalesce(e.sum, 0) AS sum FROM accounts a
        FULL JOIN (SELECT user_id, currency, sum(points) AS sum FROM wallet_transactions GROUP BY 1, 2) e
            USING (user_id, currency)
        WHERE a.balance IS DISTINCT FROM coalesce(e.sum, 0)""",
    "n is not gapless, or the chain of before and after is broken": """
        SELECT * FROM (
            SELECT user_id, currency, n, balance_before,
                row_number() OVER w AS expected_n, lag(balance_after, 1, 0::bigint) OVER w AS expected_before
            FROM wallet_transactions WINDOW w AS (PARTITION BY user_id, currency ORDER BY seq)) chain
        WHERE n <> expected_n OR balance_before <> expected_before""",
    "the account's n is not that of its last entry": """
        SELECT a.user_id, a.currency, a.n FROM accounts a
        LEFT JOIN (SELECT user_id, currency, max(n) AS n FROM wallet_transactions GROUP BY 1, 2) e
            USING (user_id, currency)
        WHERE a.n <> coalesce(e.n, 0)""",
    "a negative balance": "SELECT user_id, currency, balance FROM accounts WHERE balance < 0 OR reserved < 0",
    "seq is not gapless up to the head": """
        SELECT h.user_id, h.seq, h.oldest_seq, count(s.seq) AS events FROM heads h
        LEFT JOIN (SELECT user_id, seq FROM inbox UNION ALL SELECT user_id, seq FROM wallet_transactions) s
            ON s.user_id = h.user_id AND s.seq >= h.oldest_seq
        GROUP BY h.user_id, h.seq, h.oldest_seq
        HAVING count(s.seq) <> h.seq - h.oldest_seq + 1 OR coalesce(max(s.seq), h.seq) <> h.seq
            OR count(DISTINCT s.seq) <> count(s.seq)""",
    "actors' flags are not their entries": """
        SELECT f.user_id, f.flagged, coalesce(e.paid, 0) AS paid FROM
            (SELECT actor_id AS user_id, sum(actor_points) AS flagged FROM engagements GROUP BY 1) f
        FULL JOIN (SELECT user_id, sum(points) AS paid FROM wallet_transactions
            WHERE action IN ('video_liked', 'video_viewed', 'video_shared') GROUP BY 1) e USING (user_id)
        WHERE coalesce(f.flagged, 0) <> coalesce(e.paid, 0)""",
    "creators' flags are not entries plus waiting accruals": """
        SELECT user_id, sum(flagged) AS flagged, sum(paid) AS paid FROM (
            SELECT creator_id AS user_id, creator_points AS flagged, 0 AS paid FROM engagements
            UNION ALL SELECT creator_id, 0, points FROM accruals
            UNION ALL SELECT user_id, 0, points FROM wallet_transactions
                WHERE action IN ('like_received', 'view_received', 'share_received')) both_sides
        GROUP BY user_id HAVING sum(flagged) <> sum(paid)""",
    "totals are not engagements less waiting changes": """
        SELECT video_id, kind, sum(counted) AS counted, sum(engaged) AS engaged FROM (
            SELECT video_id, kind, total AS counted, 0 AS engaged FROM video_counters
            UNION ALL SELECT video_id, kind, change, 0 FROM accruals
            UNION ALL SELECT video_id, kind, 0, count FROM engagements) both_sides
        GROUP BY video_id, kind HAVING sum(counted) <> sum(engaged)""",
    "somebody was paid for their own video": """
        SELECT e.actor_id, e.video_id, e.kind FROM engagements e
        WHERE e.actor_id = e.creator_id AND (e.actor_paid OR e.creator_paid)""",
    "paid flag without points": """
        SELECT actor_id, video_id, kind FROM engagements
        WHERE actor_paid <> (actor_points > 0) OR creator_paid <> (creator_points > 0)""",
}


async def audit(conn: Connection) -> list[Finding]:
    """Every offending row, at most MOST_ROWS of each check. Reads one snapshot, so it may run on a busy database."""
    findings: list[Finding] = []
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        for check, query in CHECKS.items():
            rows = await conn.fetch(f"{query} LIMIT {MOST_ROWS}", timeout=600)
            findings += [Finding(check, " ".join(f"{key}={value}" for key, value in row.items())) for row in rows]
    return findings
