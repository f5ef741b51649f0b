"""The notification list: a view of the inbox without what tells of money and chats, and up to where it was seen.

One statement each, so that rows, counts and head are of one snapshot. Wallet events are ledger entries, which are not
looked at; chats are passed over in the inbox's own index, which holds no more than retention keeps of one user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from storage.broadcasts import Body
from storage.inbox import Event, SharedEvent, StoredEvent

if TYPE_CHECKING:
    from asyncpg import Connection

IS_NOTIFICATION: Final = "(i.event_type IS NULL OR NOT i.event_type ^@ 'wallet:' AND NOT i.event_type ^@ 'chat:')"
UNREAD: Final = f"""
(SELECT count(*) FROM inbox i WHERE i.user_id = me.user_id AND i.seq > me.seen AND {IS_NOTIFICATION})
"""
ME: Final = """
SELECT h.user_id, h.seq, coalesce(s.seq, 0) AS seen FROM heads h LEFT JOIN notifications_seen s USING (user_id)
WHERE h.user_id = $1
"""


class Seen(NamedTuple):
    """Where a user stands: the inbox's head, up to where notifications were seen, and how many came after that."""

    seq: int
    seen_seq: int
    unread: int


FETCH_SEEN = f"SELECT me.seq, me.seen, {UNREAD} FROM ({ME}) me"


async def fetch_seen(conn: Connection, user_id: int) -> Seen | None:
    """Where the user stands; None where there is none."""
    row = await conn.fetchrow(FETCH_SEEN, user_id)
    return Seen(*row) if row else None


LIST = f"""
WITH me AS ({ME}), counted AS (SELECT me.seq AS head, me.seen, {UNREAD} AS unread FROM me), page AS (
    SELECT i.user_id, i.seq, i.id, i.type, i.event_type, coalesce(i.data, b.data) AS data, i.created_at,
        coalesce(i.event_id, b.event_id) AS event_id, coalesce(i.sent_at, b.timestamp) AS timestamp
    FROM inbox i LEFT JOIN broadcasts b ON b.id = i.broadcast_id
    WHERE i.user_id = $1 AND i.seq < $2 AND {IS_NOTIFICATION} ORDER BY i.seq DESC LIMIT $3
)
SELECT * FROM counted LEFT JOIN page ON true ORDER BY page.seq DESC
"""


async def list_notifications(
    conn: Connection, user_id: int, before_seq: int, limit: int
) -> tuple[Seen | None, list[Event]]:
    """(where the user stands, None where there is none; their notifications below `before_seq`, newest first)."""
    rows = await conn.fetch(LIST, user_id, before_seq, limit)
    if not rows:
        return None, []
    return Seen(*rows[0][:3]), [_event(*row[3:]) for row in rows if row["seq"] is not None]


def _event(*row: object) -> Event:
    user_id, seq, _, type_, event_type, data, _, event_id, timestamp = row
    if event_id is None:
        return StoredEvent(*row[:7])  # type: ignore[arg-type]
    return SharedEvent(user_id, seq, Body(event_id, type_, event_type, data, timestamp))  # type: ignore[arg-type]


MARK_SEEN = f"""
WITH marked AS (
    INSERT INTO notifications_seen AS s (user_id, seq)
    SELECT h.user_id, least($2, h.seq) FROM heads h WHERE h.user_id = $1
    ON CONFLICT (user_id) DO UPDATE SET seq = greatest(s.seq, excluded.seq) RETURNING user_id, seq AS seen
), me AS (
    SELECT h.user_id, h.seq, marked.seen FROM marked JOIN heads h USING (user_id)
)
SELECT me.seq, me.seen, {UNREAD} FROM me
"""


async def mark_seen(conn: Connection, user_id: int, seq: int) -> Seen | None:
    """Record that notifications up to `seq` were seen, never above the head and never back; where the user stands
    now, None where there is none."""
    row = await conn.fetchrow(MARK_SEEN, user_id, seq)
    return Seen(*row) if row else None
