"""Entries of the ledger on their way to Kafka: which come next, how far it is, and which node does it.

A *sweep* goes through all entries once, user by user. From then on each *window* takes the entries of the transactions
from `done` up to an end that is not above the snapshot's xmin, so that what commits late is in a later one. An end may
be anywhere below it, so a long backlog is many small windows.

The order of transactions is not that of a user's entries: n=2 may be of an earlier transaction than n=1, which
committed before, and a third one that still runs may have a number between theirs. So a window also takes the entries
before its own that are of later transactions; they are there, since a user's entries become visible in their order (the
head is locked). These come once more in a window of their own. Hence: **before an entry, all earlier ones of its user
were published**, and entries of transactions before `done` need not be looked at again.

A database that was restored from a dump has transaction numbers of another cluster in its rows. They are told by the
system column `xmin`, which is the row's own transaction here, and was not restored: see OWN, and NEW.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from storage.ledger import COLUMNS, Entry

if TYPE_CHECKING:
    from asyncpg import Connection, Record

Row = tuple[Entry, str]
"""(entry, status)"""

MOST_COUNTED: Final = 10_000


class Place(NamedTuple):
    """How far it is. `done` and `brought` are transactions, `swept` is (user, seq) while a sweep is under way."""

    done: int
    brought: int
    swept: tuple[int, int] | None


class Page(NamedTuple):
    """The next entries, each user's in their order, and the place behind them. `is_full`: there may be more."""

    rows: list[Row]
    then: Place
    is_full: bool


# -- which node, and how far it is -----------------------------------------------------------------------------------

SERVER: Final = "(SELECT system_identifier::text FROM pg_control_system())"
# Written in this cluster, not restored into it. The number alone might be the same in both.
OWN: Final = f"(e.xmin = e.xact::xid AND e.server = {SERVER})"

DROP_RESTORED = f"DELETE FROM egress e WHERE e.topic = $1 AND NOT {OWN}"
BEGIN = f"""
INSERT INTO egress (topic, done, swept_user, swept_seq, brought, lease_until, server, xact)
SELECT $1, pg_snapshot_xmin(pg_current_snapshot()), 0, 0, coalesce((SELECT max(xact) FROM wallet_transactions), '0'),
    '-infinity', {SERVER}, pg_current_xact_id()
WHERE NOT EXISTS (SELECT FROM egress WHERE topic = $1) ON CONFLICT DO NOTHING
"""
# A lease further ahead than any is given: the clock was put back.
CLAIM = f"""
UPDATE egress e SET holder = $2, lease_until = clock_timestamp() + make_interval(secs => $3), server = {SERVER},
    xact = pg_current_xact_id()
WHERE topic = $1 AND (holder = $2 OR lease_until <= clock_timestamp()
    OR lease_until > clock_timestamp() + make_interval(secs => 2 * $3))
RETURNING done, brought, swept_user, swept_seq
"""


async def claim(conn: Connection, topic: str, node: str, lease_s: float) -> Place | None:
    """Publish from there, for as long as the lease; None: another node does. Where nothing was published yet, or by the
    cluster that this database was dumped from, a sweep begins."""
    async with conn.transaction():
        await conn.execute(DROP_RESTORED, topic)
        await conn.execute(BEGIN, topic)
        row = await conn.fetchrow(CLAIM, topic, node, lease_s)
    return None if row is None else Place(row[0], row[1], None if row[2] is None else (row[2], row[3]))


ADVANCE = f"""
UPDATE egress e SET done = $3, swept_user = $4, swept_seq = $5, server = {SERVER}, xact = pg_current_xact_id(),
    lease_until = clock_timestamp() + make_interval(secs => $6)
WHERE topic = $1 AND holder = $2 AND {OWN} RETURNING true
"""


async def advance(conn: Connection, topic: str, node: str, place: Place, lease_s: float) -> bool:
    """Kafka has all up to there. False where another node has taken over: this changes nothing then."""
    swept_user, swept_seq = place.swept or (None, None)
    return bool(await conn.fetchval(ADVANCE, topic, node, place.done, swept_user, swept_seq, lease_s))


RELEASE = f"""
UPDATE egress e SET holder = NULL, lease_until = '-infinity', server = {SERVER}, xact = pg_current_xact_id()
WHERE topic = $1 AND holder = $2 AND {OWN}
"""


async def release(conn: Connection, topic: str, node: str) -> None:
    """Let another node go on at once."""
    await conn.execute(RELEASE, topic, node)


# -- what comes next -------------------------------------------------------------------------------------------------

SWEEP = f"""
SELECT {COLUMNS}, status FROM wallet_transactions WHERE (user_id, seq) > ($1, $2) ORDER BY user_id, seq LIMIT $3
"""
BOUNDS = """
SELECT pg_snapshot_xmin(pg_current_snapshot()),
    (SELECT xact FROM wallet_transactions WHERE xact >= $1 AND xact < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY xact LIMIT 1),
    (SELECT xact FROM wallet_transactions WHERE xact >= $1 AND xact < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY xact LIMIT 1 OFFSET $2)
"""
# Not brought by a restore: those were swept. $1 begins the window, $2 is its end, $3 is `brought`.
NEW: Final = "(w.xact > $3 OR w.xmin = w.xact::xid)"
# Step by step, and with `IS TRUE`, so that each user's entries are found by `seq` alone: not among all that the user
# ever had, nor among all of a backlog's transactions (91 µs an entry instead of 5).
WINDOW = f"""
WITH own AS MATERIALIZED (
    SELECT user_id, min(seq) AS first, max(seq) AS last FROM wallet_transactions w
    WHERE xact >= $1 AND xact < $2 AND {NEW} GROUP BY user_id
), stretch AS MATERIALIZED (
    SELECT user_id, last, coalesce((
        SELECT w.seq FROM wallet_transactions w
        WHERE w.user_id = own.user_id AND w.seq < own.first AND NOT (w.xact >= $2 AND {NEW})
        ORDER BY w.seq DESC LIMIT 1), 0) AS published FROM own
)
SELECT t.* FROM stretch s JOIN LATERAL (
    SELECT {COLUMNS}, status FROM wallet_transactions w
    WHERE w.user_id = s.user_id AND w.seq > s.published AND w.seq <= s.last AND (w.xact >= $1) IS TRUE AND {NEW}
) t ON true ORDER BY t.user_id, t.seq
"""


async def next_page(conn: Connection, place: Place, limit: int) -> Page:
    """What is to be published from `place` on: about `limit` entries, or those of one transaction if they are more."""
    if place.swept is not None:
        rows = _rows(await conn.fetch(SWEEP, *place.swept, limit))
        is_full = len(rows) == limit
        swept = (rows[-1][0].user_id, rows[-1][0].seq) if is_full else None
        return Page(rows, place._replace(swept=swept), True)
    xmin, first, end = (await conn.fetch(BOUNDS, place.done, limit))[0]
    if first is None:
        return Page([], place._replace(done=max(place.done, xmin)), False)
    is_full = end is not None
    if not is_full:
        end = xmin
    elif end == first:
        end = first + 1
    rows = _rows(await conn.fetch(WINDOW, place.done, end, place.brought))
    return Page(rows, place._replace(done=end), is_full)


def _rows(records: Sequence[Record]) -> list[Row]:
    return [(Entry(*row[:14]), row[14]) for row in records]


# -- how far it is behind --------------------------------------------------------------------------------------------


class Lag(NamedTuple):
    """What waits: entries (`MOST_COUNTED`: or more), how long the oldest of them has, and how long the oldest
    transaction that writes anything has run, which holds all later ones back."""

    entries: int
    oldest_s: float
    transaction_s: float
    is_sweeping: bool


FETCH_LAG = f"""
SELECT (SELECT count(*) FROM (SELECT FROM wallet_transactions w
        WHERE w.xact >= e.done AND w.xact < pg_snapshot_xmax(pg_current_snapshot()) LIMIT {MOST_COUNTED}) waiting),
    coalesce((SELECT extract(epoch FROM clock_timestamp() - created_at)::float8 FROM wallet_transactions w
        WHERE w.xact >= e.done AND w.xact < pg_snapshot_xmax(pg_current_snapshot()) ORDER BY w.xact LIMIT 1), 0),
    coalesce((SELECT extract(epoch FROM clock_timestamp() - min(xact_start))::float8 FROM pg_stat_activity
        WHERE backend_xid IS NOT NULL), 0),
    swept_user IS NOT NULL
FROM egress e WHERE topic = $1
"""


async def fetch_lag(conn: Connection, topic: str) -> Lag | None:
    """None where nobody has begun yet."""
    row = await conn.fetchrow(FETCH_LAG, topic)
    return None if row is None else Lag(row[0], max(row[1], 0.0), max(row[2], 0.0), row[3])
