"""The settler of groups: tells many what was gathered, previews at most once a second and reads once in three."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from handlers.deed import Delivered, delivered, fresh_id
from handlers.messaging import rules
from handlers.messaging.rows import PREVIEW, READ, event_of, preview_of, read_of
from handlers.messaging.told import tell_all
from handlers.wire import encode
from storage import conversations, gathered, heads, inbox, messages
from storage.broadcasts import Body
from storage.gathered import Told, Waiting
from storage.heads import LockedConversation
from storage.inbox import Event, StoredEvent
from storage.statement import Write, write_together

if TYPE_CHECKING:
    from asyncpg import Connection

MOST_HEADS: Final = 500  # held in one transaction; a group alone may have as many as it has participants
MOST_READS_TOLD: Final = 2_000  # events of one transaction: each reader's goes to all the others

People = Sequence[tuple[int, int, int]]  # (user, read_number, own_after)


class GroupSettler:
    """Tells large groups of what was said and read since the last time.

    It judges nothing: it tells of numbers and pointers as they stand under the locks. Of messages everybody is told the
    newest of others, with their own unread count (also where that is 0: their other devices have not seen it); of reads
    how far each reader is. A crash leaves what was gathered to the next settler, on whichever node.
    """

    def __init__(self) -> None:
        self.is_behind = False  # more was due than one transaction takes
        self.runs = 0  # for the metrics, as is `told`: events
        self.told = 0

    async def settle(self, conn: Connection) -> list[Delivered]:
        """Tell what is due in one transaction; the committed events, [] where nothing was due."""
        self.runs += 1
        self.is_behind = False
        due = await gathered.list_due(conn, MOST_HEADS)
        if not due:
            return []
        people = await conversations.list_participants(conn, due)
        chosen = _as_many_as_fit(due, people)
        async with conn.transaction():
            # What another node's settler has claimed is passed over here, instead of waiting for all those heads.
            waiting = await gathered.claim(conn, chosen)
            seqs = await heads.lock(conn, {user_id for name in waiting for user_id, *_ in people.get(name, ())})
            round_ = _Round(seqs)
            if waiting:
                await round_.read(conn, waiting)
                await round_.write(conn)
        self.is_behind = round_.is_behind or (bool(waiting) and len(chosen) < len(due))
        self.told += len(round_.events)
        return delivered(round_.events)


def _as_many_as_fit(due: Sequence[str], people: Mapping[str, People]) -> list[str]:
    """As many conversations as may be held in one transaction, and at least one."""
    chosen: list[str] = []
    heads_held = 0
    for name in due:
        heads_held += len(people.get(name, ()))
        if chosen and heads_held > MOST_HEADS:
            break
        chosen.append(name)
    return chosen


class _Round:
    """One transaction: what is told, and what is written of it."""

    def __init__(self, seqs: dict[int, int]) -> None:
        self._seqs = seqs
        self._before = dict(seqs)
        self._previews: list[StoredEvent] = []
        self._told: list[Told] = []
        self._done: list[int] = []
        self._others: list[Write] = []
        self.events: list[Event] = []
        self.is_behind = False

    async def read(self, conn: Connection, waiting: Mapping[str, Waiting]) -> None:
        """What is to be told of the conversations, under the locks of all their people."""
        locked = await heads.lock_conversations(conn, waiting)
        people = await conversations.list_participants(conn, waiting)
        # Whoever has joined since has a head that is not locked: then the next round tells all of them.
        ready = [
            each for name, each in locked.items() if all(user_id in self._seqs for user_id, *_ in people.get(name, ()))
        ]
        await self._tell_messages([each for each in ready if each.previews_are_due], conn, people, waiting)
        await self._tell_reads([each for each in ready if each.reads_are_due], conn, people, waiting)

    async def _tell_messages(
        self,
        due: Sequence[LockedConversation],
        conn: Connection,
        people: Mapping[str, People],
        waiting: Mapping[str, Waiting],
    ) -> None:
        """Everybody of the newest message; who wrote that one of the newest of others, if there is one."""
        due = [each for each in due if waiting[each.id].messages]
        news = [each for each in due if each.last_number > each.previewed_number]
        now, latest = await messages.list_latest(
            conn, [(each.id, each.previewed_number, each.last_number) for each in news]
        )
        for each in due:
            self._done += waiting[each.id].messages
            self._told.append(Told(each.id, each.last_number, False))
        for each in news:
            shown = [(message, rules.preview(message.message_type, message.content)) for message in latest[each.id]]
            for user_id, read_number, own_after in people.get(each.id, ()):
                message, text = shown[0] if user_id != shown[0][0].sender_id else shown[-1]
                if message.sender_id == user_id:
                    continue
                unread = each.last_number - read_number - own_after
                data = preview_of(each.id, message, text, unread)
                self._seqs[user_id] += 1
                assert now is not None
                self._previews.append(event_of(user_id, self._seqs[user_id], fresh_id(), PREVIEW, data, now))
        self.events += self._previews

    async def _tell_reads(
        self,
        due: Sequence[LockedConversation],
        conn: Connection,
        people: Mapping[str, People],
        waiting: Mapping[str, Waiting],
    ) -> None:
        """How far each reader is, to all the others; of very many readers some now and the rest in the next round."""
        room = MOST_READS_TOLD
        pointers: list[tuple[str, int, int]] = []  # (conversation, reader, number)
        for each in due:
            stands = {user_id: read_number for user_id, read_number, _ in people.get(each.id, ())}
            left = dict(waiting[each.id].readers)
            while left and (not pointers or room >= len(stands)):
                reader_id, rows = left.popitem()
                self._done += rows
                if stands.get(reader_id):
                    pointers.append((each.id, reader_id, stands[reader_id]))
                    room -= len(stands)
            self.is_behind = self.is_behind or bool(left)
            if waiting[each.id].readers and not left:
                self._told.append(Told(each.id, None, True))
        now, ids = await messages.list_ids(conn, sorted({(name, number) for name, _, number in pointers}))
        bodies: list[tuple[Body, list[int]]] = []
        for name, reader_id, number in pointers:
            assert now is not None
            data = encode(read_of(name, str(ids[name, number]), reader_id, now)).decode()
            others = [user_id for user_id, *_ in people[name] if user_id != reader_id]
            bodies.append((Body(str(fresh_id()), *READ, data, now), others))
        events, self._others = await tell_all(conn, bodies, self._seqs)
        self.events += events

    async def write(self, conn: Connection) -> None:
        """Store it in one statement, and that it was told."""
        moved = {user_id: seq for user_id, seq in self._seqs.items() if seq != self._before[user_id]}
        if self._done:
            await write_together(
                conn,
                [*inbox.append(self._previews, moved), *self._others, *gathered.mark_told(self._told, self._done)],
            )
