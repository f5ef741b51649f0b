"""Who has blocked whom. Written under the blocker's head, so that whoever holds it sees what stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncpg import Connection

INSERT = "INSERT INTO blocks (blocker_id, blocked_id) VALUES ($1, $2) ON CONFLICT DO NOTHING"


async def insert_block(conn: Connection, blocker_id: int, blocked_id: int) -> None:
    """The one has blocked the other from now on; the caller holds the blocker's head."""
    await conn.execute(INSERT, blocker_id, blocked_id)


DELETE = "DELETE FROM blocks WHERE blocker_id = $1 AND blocked_id = $2"


async def delete_block(conn: Connection, blocker_id: int, blocked_id: int) -> None:
    """The one has not blocked the other any more; the caller holds the blocker's head."""
    await conn.execute(DELETE, blocker_id, blocked_id)


FETCH_ANY = """
SELECT EXISTS (SELECT FROM blocks WHERE (blocker_id, blocked_id) IN (($1::bigint, $2::bigint), ($2, $1)))
"""


async def is_between(conn: Connection, one: int, other: int) -> bool:
    """Whether one of the two has blocked the other."""
    return bool(await conn.fetchval(FETCH_ANY, one, other))
