"""Request keys: (caller, actionId) with a fingerprint and the stored outcome (spec 2).

A user's are unique because their head is held whenever they are read and written; so their tables can be partitioned
by time, and partitions whose last key has expired are dropped whole. A backend has no head: its keys are few, and
unique by an index.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from storage.statement import Write, columns, moment_of

if TYPE_CHECKING:
    from asyncpg import Connection

KEPT_DAYS: Final = 7
KEPT_DAYS_OF_MONEY: Final = 30
_MONDAY: Final = datetime(2024, 1, 1, tzinfo=UTC)  # any Monday: partitions begin a whole number of periods from it

# Joins of a statement whose `d` has user_id and action_id: `coalesce(r.x, m.x)` is then of the key that is taken. Two
# joins, since no index is used inside a UNION that has conditions; and now(), not clock_timestamp(), which is volatile,
# so that partitions which can't hold a valid key are not even opened.
JOIN_TAKEN: Final = f"""
LEFT JOIN requests r ON r.user_id = d.user_id AND r.action_id = d.action_id
    AND r.created_at > now() - interval '{KEPT_DAYS} days'
LEFT JOIN money_requests m ON m.user_id = d.user_id AND m.action_id = d.action_id
    AND m.created_at > now() - interval '{KEPT_DAYS_OF_MONEY} days'
"""

Taken = dict[tuple[int | str, str], tuple[bytes, bytes]]  # (caller, actionId) -> (fingerprint, outcome)


class StoredRequest(NamedTuple):
    """One request key, as `request_row` has it; `outcome` is the acknowledgement's JSON as it was first sent."""

    caller: int | str  # a user's id, or a backend's subject
    action_id: str
    fingerprint: bytes
    outcome: bytes
    created_us: int  # microseconds since 1970


INSERT = f"""
INSERT INTO requests (user_id, action_id, fingerprint, outcome, created_at)
SELECT user_id, action_id, fingerprint, outcome, {moment_of("created_us")} FROM unnest($1::request_row[])
"""
INSERT_OF_MONEY = INSERT.replace("INTO requests", "INTO money_requests")
INSERT_OF_BACKENDS = f"""
INSERT INTO backend_requests (subject, action_id, fingerprint, outcome, created_at)
SELECT subject, action_id, fingerprint, outcome, {moment_of("created_us")}
FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[], $5::bigint[])
    AS new(subject, action_id, fingerprint, outcome, created_us)
"""


def insert_requests(requests: Sequence[StoredRequest], *, lasting: bool = False) -> list[Write]:
    """The writes that keep the outcomes, `lasting` ones for 30 days and backends' always; the caller holds the users'
    heads and saw no such key. Where a backend's was taken meanwhile they raise what `db.is_retryable` knows."""
    people = [request for request in requests if isinstance(request.caller, int)]
    backends = [request for request in requests if isinstance(request.caller, str)]
    writes = [Write(INSERT_OF_MONEY if lasting else INSERT, (people,))] if people else []
    return writes + ([Write(INSERT_OF_BACKENDS, columns(backends, 5))] if backends else [])


LIST_TAKEN = f"""
SELECT d.user_id, d.action_id, coalesce(r.fingerprint, m.fingerprint), coalesce(r.outcome, m.outcome)
FROM unnest($1::bigint[], $2::text[]) AS d(user_id, action_id) {JOIN_TAKEN}
WHERE r.user_id IS NOT NULL OR m.user_id IS NOT NULL
"""


async def list_taken(conn: Connection, keys: Sequence[tuple[int, str]]) -> Taken:
    """(user, actionId) -> (fingerprint, outcome) of those keys that are taken."""
    rows = await conn.fetch(LIST_TAKEN, *columns(keys, 2))
    return {(row[0], row[1]): (row[2], row[3]) for row in rows}


LIST_TAKEN_BY_BACKENDS = """
SELECT r.subject, r.action_id, r.fingerprint, r.outcome FROM unnest($1::text[], $2::text[]) AS d(subject, action_id)
JOIN backend_requests r USING (subject, action_id)
"""


async def list_taken_by_backends(conn: Connection, keys: Sequence[tuple[str, str]]) -> Taken:
    """(subject, actionId) -> (fingerprint, outcome) of those keys that are taken."""
    rows = await conn.fetch(LIST_TAKEN_BY_BACKENDS, *columns(keys, 2))
    return {(row[0], row[1]): (row[2], row[3]) for row in rows}


LIST_PARTITIONS = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = $1::regclass ORDER BY c.relname
"""

DROP_OLD_OF_BACKENDS = f"""
DELETE FROM backend_requests WHERE created_at < clock_timestamp() - interval '{KEPT_DAYS_OF_MONEY} days'
"""


async def maintain_partitions(conn: Connection) -> None:
    """Make the partitions of the last period to the one after next, drop what holds expired keys only.

    A period is as long as keys are kept. Safe to run on several nodes at once. A new partition is analysed, since a
    plan cached while a table was empty is ten times as slow.
    """
    now: datetime = await conn.fetchval("SELECT clock_timestamp()")
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock(hashtext('applause.requests'))")
        await _maintain(conn, "requests", timedelta(days=KEPT_DAYS), now)
        await _maintain(conn, "money_requests", timedelta(days=KEPT_DAYS_OF_MONEY), now)
        await conn.execute(DROP_OLD_OF_BACKENDS)


async def _maintain(conn: Connection, table: str, period: timedelta, now: datetime) -> None:
    current = _MONDAY + ((now - _MONDAY) // period) * period
    wanted = {f"{table}_{start:%Y%m%d}": start for start in (current + number * period for number in (-1, 0, 1, 2))}
    present = {row[0] for row in await conn.fetch(LIST_PARTITIONS, table)}
    for name, start in wanted.items():
        if name not in present:
            await conn.execute(
                f"CREATE TABLE {name} PARTITION OF {table} "
                f"FOR VALUES FROM ('{start.isoformat()}') TO ('{(start + period).isoformat()}')"
            )
            await conn.execute(f"ANALYZE {name}")
    for name in present - wanted.keys():
        if name < f"{table}_{current:%Y%m%d}":
            await conn.execute(f"DROP TABLE {name}")
