"""Members: which nodes live, by a lease on the database's clock. One row a node, in `nodes`.

The table is unlogged: a crash of the database empties it, and a node that froze for longer than its lease is taken out
by the others. Either way it finds at its next renewal that it isn't known any more, and joins again.
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import NamedTuple

import asyncpg

LEASE_S = 15.0
RENEW_EVERY_S = 5.0

RENEW = """
    WITH renewed AS (
        UPDATE nodes SET lease_until = clock_timestamp() + make_interval(secs => $2), in_doubt = $3
        WHERE node = $1 RETURNING node
    )
    SELECT EXISTS (SELECT FROM renewed) AS known, o.node, o.incarnation, o.partition, o.in_doubt
    FROM (VALUES (1)) AS always LEFT JOIN nodes o ON o.node <> $1 AND o.lease_until > clock_timestamp()"""
# Two that join at once may choose the same partition. It costs them work, and nothing else.
JOIN = """
    INSERT INTO nodes (node, lease_until, in_doubt, incarnation, partition)
    VALUES ($1, clock_timestamp() + make_interval(secs => $2), $3, $4, coalesce($5::integer, (
        SELECT p FROM generate_series(1, $6::integer) AS p ORDER BY (
            SELECT count(*) FROM nodes o WHERE o.partition = p AND o.lease_until > clock_timestamp()), p LIMIT 1)))
    ON CONFLICT (node) DO UPDATE SET lease_until = excluded.lease_until, in_doubt = excluded.in_doubt,
        incarnation = excluded.incarnation, partition = excluded.partition
    RETURNING partition"""
DELETE_EXPIRED_NODES = "DELETE FROM nodes WHERE lease_until < clock_timestamp() RETURNING node"
DELETE_CONNECTIONS_OF = "DELETE FROM connections WHERE node = ANY($1::text[])"
DELETE_NODE = "DELETE FROM nodes WHERE node = $1"
LIST_INCARNATIONS = "SELECT incarnation FROM nodes WHERE incarnation IS NOT NULL"

log = logging.getLogger(__name__)


class Member(NamedTuple):
    """Another node that lives. Without Kafka it has neither incarnation nor partition."""

    node: str
    incarnation: str | None
    partition: int | None
    in_doubt: bool


class Members:
    """One node's own row, and the others' as of its last renewal. All calls raise what the database raises."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        node: str,
        family: str = "",
        lease_s: float = LEASE_S,
        partitions: int | None = None,
    ) -> None:
        """`node` is unique to this run of this process; `family` is how the names of its parent's workers begin;
        `partitions` of the fan-out topic are there for single nodes, where it reads any of it (0: the one for all)."""
        self._pool = pool
        self._node = node
        self._family = family or node
        self._lease_s = lease_s
        self._partitions = partitions
        self._renewed_at = -lease_s
        self.incarnation = ""
        self.partition: int | None = 0 if partitions == 0 else None
        self.others: tuple[Member, ...] = ()

    @property
    def strangers(self) -> tuple[Member, ...]:
        """The others, apart from those of the family."""
        return tuple(member for member in self.others if not member.node.startswith(self._family))

    @property
    def is_current(self) -> bool:
        """Whether what is known of the others is younger than a lease."""
        return time.monotonic() < self._renewed_at + self._lease_s

    async def renew(self, *, in_doubt: bool = False) -> bool:
        """Renew the lease and look who else lives. False where this node was not known any more: it has joined (again),
        as another incarnation."""
        asked_at = time.monotonic()
        rows = await self._pool.fetch(RENEW, self._node, self._lease_s, in_doubt)
        known: bool = rows[0]["known"]
        if not known:
            await self._join()
        self.others = tuple(
            Member(row["node"], row["incarnation"], row["partition"], row["in_doubt"]) for row in rows if row["node"]
        )
        self._renewed_at = asked_at
        return known

    async def sweep(self) -> None:
        """Take out nodes whose lease has run out, and the connections that the database knows of them. Two statements,
        so that the second sees what they entered last."""
        async with self._pool.acquire() as connection, connection.transaction():
            dead = [row["node"] for row in await connection.fetch(DELETE_EXPIRED_NODES)]
            if dead:
                await connection.execute(DELETE_CONNECTIONS_OF, dead)
                log.warning("presence took out %d nodes whose lease had run out", len(dead))

    async def incarnations(self) -> set[str]:
        """Of all rows that are there now. One that is not among them is dead for ever."""
        return {row["incarnation"] for row in await self._pool.fetch(LIST_INCARNATIONS)}

    async def leave(self, timeout_s: float) -> None:
        """Take out the own row."""
        await self._pool.execute(DELETE_NODE, self._node, timeout=timeout_s)

    async def _join(self) -> None:
        """In doubt at first: nothing of it is known yet. It keeps the partition that it reads already."""
        incarnation = None if self._partitions is None else secrets.token_urlsafe(6)
        self.partition = await self._pool.fetchval(
            JOIN, self._node, self._lease_s, bool(incarnation), incarnation, self.partition, self._partitions
        )
        self.incarnation = incarnation or ""
