"""Request keys: (user, actionId) with a fingerprint and the stored outcome, kept for 7 days (spec 2).

Unique because the user's head is held whenever they are read and written; so the table is
partitioned by week, and partitions whose last key has expired are dropped whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from storage.statement import Write, columns

if TYPE_CHECKING:
    from asyncpg import Connection

KEPT_DAYS: Final = 7
_WEEK: Final = timedelta(days=7)
_MONDAY: Final = datetime(2024, 1, 1, tzinfo=UTC)  # any Monday: partitions begin on one


class StoredRequest(NamedTuple):
    """One request key; `outcome` is the acknowledgement's JSON as it was first sent."""

    user_id: int
    action_id: str
    fingerprint: bytes
    outcome: bytes
    created_at: datetime


INSERT = """
INSERT INTO requests (user_id, action_id, fingerprint, outcome, created_at)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::bytea[], $5::timestamptz[])
"""


def insert_requests(requests: Sequence[StoredRequest]) -> list[Write]:
    """The write that keeps the outcomes; the caller holds the users' heads and saw no such key."""
    return [Write(INSERT, columns(requests, 5))] if requests else []


LIST_PARTITIONS = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'requests'::regclass ORDER BY c.relname
"""


async def maintain_partitions(conn: Connection) -> None:
    """Make the partitions of last week to the week after next, drop those whose keys have all expired.

    Safe to run on several nodes at once. A new partition is analysed, since a plan cached while a
    table was empty is ten times as slow.
    """
    now: datetime = await conn.fetchval("SELECT clock_timestamp()")
    this_week = _MONDAY + ((now - _MONDAY) // _WEEK) * _WEEK
    wanted = [this_week + number * _WEEK for number in (-1, 0, 1, 2)]
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock(hashtext('applause.requests'))")
        present = {row[0] for row in await conn.fetch(LIST_PARTITIONS)}
        for week in wanted:
            if _name(week) not in present:
                await conn.execute(
                    f"CREATE TABLE {_name(week)} PARTITION OF requests "
                    f"FOR VALUES FROM ('{week.isoformat()}') TO ('{(week + _WEEK).isoformat()}')"
                )
                await conn.execute(f"ANALYZE {_name(week)}")
        for name in present - {_name(week) for week in wanted}:
            if name < _name(this_week):
                await conn.execute(f"DROP TABLE {name}")


def _name(week: datetime) -> str:
    return f"requests_{week:%Y%m%d}"
