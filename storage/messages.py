"""Messages: their rows, their pages, and what sending and reading one needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from storage.requests import JOIN_TAKEN
from storage.statement import Write, columns, moment_of

if TYPE_CHECKING:
    from asyncpg import Connection


class Asked(NamedTuple):
    """What a message is read by, as `send_row` has it; `other_id`: who else takes part in a direct conversation."""

    user_id: int
    action_id: str
    other_id: int | None


class Reading(NamedTuple):
    """What one message reads after its locks, in one row."""

    now: datetime
    fingerprint: bytes | None  # of its key, where that is taken
    outcome: bytes | None
    username: str
    picture_url: str | None
    is_blocked: bool  # by the other


READ = f"""
SELECT clock_timestamp(), coalesce(r.fingerprint, m.fingerprint), coalesce(r.outcome, m.outcome),
    u.username, u.picture_url, b.blocker_id IS NOT NULL
FROM unnest($1::send_row[]) WITH ORDINALITY AS d(user_id, action_id, other_id, place)
JOIN users u ON u.id = d.user_id
LEFT JOIN blocks b ON b.blocker_id = d.other_id AND b.blocked_id = d.user_id
{JOIN_TAKEN}ORDER BY d.place
"""


async def list_readings(conn: Connection, asked: Sequence[Asked]) -> list[Reading]:
    """One Reading each, in their order; the senders exist."""
    return [Reading(*row) for row in await conn.fetch(READ, asked)]


class AskedPointer(NamedTuple):
    """What a read pointer is moved by, as `read_row` has it: the message that it goes to, and between which numbers
    the reader's own messages are to be counted."""

    conversation_id: str
    number: int
    message_id: str
    user_id: int
    after: int
    upto: int


READ_POINTERS = """
SELECT clock_timestamp(), m.number IS NOT NULL, (SELECT count(*) FROM messages o
    WHERE o.conversation_id = d.conversation_id AND o.number > d.after AND o.number <= d.upto
        AND o.sender_id = d.user_id)
FROM unnest($1::read_row[])
    WITH ORDINALITY AS d(conversation_id, number, message_id, user_id, after, upto, place)
LEFT JOIN messages m ON m.conversation_id = d.conversation_id AND m.number = d.number AND m.id = d.message_id
ORDER BY d.place
"""


async def list_pointers(conn: Connection, asked: Sequence[AskedPointer]) -> list[tuple[datetime, bool, int]]:
    """(now, whether there is such a message, own messages in between) of each, in their order."""
    return [(row[0], row[1], row[2]) for row in await conn.fetch(READ_POINTERS, asked)]


class StoredMessage(NamedTuple):
    """One message, as `message_row` has it."""

    conversation_id: str
    number: int
    id: UUID
    sender_id: int
    message_type: int
    content: str | None
    media_url: str | None
    created_us: int


INSERT = f"""
INSERT INTO messages (conversation_id, number, id, sender_id, message_type, content, media_url, created_at)
SELECT conversation_id, number, id, sender_id, message_type, content, media_url, {moment_of("created_us")}
FROM unnest($1::message_row[])
"""


def insert_messages(messages: Sequence[StoredMessage]) -> list[Write]:
    """The write that adds messages; the caller holds their conversations' locks."""
    return [Write(INSERT, (messages,))] if messages else []


class ListedMessage(NamedTuple):
    """One message as its readers get it; the sender's name and picture are those of now."""

    id: UUID
    number: int
    sender_id: int
    username: str
    picture_url: str | None
    message_type: int
    content: str | None
    media_url: str | None
    created_at: datetime


_COLUMNS = (
    "m.id, m.number, m.sender_id, u.username, u.picture_url, m.message_type, m.content, m.media_url, m.created_at"
)

LIST = f"""
SELECT h.seq, page.* FROM participants p JOIN heads h USING (user_id) LEFT JOIN LATERAL (
    SELECT {_COLUMNS} FROM messages m JOIN users u ON u.id = m.sender_id
    WHERE m.conversation_id = p.conversation_id AND m.number < $3 ORDER BY m.number DESC LIMIT $4) page ON true
WHERE p.conversation_id = $1 AND p.user_id = $2 ORDER BY page.number DESC
"""


async def list_newest(
    conn: Connection, conversation_id: str, user_id: int, before: int, limit: int
) -> tuple[int, list[ListedMessage]] | None:
    """(the reader's inbox head, messages with a lower number, newest first), in one snapshot; None to who does not take
    part."""
    rows = await conn.fetch(LIST, conversation_id, user_id, before, limit)
    if not rows:
        return None
    return rows[0][0], [ListedMessage(*row[1:]) for row in rows if row[1] is not None]


# The newest, and the newest of others than its sender: who is told of the one did not write it.
LIST_LATEST = f"""
SELECT clock_timestamp(), d.conversation_id, {_COLUMNS}
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS d(conversation_id, previewed, last)
JOIN messages n ON n.conversation_id = d.conversation_id AND n.number = d.last
CROSS JOIN LATERAL (SELECT n.* UNION ALL (
    SELECT o.* FROM messages o WHERE o.conversation_id = d.conversation_id AND o.number > d.previewed
        AND o.number < d.last AND o.sender_id <> n.sender_id ORDER BY o.number DESC LIMIT 1)) m
JOIN users u ON u.id = m.sender_id ORDER BY m.number DESC
"""


async def list_latest(
    conn: Connection, asked: Sequence[tuple[str, int, int]]
) -> tuple[datetime | None, dict[str, list[ListedMessage]]]:
    """Of each (conversation, previewed number, last number): the last message, and behind it the newest one after the
    previewed that somebody else wrote, where there is one. With the time, where there is anything."""
    rows = await conn.fetch(LIST_LATEST, *columns(asked, 3)) if asked else []
    latest: dict[str, list[ListedMessage]] = {}
    for row in rows:
        latest.setdefault(str(row[1]), []).append(ListedMessage(*row[2:]))
    return (rows[0][0] if rows else None), latest


LIST_IDS = """
SELECT clock_timestamp(), m.conversation_id, m.number, m.id
FROM unnest($1::uuid[], $2::bigint[]) AS d(conversation_id, number) JOIN messages m USING (conversation_id, number)
"""


async def list_ids(
    conn: Connection, places: Sequence[tuple[str, int]]
) -> tuple[datetime | None, dict[tuple[str, int], UUID]]:
    """(now, the id of each (conversation, number)); no time where there is none."""
    rows = await conn.fetch(LIST_IDS, *columns(places, 2)) if places else []
    return (rows[0][0] if rows else None), {(str(row[1]), row[2]): row[3] for row in rows}
