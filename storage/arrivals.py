"""What a connecting user is told first: who they are, and where their inbox stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from asyncpg import Connection


class Arrival(NamedTuple):
    """A known user's status and inbox, and which of their tokens were revoked."""

    user_id: int
    status: str
    seq: int
    oldest_seq: int
    revoked_up_to: int | None  # Unix second: tokens issued in it or before are refused


LIST = """
SELECT u.id, u.status, h.seq, h.oldest_seq, r.up_to FROM users u JOIN heads h ON h.user_id = u.id
LEFT JOIN user_revocations r ON r.user_id = u.id
WHERE u.id = ANY($1::bigint[])
"""


async def list_arrivals(conn: Connection, user_ids: Sequence[int]) -> dict[int, Arrival]:
    """Those of the users who are known."""
    return {row[0]: Arrival(*row) for row in await conn.fetch(LIST, list(user_ids))}
