"""Whose inbox is to be looked at for something to push: entered with the events, in their transaction.

Every row is written and taken away under its user's head. So nobody waits here for anybody, and what is entered while
somebody looks is never taken for what they have seen.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from storage.statement import Write, columns

if TYPE_CHECKING:
    from asyncpg import Connection

MESSAGE: Final = "chat:message:sent"
_SILENT: Final = ("wallet:", "chat:")


def is_pushable(event_type: str | None) -> bool:
    """Whether an event may be pushed at all: a message's preview and notifications, but nothing that moves balances or
    tells of chats otherwise. Who gets nothing else costs no row here."""
    return event_type is None or event_type == MESSAGE or not event_type.startswith(_SILENT)


# Nobody's own device is looked up but in the index: who has none costs a descent of it, and who is due already no more.
ENTER = """
INSERT INTO push_due (user_id) SELECT u.user_id FROM unnest($1::bigint[]) AS u(user_id)
WHERE EXISTS (SELECT FROM push_devices d WHERE d.user_id = u.user_id) ON CONFLICT DO NOTHING
"""


def enter(user_ids: Collection[int]) -> list[Write]:
    """The write that has these looked at who have a device; their heads are locked. It may stand twice in a
    statement."""
    return [Write(ENTER, (sorted(user_ids),))] if user_ids else []


LIST = """
SELECT user_id FROM push_due WHERE since <= clock_timestamp() - $1 * interval '1 second' ORDER BY since LIMIT $2
"""


async def list_due(conn: Connection, after_s: float, limit: int) -> list[int]:
    """Who has been waiting for so long, the longest first, unlocked."""
    return [row[0] for row in await conn.fetch(LIST, after_s, limit)]


LIST_STILL = """
SELECT user_id, tries FROM push_due
WHERE user_id = ANY($1::bigint[]) AND since <= clock_timestamp() - $2 * interval '1 second'
"""


async def list_still_due(conn: Connection, user_ids: Collection[int], after_s: float) -> dict[int, int]:
    """user -> tries in vain, of those whom nobody else has taken meanwhile; their heads are locked."""
    return {row[0]: row[1] for row in await conn.fetch(LIST_STILL, list(user_ids), after_s)}


class Postponed(NamedTuple):
    """Who is looked at again in so many seconds."""

    user_id: int
    in_s: float
    tries: int


# Somebody else may have taken the row away, who found nothing new.
POSTPONE = """
INSERT INTO push_due (user_id, since, tries)
SELECT user_id, clock_timestamp() + in_s * interval '1 second', tries
FROM unnest($1::bigint[], $2::float8[], $3::integer[]) AS new(user_id, in_s, tries)
ON CONFLICT (user_id) DO UPDATE SET since = excluded.since, tries = excluded.tries
"""


def postpone(rows: Sequence[Postponed]) -> list[Write]:
    """The write that has them looked at later; their heads are locked."""
    return [Write(POSTPONE, columns(rows, 3))] if rows else []


DELETE = "DELETE FROM push_due WHERE user_id = ANY($1::bigint[])"


def delete(user_ids: Collection[int]) -> list[Write]:
    """The write by which nobody looks at them any more, until there is something new; their heads are locked."""
    return [Write(DELETE, (sorted(user_ids),))] if user_ids else []
