"""Conversations, and who takes part in them.

How many messages somebody has not read follows from three numbers: last_number - read_number - own_after.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from storage.statement import Write, micros, moment_of

if TYPE_CHECKING:
    from asyncpg import Connection

UNREAD: Final = "c.last_number - p.read_number - p.own_after"

# Of each conversation at most so many: who asks wants to know whether there are more.
LIST_FEW_PARTICIPANTS = """
SELECT d.id, array_agg(p.user_id) FROM unnest($1::uuid[]) AS d(id)
CROSS JOIN LATERAL (SELECT user_id FROM participants WHERE conversation_id = d.id LIMIT $2) p GROUP BY d.id
"""


async def list_few_participants(conn: Connection, ids: Collection[str], most: int) -> dict[str, list[int]]:
    """Those who take part in each conversation, unlocked; of those with more than `most` no more than that. What does
    not exist, or has nobody, is missing."""
    return {str(row[0]): row[1] for row in await conn.fetch(LIST_FEW_PARTICIPANTS, list(ids), most)}


LIST_PARTICIPANTS = """
SELECT conversation_id, array_agg(user_id ORDER BY user_id), array_agg(read_number ORDER BY user_id),
    array_agg(own_after ORDER BY user_id)
FROM participants WHERE conversation_id = ANY($1::uuid[]) GROUP BY conversation_id
"""


async def list_participants(conn: Connection, ids: Collection[str]) -> dict[str, list[tuple[int, int, int]]]:
    """(user, read_number, own_after) of all who take part in each conversation, users ascending."""
    rows = await conn.fetch(LIST_PARTICIPANTS, list(ids))
    return {str(row[0]): list(zip(row[1], row[2], row[3], strict=True)) for row in rows}


LIST_PEOPLE = """
SELECT clock_timestamp(), coalesce(array_agg(user_id ORDER BY user_id), '{}') FROM participants
WHERE conversation_id = $1
"""


async def list_people(conn: Connection, conversation_id: str) -> tuple[datetime, list[int]]:
    """(now, those who take part in one conversation, ascending)."""
    row = await conn.fetchrow(LIST_PEOPLE, conversation_id)
    assert row is not None
    return row[0], row[1]


LIST_EXISTING = "SELECT id FROM conversations WHERE id = ANY($1::uuid[])"


async def list_existing(conn: Connection, ids: Collection[str]) -> set[str]:
    """Those of the conversations that exist."""
    return {str(row[0]) for row in await conn.fetch(LIST_EXISTING, list(ids))}


INSERT = """
INSERT INTO conversations (id, is_direct, creator_id, title, created_at) VALUES ($1, $2, $3, $4, clock_timestamp())
ON CONFLICT (id) DO NOTHING RETURNING created_at
"""


async def insert_conversation(
    conn: Connection, conversation_id: str, creator_id: int, title: str | None, *, is_direct: bool
) -> datetime | None:
    """Create a conversation without anybody in it; when, or None where it is there already."""
    row = await conn.fetchrow(INSERT, conversation_id, is_direct, creator_id, title)
    return row[0] if row else None


INSERT_PARTICIPANTS = f"""
INSERT INTO participants (conversation_id, user_id, read_number, joined_at)
SELECT $1, user_id, $3, {moment_of("$4::bigint")} FROM unnest($2::bigint[]) AS new(user_id)
"""


def insert_participants(conversation_id: str, user_ids: Sequence[int], read_number: int, now: datetime) -> Write:
    """The write by which these take part; the caller holds the conversation's lock, or has created it."""
    return Write(INSERT_PARTICIPANTS, (conversation_id, list(user_ids), read_number, micros(now)))


DELETE_PARTICIPANT = "DELETE FROM participants WHERE conversation_id = $1 AND user_id = $2"


def delete_participant(conversation_id: str, user_id: int) -> Write:
    """The write by which somebody takes part no more; the caller holds the conversation's lock."""
    return Write(DELETE_PARTICIPANT, (conversation_id, user_id))


class Advance(NamedTuple):
    """A conversation after a batch, as `conversation_row` has it: its last message."""

    id: str
    last_number: int
    previewed_number: int
    last_message_id: UUID
    last_message_text: str
    created_us: int


ADVANCE = f"""
UPDATE conversations c SET last_number = new.last_number, previewed_number = new.previewed_number,
    last_message_id = new.last_message_id, last_message_text = new.last_message_text,
    last_message_at = {moment_of("new.created_us")}
FROM unnest($1::conversation_row[]) AS new WHERE c.id = new.id
"""


def advance(rows: Sequence[Advance]) -> list[Write]:
    """The write of conversations' last messages; the caller holds their locks."""
    return [Write(ADVANCE, (rows,))] if rows else []


class Pointer(NamedTuple):
    """How far somebody has read, as `participant_row` has it."""

    conversation_id: str
    user_id: int
    read_number: int
    own_after: int


MOVE = """
UPDATE participants p SET read_number = new.read_number, own_after = new.own_after
FROM unnest($1::participant_row[]) AS new
WHERE p.conversation_id = new.conversation_id AND p.user_id = new.user_id
"""


def move(rows: Sequence[Pointer]) -> list[Write]:
    """The write of read pointers, and of own messages behind them; the caller holds the conversations' locks."""
    return [Write(MOVE, (rows,))] if rows else []


class ListedConversation(NamedTuple):
    """One row of a user's list."""

    id: UUID
    participant_ids: list[int]
    title: str | None
    last_message: str | None
    last_message_id: UUID | None
    last_message_at: datetime | None
    last_number: int
    unread: int
    active_at: datetime  # when it last had a message, or came about: the list's order


_ROW: Final = f"""
SELECT c.id, (SELECT array_agg(o.user_id ORDER BY o.user_id) FROM participants o WHERE o.conversation_id = c.id),
    c.title, c.last_message_text, c.last_message_id, c.last_message_at, c.last_number, {UNREAD},
    coalesce(c.last_message_at, c.created_at) AS active_at
FROM participants p JOIN conversations c ON c.id = p.conversation_id
WHERE p.user_id = h.user_id"""

# What a user takes part in is sorted anew for each page: nobody talks in many thousands of conversations. Who takes
# part is looked up for those of the page alone.
LIST = f"""
SELECT h.seq, page.* FROM heads h LEFT JOIN LATERAL (
    {_ROW} AND ($2::bigint IS NULL OR (coalesce(c.last_message_at, c.created_at), c.id) < ({moment_of("$2")}, $3::uuid))
    ORDER BY active_at DESC, c.id DESC LIMIT $4) page ON true
WHERE h.user_id = $1 ORDER BY page.active_at DESC, page.id DESC
"""

FETCH = f"""
SELECT h.seq, page.* FROM heads h LEFT JOIN LATERAL ({_ROW} AND p.conversation_id = $2) page ON true
WHERE h.user_id = $1
"""


async def list_conversations(
    conn: Connection, user_id: int, before: tuple[int, str] | None, limit: int
) -> tuple[int | None, list[ListedConversation]]:
    """(the inbox's head, None where there is no such user; what they take part in, newest first), in one snapshot.
    `before`: the moment, in microseconds, and the id of the last one that is known already."""
    rows = await conn.fetch(LIST, user_id, *(before or (None, None)), limit)
    return (rows[0][0] if rows else None), [ListedConversation(*row[1:]) for row in rows if row[1] is not None]


async def fetch_conversation(
    conn: Connection, user_id: int, conversation_id: str
) -> tuple[int, ListedConversation] | None:
    """(the inbox's head, the row of this conversation), in one snapshot; None to who does not take part."""
    row = await conn.fetchrow(FETCH, user_id, conversation_id)
    return (row[0], ListedConversation(*row[1:])) if row and row[1] is not None else None


FETCH_STANDING = f"""
SELECT c.last_number, {UNREAD} FROM participants p JOIN conversations c ON c.id = p.conversation_id
WHERE p.conversation_id = $1 AND p.user_id = $2
"""


async def fetch_standing(conn: Connection, conversation_id: str, user_id: int) -> tuple[int, int] | None:
    """(last number, unread by this user), in one snapshot; None to who does not take part."""
    row = await conn.fetchrow(FETCH_STANDING, conversation_id, user_id)
    return (row[0], row[1]) if row else None
