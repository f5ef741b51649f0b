"""Messages: their rows, their pages, and what sending and reading one needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from storage.requests import JOIN_TAKEN
from storage.statement import Write, moment_of

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
