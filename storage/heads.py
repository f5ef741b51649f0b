"""Every lock statement there is. A user's head is the mutex for their seq, wallets and keys."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

if TYPE_CHECKING:
    from asyncpg import Connection

# Sorted, or two batches deadlock; a new statement must read after it, since what was joined here
# would be as old as the start of the wait.
LOCK = """
SELECT user_id, seq FROM heads WHERE user_id = ANY($1::bigint[])
ORDER BY user_id FOR NO KEY UPDATE
"""

LOCK_FREE = LOCK.rstrip() + " SKIP LOCKED"


async def lock(conn: Connection, user_ids: Collection[int], *, skip_locked: bool = False) -> dict[int, int]:
    """Lock the heads of these users in ascending order and return each one's `seq`.

    Users who don't exist are missing from the answer, and with `skip_locked` those too whose head
    somebody else holds. Raises asyncpg.LockNotAvailableError after the session's lock_timeout.
    """
    rows = await conn.fetch(LOCK_FREE if skip_locked else LOCK, sorted(user_ids))
    return {row[0]: row[1] for row in rows}


class LockedConversation(NamedTuple):
    """A conversation as it is until the transaction ends."""

    id: str
    is_direct: bool
    creator_id: int
    title: str | None
    last_number: int
    previewed_number: int
    last_message_id: UUID | None
    last_message_text: str | None
    last_message_at: datetime | None
    previews_are_due: bool  # gathered ones
    reads_are_due: bool


# Of conversations `c`. A message is one event for each of a large group, however many there were; of reads there is one
# for each reader and everybody else, so they are gathered for longer.
PREVIEWS_ARE_DUE: Final = "coalesce(c.previewed_at < clock_timestamp() - interval '1 second', true)"
READS_ARE_DUE: Final = "coalesce(c.reads_told_at < clock_timestamp() - interval '3 seconds', true)"

# Sorted for the same reason, and always after all heads.
LOCK_CONVERSATIONS = f"""
SELECT id, is_direct, creator_id, title, last_number, previewed_number, last_message_id, last_message_text,
    last_message_at, {PREVIEWS_ARE_DUE}, {READS_ARE_DUE}
FROM conversations c WHERE id = ANY($1::uuid[]) ORDER BY id FOR NO KEY UPDATE
"""

LOCK_FREE_CONVERSATIONS = LOCK_CONVERSATIONS.rstrip() + " SKIP LOCKED"


async def lock_conversations(
    conn: Connection, ids: Collection[str], *, skip_locked: bool = False
) -> dict[str, LockedConversation]:
    """Lock conversations in ascending order; the caller holds all the heads that it will ever want.

    What does not exist is missing from the answer, and with `skip_locked` what somebody else holds too.
    """
    rows = await conn.fetch(LOCK_FREE_CONVERSATIONS if skip_locked else LOCK_CONVERSATIONS, sorted(ids))
    return {str(row[0]): LockedConversation(str(row[0]), *row[1:]) for row in rows}


HOLD_BRIEFLY = """
SELECT set_config('idle_in_transaction_session_timeout', '2s', true), set_config('lock_timeout', '2s', true)
"""


async def hold_briefly(conn: Connection) -> None:
    """For this transaction what lanes have for all of theirs: whoever freezes with heads locked must not stop the
    others, and whoever waits for a head does not wait for ever."""
    await conn.execute(HOLD_BRIEFLY)


LIST = "SELECT user_id, seq, oldest_seq FROM heads WHERE user_id = ANY($1::bigint[])"


async def list_heads(conn: Connection, user_ids: Collection[int]) -> list[tuple[int, int, int]]:
    """(user id, seq, oldest seq) of these users, unlocked."""
    return [(row[0], row[1], row[2]) for row in await conn.fetch(LIST, list(user_ids))]


LIST_AHEAD = """
SELECT h.user_id, h.seq FROM unnest($1::bigint[], $2::bigint[]) AS known(user_id, seq)
JOIN heads h ON h.user_id = known.user_id WHERE h.seq > known.seq
"""


async def list_ahead(conn: Connection, known: dict[int, int]) -> list[tuple[int, int]]:
    """(user id, seq) of those users whose head is beyond the known one: the comparison of heads."""
    rows = await conn.fetch(LIST_AHEAD, list(known), list(known.values()))
    return [(row[0], row[1]) for row in rows]
