"""What waits to be told to large groups: written with each message and read pointer, taken by the settler.

Insert-only, so that the lane, which holds heads, never waits here for the settler, which wants them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from storage.heads import PREVIEWS_ARE_DUE, READS_ARE_DUE
from storage.statement import Write, columns

if TYPE_CHECKING:
    from asyncpg import Connection

INSERT = """
INSERT INTO gathered (conversation_id, reader_id) SELECT * FROM unnest($1::uuid[], $2::bigint[])
"""


def insert_gathered(places: Collection[tuple[str, int | None]]) -> list[Write]:
    """The write of (conversation, reader whose pointer has moved; None: there is a message)."""
    return [Write(INSERT, columns(list(places), 2))] if places else []


LIST_DUE = f"""
SELECT DISTINCT g.conversation_id FROM gathered g JOIN conversations c ON c.id = g.conversation_id
WHERE CASE WHEN g.reader_id IS NULL THEN {PREVIEWS_ARE_DUE} ELSE {READS_ARE_DUE} END LIMIT $1
"""


async def list_due(conn: Connection, limit: int) -> list[str]:
    """Conversations in which something waits, and nothing of its kind was told for as long as it is gathered."""
    return [str(row[0]) for row in await conn.fetch(LIST_DUE, limit)]


class Waiting(NamedTuple):
    """What waits in one conversation, as ids of rows: of messages, and of each reader's moves."""

    messages: list[int]
    readers: dict[int, list[int]]


CLAIM = """
SELECT id, conversation_id, reader_id FROM gathered WHERE conversation_id = ANY($1::uuid[]) FOR UPDATE SKIP LOCKED
"""


async def claim(conn: Connection, ids: Collection[str]) -> dict[str, Waiting]:
    """What waits in these conversations and is claimed by nobody else, until the transaction ends."""
    found: dict[str, Waiting] = {}
    for row in await conn.fetch(CLAIM, list(ids)):
        waiting = found.setdefault(str(row[1]), Waiting([], {}))
        (waiting.messages if row[2] is None else waiting.readers.setdefault(row[2], [])).append(row[0])
    return found


class Told(NamedTuple):
    """What a conversation's people have been told: previews up to a number, or none (None); and whether all reads."""

    conversation_id: str
    previewed_number: int | None
    are_reads_told: bool


DELETE = "DELETE FROM gathered WHERE id = ANY($1::bigint[])"

MARK = """
UPDATE conversations c SET
    previewed_number = greatest(new.previewed_number, c.previewed_number),
    previewed_at = CASE WHEN new.previewed_number IS NULL THEN c.previewed_at ELSE clock_timestamp() END,
    reads_told_at = CASE WHEN new.are_reads_told THEN clock_timestamp() ELSE c.reads_told_at END
FROM (SELECT id, max(number) AS previewed_number, bool_or(are_reads) AS are_reads_told
    FROM unnest($1::uuid[], $2::bigint[], $3::boolean[]) AS told(id, number, are_reads) GROUP BY id) new
WHERE c.id = new.id
"""


def mark_told(told: Sequence[Told], rows: Sequence[int]) -> list[Write]:
    """The writes that take claimed rows and say what was told; the caller holds the conversations' locks."""
    return [Write(DELETE, (list(rows),)), Write(MARK, columns(told, 3))]
