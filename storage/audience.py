"""To whom somebody who is typing is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from asyncpg import Connection


class Audience(NamedTuple):
    """Who types, and the others of the conversation; nobody where one of a direct one has blocked the other."""

    username: str
    user_ids: list[int]


FETCH = """
SELECT u.username, ARRAY(
    SELECT p.user_id FROM participants p WHERE p.conversation_id = me.conversation_id AND p.user_id <> me.user_id
        AND NOT (c.is_direct AND EXISTS (SELECT FROM blocks
            WHERE (blocker_id, blocked_id) IN ((p.user_id, me.user_id), (me.user_id, p.user_id))))
    ORDER BY p.user_id)
FROM participants me JOIN conversations c ON c.id = me.conversation_id JOIN users u ON u.id = me.user_id
WHERE me.conversation_id = $1 AND me.user_id = $2
"""


async def fetch_audience(conn: Connection, conversation_id: str, user_id: int) -> Audience | None:
    """None to whoever does not take part."""
    row = await conn.fetchrow(FETCH, conversation_id, user_id)
    return Audience(*row) if row else None
