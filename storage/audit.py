"""The audit: what must hold of every balance, chain and award, proven in one snapshot of a live database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from storage.audit_access import ACCESS_CHECKS
from storage.audit_actions import ACTIONS_CHECKS, UPLOADS_AWARD
from storage.audit_events import EVENTS_CHECKS
from storage.audit_messaging import MESSAGING_CHECKS
from storage.audit_push import PUSH_CHECKS
from storage.audit_spending import SPENDING_CHECKS
from storage.ledger import ISSUANCE
from storage.requests import KEPT_DAYS, KEPT_DAYS_OF_MONEY

if TYPE_CHECKING:
    from asyncpg import Connection

MOST_ROWS: Final = 20


class Finding(NamedTuple):
    """One offending row of one check."""

    check: str
    row: str

    def __str__(self) -> str:
        return f"{self.check}: {self.row}"


# By kind of engagement: 1 like, 2 view, 3 share, 4 comment (which nobody else earns by).
ACTORS_AWARDS: Final = "ARRAY['video_liked', 'video_viewed', 'video_shared', 'comment_posted']"
CREATORS_AWARDS: Final = "ARRAY['like_received', 'view_received', 'share_received']"

# Each query lists offending rows; none is the good answer.
CHECKS: Final[dict[str, str]] = {
    "a user lacks a head or a wallet": """
        SELECT u.id AS user_id, h.user_id IS NOT NULL AS head, a.user_id IS NOT NULL AS wallet FROM users u
        LEFT JOIN heads h ON h.user_id = u.id
        LEFT JOIN accounts a ON a.user_id = u.id AND a.currency = 'LYK'
        WHERE h.user_id IS NULL OR a.user_id IS NULL""",
    "balance is not the sum of its entries": """
        SELECT user_id, currency, a.balance, coalesce(e.sum, 0) AS sum FROM accounts a
        FULL JOIN (SELECT user_id, currency, sum(points) AS sum FROM wallet_transactions GROUP BY 1, 2) e
            USING (user_id, currency)
        WHERE a.balance IS DISTINCT FROM coalesce(e.sum, 0)""",
    "n is not gapless, or the chain of before and after is broken": """
        SELECT * FROM (
            SELECT user_id, currency, n, points, balance_before, balance_after,
                row_number() OVER w AS expected_n, lag(balance_after, 1, 0::bigint) OVER w AS expected_before
            FROM wallet_transactions WINDOW w AS (PARTITION BY user_id, currency ORDER BY seq)) chain
        WHERE n <> expected_n OR balance_before <> expected_before OR balance_after <> balance_before + points""",
    "the account's n is not that of its last entry": """
        SELECT a.user_id, a.currency, a.n FROM accounts a
        LEFT JOIN (SELECT user_id, currency, max(n) AS n FROM wallet_transactions GROUP BY 1, 2) e
            USING (user_id, currency)
        WHERE a.n <> coalesce(e.n, 0)""",
    "a negative balance": "SELECT user_id, currency, balance FROM accounts WHERE balance < 0 OR reserved < 0",
    "an award that the platform did not issue": f"""
        SELECT user_id, seq, action, counter_account, transfer_id FROM wallet_transactions
        WHERE action = ANY({ACTORS_AWARDS} || {CREATORS_AWARDS} || {UPLOADS_AWARD})
            AND (counter_account <> '{ISSUANCE}' OR transfer_id IS NOT NULL)""",
    "seq is not gapless up to the head": """
        SELECT user_id, h.seq, h.oldest_seq, count(s.seq) AS events FROM heads h
        FULL JOIN (SELECT user_id, seq FROM inbox UNION ALL SELECT user_id, seq FROM wallet_transactions) s
            USING (user_id)
        GROUP BY user_id, h.seq, h.oldest_seq
        HAVING count(s.seq) FILTER (WHERE s.seq >= h.oldest_seq) IS DISTINCT FROM h.seq - h.oldest_seq + 1
            OR max(s.seq) > h.seq OR count(DISTINCT s.seq) <> count(s.seq)""",
    "an event stands twice": """
        SELECT user_id, id, count(*) AS times FROM (
            SELECT user_id, id FROM inbox UNION ALL SELECT user_id, id FROM wallet_transactions) events
        GROUP BY user_id, id HAVING count(*) > 1""",
    "a device has confirmed more than there is": """
        SELECT d.user_id, d.device_id, d.acked, h.seq FROM devices d LEFT JOIN heads h USING (user_id)
        WHERE (d.acked <= h.seq) IS NOT TRUE""",
    # A key's age is judged a moment after the time that its successor is stored with.
    "a request key was taken twice": f"""
        SELECT * FROM (
            SELECT user_id, action_id, created_at, lag(created_at) OVER w AS taken_at, lag(days) OVER w AS days FROM (
                SELECT user_id, action_id, created_at, {KEPT_DAYS} AS days FROM requests
                UNION ALL SELECT user_id, action_id, created_at, {KEPT_DAYS_OF_MONEY} FROM money_requests) keys
            WINDOW w AS (PARTITION BY user_id, action_id ORDER BY created_at)) taken
        WHERE created_at < taken_at + days * interval '1 day' - interval '1 minute'""",
    "actors' flags are not their entries": f"""
        SELECT user_id, video_id, action, coalesce(f.flagged, 0) AS flagged, coalesce(e.paid, 0) AS paid, e.times
        FROM (SELECT actor_id AS user_id, video_id, ({ACTORS_AWARDS})[kind] AS action, actor_points AS flagged
            FROM engagements WHERE actor_points <> 0) f
        FULL JOIN (SELECT user_id, metadata ->> 'videoId' AS video_id, action, sum(points) AS paid, count(*) AS times
            FROM wallet_transactions WHERE action = ANY({ACTORS_AWARDS}) GROUP BY 1, 2, 3) e
            USING (user_id, video_id, action)
        WHERE f.flagged IS DISTINCT FROM e.paid OR (e.times > 1 AND action <> 'comment_posted')""",
    "creators' flags are not entries plus waiting accruals": f"""
        SELECT user_id, video_id, kind, sum(flagged) AS flagged, sum(paid) AS paid, sum(flags) AS flags,
            sum(times) AS times FROM (
            SELECT creator_id AS user_id, video_id, kind, creator_points AS flagged, 0 AS paid,
                creator_paid::int AS flags, 0 AS times FROM engagements
            UNION ALL SELECT creator_id, video_id, kind, 0, points, 0, paid FROM accruals
            UNION ALL SELECT user_id, metadata ->> 'videoId', array_position({CREATORS_AWARDS}, action), 0, points,
                0, (metadata ->> 'count')::int
                FROM wallet_transactions WHERE action = ANY({CREATORS_AWARDS})) both_sides
        GROUP BY user_id, video_id, kind HAVING sum(flagged) <> sum(paid) OR sum(flags) <> sum(times)""",
    "totals are not engagements less waiting changes": """
        SELECT video_id, kind, sum(counted) AS counted, sum(engaged) AS engaged FROM (
            SELECT video_id, kind, total AS counted, 0 AS engaged FROM video_counters
            UNION ALL SELECT video_id, kind, change, 0 FROM accruals
            UNION ALL SELECT video_id, kind, 0, count FROM engagements) both_sides
        GROUP BY video_id, kind HAVING sum(counted) <> sum(engaged)""",
    "a like counts more than once, or something less than never": """
        SELECT actor_id, video_id, kind, count FROM engagements WHERE count < 0 OR (kind = 1 AND count > 1)""",
    "somebody was paid for their own video": """
        SELECT e.actor_id, e.video_id, e.kind FROM engagements e
        WHERE e.actor_id = e.creator_id AND (e.actor_paid OR e.creator_paid)""",
    "paid flag without points": """
        SELECT actor_id, video_id, kind FROM engagements
        WHERE actor_paid <> (actor_points > 0) OR creator_paid <> (creator_points > 0)""",
    **ACTIONS_CHECKS,
    **SPENDING_CHECKS,
    **EVENTS_CHECKS,
    **ACCESS_CHECKS,
    **MESSAGING_CHECKS,
    **PUSH_CHECKS,
}


async def audit(conn: Connection) -> list[Finding]:
    """Every offending row, at most MOST_ROWS of each check. Reads one snapshot, so it may run on a busy database."""
    findings: list[Finding] = []
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        for check, query in CHECKS.items():
            rows = await conn.fetch(f"{query} LIMIT {MOST_ROWS}", timeout=600)
            findings += [Finding(check, " ".join(f"{key}={value}" for key, value in row.items())) for row in rows]
    return findings
