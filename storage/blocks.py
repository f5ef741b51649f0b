"""Who has blocked whom. Written under the blocker's head, so that whoever holds it sees what stands."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from storage.statement import columns

if TYPE_CHECKING:
    from asyncpg import Connection

INSERT = """
WITH new AS (INSERT INTO blocks (blocker_id, blocked_id) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING blocker_id)
UPDATE users u SET has_blocked = true FROM new WHERE u.id = new.blocker_id AND NOT u.has_blocked
"""


async def insert_block(conn: Connection, blocker_id: int, blocked_id: int) -> None:
    """The one has blocked the other from now on; the caller holds the blocker's head."""
    await conn.execute(INSERT, blocker_id, blocked_id)


DELETE = """
WITH gone AS (DELETE FROM blocks WHERE blocker_id = $1 AND blocked_id = $2 RETURNING blocker_id)
UPDATE users u SET has_blocked = false FROM gone
WHERE u.id = gone.blocker_id AND NOT EXISTS (SELECT FROM blocks b WHERE b.blocker_id = $1 AND b.blocked_id <> $2)
"""


async def delete_block(conn: Connection, blocker_id: int, blocked_id: int) -> None:
    """The one has not blocked the other any more; the caller holds the blocker's head."""
    await conn.execute(DELETE, blocker_id, blocked_id)


LIST = """
SELECT b.blocker_id, b.blocked_id FROM unnest($1::bigint[], $2::bigint[]) AS asked(blocker_id, blocked_id)
JOIN blocks b USING (blocker_id, blocked_id)
"""


async def list_blocks(conn: Connection, pairs: Collection[tuple[int, int]]) -> set[tuple[int, int]]:
    """Those of the pairs (blocker, blocked) that stand, unlocked."""
    return {(row[0], row[1]) for row in await conn.fetch(LIST, *columns(list(pairs), 2))}


FETCH_ANY = """
SELECT EXISTS (SELECT FROM blocks WHERE (blocker_id, blocked_id) IN (($1::bigint, $2::bigint), ($2, $1)))
"""


async def is_between(conn: Connection, one: int, other: int) -> bool:
    """Whether one of the two has blocked the other."""
    return bool(await conn.fetchval(FETCH_ANY, one, other))
