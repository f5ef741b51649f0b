"""Presence over PostgreSQL: `nodes` with a lease (see `Members`), and `connections` that belong to them.

Both tables are unlogged. A node that isn't known any more joins again, and enters all its connections again, with the
generations they have.
"""

from __future__ import annotations

import asyncio
import logging

import asyncpg

from fanout.members import DELETE_CONNECTIONS_OF, LEASE_S, RENEW_EVERY_S, Members
from fanout.postgres import AWAY, COMMAND_TIMEOUT_S
from fanout.presence import Held
from fanout.tasks import Spawn

DELETE_ORPHANS = "DELETE FROM connections c WHERE NOT EXISTS (SELECT FROM nodes n WHERE n.node = c.node)"
# The numbers are drawn in a CTE of their own: RETURNING promises no order.
ENTER = """
    WITH numbered AS MATERIALIZED (
        SELECT user_id, device_id, place, nextval('connection_generation') AS generation
        FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS given (user_id, device_id, place)
    ), entered AS (
        INSERT INTO connections (user_id, device_id, node, generation)
        SELECT user_id, device_id, $3, generation FROM numbered
    )
    SELECT generation FROM numbered ORDER BY place"""
ENTER_AGAIN = """
    INSERT INTO connections (user_id, device_id, node, generation)
    SELECT user_id, device_id, $4, generation
    FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS given (user_id, device_id, generation)
    ON CONFLICT (user_id, generation) DO NOTHING"""
LEAVE = """
    DELETE FROM connections c USING unnest($1::bigint[], $2::bigint[]) AS given (user_id, generation)
    WHERE c.user_id = given.user_id AND c.generation = given.generation AND c.node = $3"""
LIST_OWN = "SELECT user_id, generation FROM connections WHERE node = $1"
NEWER = """
    SELECT user_id, device_id, max(newest) AS generation FROM (
        SELECT given.user_id, given.device_id, c.generation AS newest
        FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS given (user_id, device_id, generation)
        JOIN connections c ON c.user_id = given.user_id AND c.generation > given.generation
                          AND c.device_id = given.device_id
        WHERE given.device_id <> ''
    ) AS found GROUP BY user_id, device_id"""
# None for who has none: a join finds those of nearly nobody.
ELSEWHERE = """
    SELECT c.user_id, given.generation, count(*) AS connections
    FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS given (user_id, device_id, generation)
    JOIN connections c ON c.user_id = given.user_id AND c.generation < given.generation
                      AND (given.device_id = '' OR c.device_id <> given.device_id)
    JOIN nodes n ON n.node = c.node
    WHERE c.node <> $4 AND n.lease_until > clock_timestamp() GROUP BY 1, 2"""
CONNECTIONS_OF = """
    SELECT c.device_id, c.node FROM connections c JOIN nodes n ON n.node = c.node
    WHERE c.user_id = $1 AND n.lease_until > clock_timestamp() ORDER BY c.generation"""

log = logging.getLogger(__name__)


class PostgresPresence:
    """See `Presence`. Keeps this node's connections in memory too, as what the tables must say of it."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        node: str,
        spawn: Spawn,
        family: str = "",
        lease_s: float = LEASE_S,
        renew_every_s: float = RENEW_EVERY_S,
    ) -> None:
        """`node` is unique to this run of this process; `family` is how the names of its parent's workers begin."""
        self._pool = pool
        self._node = node
        self._spawn = spawn
        self._lease_s = lease_s
        self._renew_every_s = renew_every_s
        self._members = Members(pool=pool, node=node, family=family, lease_s=lease_s)
        self._own: dict[int, tuple[int, str]] = {}  # generation -> (user, device)
        self._in_doubt = False  # a statement failed: the tables may say something else than `_own`
        # Held around every change of `_own` and its rows, so that `_reconcile` compares like with like.
        self._lock = asyncio.Lock()
        self._renewal: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._pool.execute(DELETE_ORPHANS)
        await self._renew()
        self._renewal = self._spawn(self._keep_renewing())

    async def look(self) -> None:
        await self._renew()

    async def stop(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])
            self._renewal = None
        async with self._lock:
            self._own.clear()
            try:
                await self._pool.execute(DELETE_CONNECTIONS_OF, [self._node], timeout=COMMAND_TIMEOUT_S)
                await self._members.leave(COMMAND_TIMEOUT_S)
            except AWAY as error:
                log.warning("presence ends by its lease: %s", type(error).__name__)

    async def enter(self, connections: list[tuple[int, str]]) -> list[int]:
        users = [user_id for user_id, _ in connections]
        devices = [device_id for _, device_id in connections]
        async with self._lock:
            try:
                rows = await self._pool.fetch(ENTER, users, devices, self._node, timeout=COMMAND_TIMEOUT_S)
            except BaseException:  # cancelled, too: perhaps it was carried out
                self._in_doubt = True
                raise
            generations = [row["generation"] for row in rows]
            self._own.update(zip(generations, connections, strict=True))
        return generations

    async def leave(self, connections: list[tuple[int, int]]) -> None:
        async with self._lock:
            for _, generation in connections:
                self._own.pop(generation, None)
            try:
                await self._delete(connections)
            except AWAY:
                self._in_doubt = True
            except asyncio.CancelledError:
                self._in_doubt = True
                raise

    def other_nodes(self) -> bool:
        return bool(self._members.others)

    def strangers(self) -> bool:
        return bool(self._members.strangers)

    async def newer(self, connections: list[tuple[int, str, int]]) -> list[tuple[int, str, int]]:
        users = [user_id for user_id, _, _ in connections]
        devices = [device_id for _, device_id, _ in connections]
        generations = [generation for _, _, generation in connections]
        rows = await self._pool.fetch(NEWER, users, devices, generations, timeout=COMMAND_TIMEOUT_S)
        return [(row["user_id"], row["device_id"], row["generation"]) for row in rows]

    async def elsewhere(self, connections: list[tuple[int, str, int]]) -> list[int]:
        users, devices, generations = zip(*connections, strict=True) if connections else ((), (), ())
        rows = await self._pool.fetch(ELSEWHERE, users, devices, generations, self._node, timeout=COMMAND_TIMEOUT_S)
        found = {row["generation"]: row["connections"] for row in rows}
        return [found.get(generation, 0) for generation in generations]

    async def connections_of(self, user_id: int) -> list[Held]:
        rows = await self._pool.fetch(CONNECTIONS_OF, user_id, timeout=COMMAND_TIMEOUT_S)
        return [Held(row["device_id"], row["node"]) for row in rows]

    # The lease

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(self._renew_every_s)
            try:
                async with asyncio.timeout(self._lease_s / 2):  # waiting for a connection of the pool included
                    await self._renew()
            except AWAY as error:
                log.warning("presence can't renew its lease: %s", type(error).__name__)

    async def _renew(self) -> None:
        if not await self._members.renew():
            self._in_doubt = True
        if self._in_doubt:
            await self._reconcile()
        await self._members.sweep()

    async def _reconcile(self) -> None:
        """Makes the rows of this node what `_own` says: after a freeze, a crash of the database, a failed call."""
        async with self._lock:
            rows = await self._pool.fetch(LIST_OWN, self._node)
            stored = {row["generation"]: row["user_id"] for row in rows}
            await self._delete(
                [(user, generation) for generation, user in stored.items() if generation not in self._own]
            )
            missing = [(*self._own[generation], generation) for generation in self._own.keys() - stored.keys()]
            if missing:
                users, devices, generations = zip(*missing, strict=True)
                await self._pool.execute(ENTER_AGAIN, users, devices, generations, self._node)
            self._in_doubt = False

    async def _delete(self, connections: list[tuple[int, int]]) -> None:
        if connections:
            users = [user_id for user_id, _ in connections]
            generations = [generation for _, generation in connections]
            await self._pool.execute(LEAVE, users, generations, self._node, timeout=COMMAND_TIMEOUT_S)
