"""How far back inboxes reach: trimming them, and the state that lets each pass look at little.

A pass looks at users of whom something was stored since the last one (they may have too many events), and of whom
something has become too old since. Where nothing was trimmed before, or to other settings, a sweep goes through all
users once, page by page. Trimming a user again changes nothing, so passes may overlap, stop anywhere and be repeated.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from storage import heads

if TYPE_CHECKING:
    from asyncpg import Connection

STEP: Final = 500  # events of one user in one transaction, whose head is held meanwhile


class Horizon(NamedTuple):
    """The database's clock, and the moment before which all that was ever stored can be seen by now."""

    now: datetime
    settled: datetime


FETCH_NOW = "SELECT clock_timestamp()"
# Events are dated under their user's head, and to lock it takes a transaction id.
FETCH_OLDEST_WRITER = """
SELECT min(xact_start) FROM pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL
"""


async def fetch_horizon(conn: Connection) -> Horizon:
    """The clock first: who begins to write after it dates what they write later. Nodes share one database role, or
    they would not see each other's transactions."""
    now: datetime = await conn.fetchval(FETCH_NOW)
    writer: datetime | None = await conn.fetchval(FETCH_OLDEST_WRITER)
    return Horizon(now, now if writer is None else min(now, writer))


class State(NamedTuple):
    """How far it is, for these settings; see the table."""

    keep_events: int
    keep_s: float
    swept_to: int | None
    counted_to: datetime
    aged_to: datetime


BEGIN = """
UPDATE retention SET begun_at = clock_timestamp()
WHERE begun_at IS NULL OR begun_at <= clock_timestamp() - make_interval(secs => $1) OR begun_at > clock_timestamp()
RETURNING true
"""


async def begin(conn: Connection, every_s: float) -> bool:
    """Whether a pass is due: one in `every_s` seconds, whichever node does it."""
    return bool(await conn.fetchval(BEGIN, every_s))


FETCH_STATE = "SELECT keep_events, keep_s, swept_to, counted_to, aged_to FROM retention"


async def fetch_state(conn: Connection) -> State | None:
    """The state of the last pass; None where there was none."""
    row = await conn.fetchrow(FETCH_STATE)
    return State(*row) if row and row[0] is not None else None


START_SWEEP = """
UPDATE retention SET keep_events = $1, keep_s = $2, swept_to = $3, counted_to = $4, aged_to = $5
"""


async def start_sweep(conn: Connection, state: State) -> None:
    """Go through all users, since nothing is known of these settings; `swept_to` is 0."""
    await conn.execute(START_SWEEP, *state)


# Not where another node of other settings has begun anew.
MARK = """
UPDATE retention SET swept_to = $3, counted_to = $4, aged_to = $5 WHERE keep_events = $1 AND keep_s = $2
"""


async def mark(conn: Connection, state: State) -> None:
    """Note how far the pass is."""
    await conn.execute(MARK, *state)


LIST_TOO_MANY = """
SELECT h.user_id FROM (
    SELECT user_id FROM inbox WHERE created_at >= $1 AND created_at < $2
    UNION SELECT user_id FROM wallet_transactions WHERE created_at >= $1 AND created_at < $2) stored
JOIN heads h USING (user_id) WHERE h.seq - h.oldest_seq >= $3
"""


async def list_too_many(conn: Connection, since: datetime, until: datetime, keep_events: int) -> list[int]:
    """Users of whom something was stored in this time and who have more than `keep_events` events."""
    return [row[0] for row in await conn.fetch(LIST_TOO_MANY, since, until, keep_events)]


LIST_TOO_OLD = """
SELECT h.user_id FROM (
    SELECT user_id, min(seq) AS seq FROM inbox WHERE created_at >= $1 AND created_at < $2 GROUP BY 1
    UNION ALL SELECT user_id, max(seq) FROM wallet_transactions WHERE created_at >= $1 AND created_at < $2 GROUP BY 1
    ) stored
JOIN heads h ON h.user_id = stored.user_id AND h.oldest_seq <= stored.seq GROUP BY 1
"""


async def list_too_old(conn: Connection, since: datetime, until: datetime) -> list[int]:
    """Users of whom something stored in this time is still part of the inbox; an entry stays stored for ever."""
    return [row[0] for row in await conn.fetch(LIST_TOO_OLD, since, until)]


LIST_TO_SWEEP = """
SELECT h.user_id, h.seq - h.oldest_seq >= $3 OR least(
    (SELECT i.created_at FROM inbox i WHERE i.user_id = h.user_id AND i.seq = h.oldest_seq),
    (SELECT w.created_at FROM wallet_transactions w WHERE w.user_id = h.user_id AND w.seq = h.oldest_seq)) < $4
FROM heads h WHERE h.user_id > $1 ORDER BY h.user_id LIMIT $2
"""


async def list_to_sweep(
    conn: Connection, after: int, limit: int, keep_events: int, cutoff: datetime
) -> tuple[list[int], int | None]:
    """(those of the next users who have too many or too old events, the last of the next users; None: no more)."""
    rows = await conn.fetch(LIST_TO_SWEEP, after, limit, keep_events, cutoff)
    return [row[0] for row in rows if row[1]], rows[-1][0] if rows else None


# An inbox begins with the first of its last `keep_events` events that is not too old. Both look no further than a
# step, so that a head is not held for long; who was moved by a whole step is told, and asked for again.
TRIM = """
WITH bounds AS (
    SELECT h.user_id, h.oldest_seq AS was, least(h.oldest_seq + $4, greatest(h.oldest_seq, h.seq - $2 + 1, least(
        h.seq + 1, h.oldest_seq + $4,
        (SELECT i.seq FROM inbox i WHERE i.user_id = h.user_id AND i.created_at >= $3
            AND i.seq >= h.oldest_seq AND i.seq < h.oldest_seq + $4 ORDER BY i.seq LIMIT 1),
        (SELECT w.seq FROM wallet_transactions w WHERE w.user_id = h.user_id AND w.created_at >= $3
            AND w.seq >= h.oldest_seq AND w.seq < h.oldest_seq + $4 ORDER BY w.seq LIMIT 1)))) AS oldest
    FROM heads h WHERE h.user_id = ANY($1::bigint[])
), moved AS (
    UPDATE heads h SET oldest_seq = b.oldest FROM bounds b WHERE h.user_id = b.user_id AND b.oldest > b.was
), deleted AS (
    DELETE FROM inbox i USING bounds b WHERE i.user_id = b.user_id AND i.seq < b.oldest AND b.oldest > b.was
)
SELECT user_id FROM bounds WHERE oldest = was + $4
"""


async def trim(
    conn: Connection, user_ids: Collection[int], keep_events: int, cutoff: datetime, *, step: int = STEP
) -> set[int]:
    """Trim these users' inboxes in one transaction; returns whom to ask for again.

    Whose head somebody else holds is noted as owed.
    """
    async with conn.transaction():
        await heads.hold_briefly(conn)
        free = await heads.lock(conn, user_ids, skip_locked=True)
        rows = await conn.fetch(TRIM, list(free), keep_events, cutoff, step)
        await owe(conn, set(user_ids) - free.keys())
    return {row[0] for row in rows}


INSERT_OWED = """
INSERT INTO retention_owed SELECT user_id FROM heads WHERE user_id = ANY($1::bigint[]) ORDER BY user_id
ON CONFLICT DO NOTHING
"""


async def owe(conn: Connection, user_ids: Collection[int]) -> None:
    """Put users on the list of those who are still to be trimmed."""
    if user_ids:
        await conn.execute(INSERT_OWED, list(user_ids))


TAKE_OWED = """
DELETE FROM retention_owed WHERE user_id IN (
    SELECT user_id FROM retention_owed WHERE user_id > $1 ORDER BY user_id LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING user_id
"""


async def take_owed(conn: Connection, after: int, limit: int) -> list[int]:
    """The next users who were passed over, taken off the list: trim them in the same transaction."""
    return [row[0] for row in await conn.fetch(TAKE_OWED, after, limit)]
