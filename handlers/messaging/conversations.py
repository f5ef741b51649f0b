"""Conversations outside the lane: making them, who takes part, lists and pages, and whom somebody has blocked.

What changes a conversation locks the heads of all concerned, then the conversation, as the lane does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from handlers.deed import Delivered, delivered, fresh_id
from handlers.errors import Refusal
from handlers.messaging import ids, rules
from handlers.messaging.rows import CHANGED, changed_of, conversation_of, row_of
from handlers.messaging.told import tell_all
from handlers.messaging.wire import (
    Conversation,
    ConversationAck,
    Conversations,
    CreateConversationRequest,
    Messages,
    OpenAck,
)
from handlers.wire import encode
from storage import blocks, conversations, heads, inbox, messages
from storage.broadcasts import Body
from storage.db import is_lock_timeout
from storage.heads import LockedConversation
from storage.inbox import Event
from storage.pool import session, transaction
from storage.statement import Write, micros, write_together

if TYPE_CHECKING:
    from asyncpg import Connection

    from storage.pool import Pool

MOST_PARTICIPANTS: Final = 256
MESSAGES_CURSOR: Final = r"[0-9]{1,16}"  # the last message's number
LIST_CURSOR: Final = rf"[0-9]{{1,16}}\.{ids.PATTERN}"  # when the last one was active, in microseconds, and its id
_FROM_THE_NEWEST: Final = 2**53
_MOST_TRIES: Final = 5  # somebody who joined between two looks makes it one more

_NO_CONVERSATION: Final = "There is no such conversation."


class ConversationsHandler:
    """`/v1/conversations`, `/v1/blocks`, and what `chat:open` asks. `deliver` gets each committed event."""

    def __init__(
        self,
        *,
        pool: Pool,
        deliver: Callable[[Sequence[Delivered]], None],
        most_participants: int = MOST_PARTICIPANTS,
    ) -> None:
        self._pool = pool
        self._deliver = deliver
        self._most_participants = most_participants

    # -- making them, and who takes part ---------------------------------------------------------

    async def create(self, user_id: int, request: CreateConversationRequest) -> ConversationAck:
        """A new group; of two without a title their one direct conversation, new or not.

        Refuses `invalid_payload` (too few or too many), `not_found` (somebody who does not exist; a new direct one
        where one has blocked the other).
        """
        people = sorted({user_id, *request.participant_ids})
        if not 2 <= len(people) <= self._most_participants:
            message = f"A conversation has 2 to {self._most_participants} participants."
            raise Refusal("invalid_payload", message, field="participantIds")
        is_direct = rules.is_direct(len(people), request.title)
        conversation_id = ids.direct_id(people[0], people[-1]) if is_direct else ids.group_id()
        async with self._change() as (conn, told):
            seqs = await heads.lock(conn, people)
            if len(seqs) < len(people):
                raise Refusal("not_found", "There is no such user.", field="participantIds")
            is_refused = is_direct and await blocks.is_between(conn, people[0], people[-1])
            if is_refused and not await conversations.list_existing(conn, [conversation_id]):
                raise Refusal("not_found", "There is no such user.", field="participantIds")
            now = await conversations.insert_conversation(
                conn, conversation_id, user_id, request.title, is_direct=is_direct
            )
            if now is not None:
                join = conversations.insert_participants(conversation_id, people, 0, now)
                new = _new(conversation_id, user_id, request.title, is_direct)
                told.extend(await _store(conn, join, _Change(new, people, people, user_id, now), seqs))
        return ConversationAck(conversation_id)

    async def add(self, user_id: int, conversation_id: str, other_id: int) -> None:
        """Who takes part in a group adds somebody; nothing happens where they take part already.

        Refuses `not_found` (no such user; to who does not take part), `conflict` (a direct conversation; too many).
        """
        async with self._change() as (conn, told):
            found = await _lock_all(conn, user_id, conversation_id, other_id)
            if other_id not in found.seqs:
                raise Refusal("not_found", "There is no such user.", field="userId")
            if other_id in found.people:
                return
            if len(found.people) >= self._most_participants:
                raise Refusal("conflict", f"It has {len(found.people)} participants already.", field="userId")
            last_number = found.conversation.last_number
            join = conversations.insert_participants(conversation_id, [other_id], last_number, found.now)
            everybody = [*found.people, other_id]
            change = _Change(found.conversation, everybody, everybody, user_id, found.now)
            told.extend(await _store(conn, join, change, found.seqs))

    async def remove(self, user_id: int, conversation_id: str, other_id: int) -> None:
        """Who takes part in a group leaves, or its creator removes somebody; nothing happens where they are not in it.

        Refuses `not_found` (to who does not take part), `conflict` (a direct conversation), `forbidden` (others).
        """
        async with self._change() as (conn, told):
            found = await _lock_all(conn, user_id, conversation_id, other_id)
            if user_id not in (other_id, found.conversation.creator_id):
                raise Refusal("forbidden", "Only who made a group removes others.", field="userId")
            if other_id not in found.people:
                return
            leave = conversations.delete_participant(conversation_id, other_id)
            others = [each for each in found.people if each != other_id]
            change = _Change(found.conversation, others, found.people, user_id, found.now)
            told.extend(await _store(conn, leave, change, found.seqs))

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[tuple[Connection, list[Event]]]:
        """One transaction, and the list of what it tells once it is committed."""
        told: list[Event] = []
        try:
            async with transaction(self._pool) as conn:
                await heads.hold_briefly(conn)
                yield conn, told
        except Exception as error:
            if not is_lock_timeout(error):
                raise
            raise Refusal("unavailable", "Somebody concerned is too busy.", retry_after_ms=1000) from None
        self._deliver(delivered(told))

    # -- reading ---------------------------------------------------------------------------------

    async def list(self, user_id: int, cursor: str | None, limit: int) -> tuple[Conversations, int]:
        """A page of what the user takes part in, newest first, and their inbox's `seq`."""
        async with session(self._pool) as conn:
            seq, rows = await conversations.list_conversations(conn, user_id, _place_of(cursor), limit + 1)
        if seq is None:
            raise Refusal("not_found", "This token is no user's.")
        page = rows[:limit]
        next_cursor = None
        if len(rows) > limit:
            last = page[-1]
            next_cursor = f"{micros(last.active_at)}.{last.id}"
        return Conversations([conversation_of(row) for row in page], next_cursor), seq

    async def fetch(self, user_id: int, conversation_id: str) -> tuple[Conversation, int]:
        """One row of that list; Refusal `not_found`."""
        async with session(self._pool) as conn:
            found = await conversations.fetch_conversation(conn, user_id, _known_form(conversation_id))
        if found is None:
            raise Refusal("not_found", _NO_CONVERSATION, field="id")
        return conversation_of(found[1]), found[0]

    async def list_messages(
        self, user_id: int, conversation_id: str, cursor: str | None, limit: int
    ) -> tuple[Messages, int]:
        """A page of messages, newest first, and the reader's inbox `seq`; Refusal `not_found`."""
        before = int(cursor) if cursor is not None else _FROM_THE_NEWEST
        async with session(self._pool) as conn:
            found = await messages.list_newest(conn, _known_form(conversation_id), user_id, before, limit + 1)
        if found is None:
            raise Refusal("not_found", _NO_CONVERSATION, field="id")
        seq, rows = found
        page = [row_of(conversation_id, row) for row in rows[:limit]]
        return Messages(page, str(page[-1].number) if len(rows) > limit else None), seq

    async def fetch_standing(self, user_id: int, conversation_id: str) -> OpenAck:
        """How far the conversation is, and what the user has not read of it; Refusal `not_found`."""
        standing = None
        if ids.is_id(conversation_id):
            async with session(self._pool) as conn:
                standing = await conversations.fetch_standing(conn, conversation_id, user_id)
        if standing is None:
            raise Refusal("not_found", _NO_CONVERSATION, field="conversationId")
        return OpenAck(*standing)

    # -- blocking --------------------------------------------------------------------------------

    async def block(self, user_id: int, other_id: int) -> None:
        """No message of the other's reaches the user in a direct conversation from now on; Refusal `not_found`,
        `forbidden` (oneself)."""
        if user_id == other_id:
            raise Refusal("forbidden", "Nobody blocks themselves.", field="userId")
        async with self._change() as (conn, _):
            # Under the head that each message of a direct conversation holds: none is on its way when this returns.
            seqs = await heads.lock(conn, [user_id, other_id])
            if other_id not in seqs:
                raise Refusal("not_found", "There is no such user.", field="userId")
            await blocks.insert_block(conn, user_id, other_id)

    async def unblock(self, user_id: int, other_id: int) -> None:
        """The other's messages come again; nothing happens where they were not blocked."""
        async with self._change() as (conn, _):
            await heads.lock(conn, [user_id])
            await blocks.delete_block(conn, user_id, other_id)


class _Found(NamedTuple):
    """A group under its lock, with all who take part, whose heads are locked."""

    now: datetime
    conversation: LockedConversation
    people: list[int]
    seqs: dict[int, int]


async def _lock_all(conn: Connection, user_id: int, conversation_id: str, other_id: int) -> _Found:
    """Lock the heads of all who take part in a group and of the other, then the group.

    Somebody may join between two looks: then the locks are let go of, and it begins anew. Refuses `not_found` to who
    does not take part, `conflict` where it is no group.
    """
    known = _known_form(conversation_id)
    for _ in range(_MOST_TRIES):
        await conn.execute("SAVEPOINT before_locks")
        before = (await conversations.list_participants(conn, [known])).get(known, [])
        if user_id not in (row[0] for row in before):
            break
        seqs = await heads.lock(conn, {other_id, *(row[0] for row in before)})
        conversation = (await heads.lock_conversations(conn, [known]))[known]
        now, people = await conversations.list_people(conn, known)
        if user_id not in people:
            break
        if conversation.is_direct:
            raise Refusal("conflict", "A direct conversation keeps its participants.", field="id")
        if seqs.keys() >= set(people):
            return _Found(now, conversation, people, seqs)
        await conn.execute("ROLLBACK TO before_locks")
    else:
        raise Refusal("unavailable", "Too many are joining just now.", retry_after_ms=1000)
    raise Refusal("not_found", _NO_CONVERSATION, field="id")


class _Change(NamedTuple):
    """Who takes part in a conversation from now on, and who is told of it: they, and who did before."""

    conversation: LockedConversation
    people: list[int]
    concerned: list[int]
    changed_by: int
    now: datetime


async def _store(conn: Connection, write: Write, change: _Change, seqs: dict[int, int]) -> list[Event]:
    """Store a change together with the events of all concerned, which are returned."""
    data = encode(changed_of(change.conversation, change.people, change.changed_by, change.now)).decode()
    body = Body(str(fresh_id()), *CHANGED, data, change.now)
    moved = {user_id: seqs[user_id] for user_id in sorted(change.concerned)}
    events, writes = await tell_all(conn, [(body, list(moved))], moved)
    await write_together(conn, [write, *writes, *inbox.append([], moved)])
    return events


def _new(conversation_id: str, creator_id: int, title: str | None, is_direct: bool) -> LockedConversation:
    return LockedConversation(conversation_id, is_direct, creator_id, title, 0, 0, None, None, None, True, True)


def _known_form(conversation_id: str) -> str:
    if not ids.is_id(conversation_id):
        raise Refusal("not_found", _NO_CONVERSATION, field="id")
    return conversation_id


def _place_of(cursor: str | None) -> tuple[int, str] | None:
    """Where a page of the list begins."""
    if cursor is None:
        return None
    moment_us, _, conversation_id = cursor.partition(".")
    return int(moment_us), conversation_id
