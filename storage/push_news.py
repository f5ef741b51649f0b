"""What is new to somebody who is not there: the events that may be pushed to them, and what of it they have read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from storage.statement import columns

if TYPE_CHECKING:
    from asyncpg import Connection

LOOK_BACK: Final = 500  # of an inbox's last events: nobody is told of what is further back
MOST_BYTES: Final = 16_384  # of an event whose data is looked at: a push takes 4 KiB, and backends' may be large


class News(NamedTuple):
    """One event; `data` is its JSON, None where that is large."""

    user_id: int
    seq: int
    id: str
    type: str
    event_type: str | None
    data: str | None


LIST = f"""
SELECT asked.user_id, e.* FROM unnest($1::bigint[], $2::bigint[]) AS asked(user_id, after)
CROSS JOIN LATERAL (
    SELECT i.seq, coalesce(i.event_id, b.event_id, i.id::text), i.type, i.event_type,
        CASE WHEN octet_length(coalesce(i.data, b.data)::text) <= {MOST_BYTES} THEN coalesce(i.data, b.data) END
    FROM inbox i LEFT JOIN broadcasts b ON b.id = i.broadcast_id
    WHERE i.user_id = asked.user_id AND i.seq > asked.after AND i.type = ANY($3::text[])
        AND i.created_at > clock_timestamp() - $4 * interval '1 second'
    ORDER BY i.seq DESC LIMIT $5) e
ORDER BY asked.user_id, e.seq
"""


async def list_news(
    conn: Connection, after: Sequence[tuple[int, int]], types: Collection[str], max_age_s: float, most: int
) -> list[News]:
    """Of each (user, after): events of these types with a higher `seq`, the newest `most` of them, ascending."""
    rows = await conn.fetch(LIST, *columns(after, 2), list(types), max_age_s, most)
    return [News(*row) for row in rows]


class Standing(NamedTuple):
    """Where somebody stands in a conversation now."""

    read_number: int
    unread: int
    title: str | None


LIST_STANDINGS = """
SELECT p.user_id, p.conversation_id, p.read_number, c.last_number - p.read_number - p.own_after, c.title
FROM unnest($1::bigint[], $2::uuid[]) AS asked(user_id, conversation_id)
JOIN participants p ON p.conversation_id = asked.conversation_id AND p.user_id = asked.user_id
JOIN conversations c ON c.id = p.conversation_id
"""


async def list_standings(conn: Connection, places: Collection[tuple[int, str]]) -> dict[tuple[int, str], Standing]:
    """(user, conversation) -> how far they have read; who takes part no more is missing."""
    rows = await conn.fetch(LIST_STANDINGS, *columns(list(places), 2))
    return {(row[0], str(row[1])): Standing(*row[2:]) for row in rows}
