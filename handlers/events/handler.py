"""Takes events of backends in batches: into inboxes, for the applier, or to whoever listens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Protocol

from handlers.deed import Answer, BatchResult, Deed, Delivered
from handlers.errors import Refusal
from handlers.events.request import CheckedEvent
from handlers.events.rows import copies_of, events_for, rows_of
from handlers.events.rules import is_copied
from handlers.events.wire import PublishAnswer
from handlers.wire import encode
from storage import broadcasts, heads, inbox, ingested
from storage.broadcasts import Body, Broadcast
from storage.inbox import CopiedRow, SharedEvent, SharedRow
from storage.ingested import EventKey, Taken
from storage.statement import micros, write_together

if TYPE_CHECKING:
    from asyncpg import Connection


class Publisher(Protocol):
    """fanout.publisher.Publisher: tells connections here and on other nodes of what nobody keeps."""

    def topic(self, topic: str, envelope: bytes) -> None:
        """An envelope for whoever listens to a topic."""
        ...

    def users(self, user_ids: Sequence[int], envelope: bytes) -> None:
        """An envelope for whoever of these users is connected."""
        ...


@dataclass(slots=True)
class EventsConcern:
    """Those whose inboxes the batch writes: where they exist they are to be locked; and those of all other recipients
    who exist."""

    user_ids: set[int]
    others: set[int]


class EventsHandler:
    """`event:publish`, whose request is a CheckedEvent. `wake_applier` is called where a long list of recipients waits
    for it."""

    def __init__(self, *, publisher: Publisher, wake_applier: Callable[[], None]) -> None:
        self._publisher = publisher
        self._wake_applier = wake_applier

    async def resolve(self, conn: Connection, deeds: Sequence[Deed]) -> EventsConcern:
        """Find out which of the recipients exist whose inboxes are not written now: of the others their heads tell."""
        written: set[int] = set()
        others: set[int] = set()
        for deed in deeds:
            event: CheckedEvent = deed.request
            (written if event.is_written_at_once else others).update(event.recipients)
        return EventsConcern(written, await _existing(conn, others - written))

    async def run(
        self, conn: Connection, deeds: Sequence[Deed], concern: EventsConcern, heads: dict[int, int]
    ) -> BatchResult:
        """Take each event whose recipients are locked, once; the others wait for the next batch, and with them the
        later ones of their partition.

        The answer is PublishAnswer as it was given first; `idempotency_conflict` where (source, id) was sent with
        another body.
        """
        # Locked by somebody else, or nobody: who is not there is rare, and then it takes another look.
        held = await _existing(conn, concern.user_ids - heads.keys())
        ready = _behind_nobody(deeds, held) if held else deeds
        batch = _Batch(concern.others | held, heads)
        await batch.take(conn, [deed.request for deed in ready])
        told = await batch.store(conn)
        answers = {deed: batch.answer(deed) for deed in ready}
        afterwards = [partial(self._tell, *untold) for untold in batch.untold]
        return BatchResult([Answer(deed, answers.get(deed)) for deed in deeds], told, afterwards)

    def _tell(self, event: CheckedEvent, taken_at: datetime, known: list[int]) -> None:
        if event.topic is not None:
            self._publisher.topic(event.topic, event.ephemeral_envelope(taken_at))
        elif event.is_ephemeral:
            self._publisher.users(known, event.ephemeral_envelope(taken_at))
        elif known:
            self._wake_applier()


async def _existing(conn: Connection, user_ids: Iterable[int]) -> set[int]:
    asked = set(user_ids)
    return {user_id for user_id, *_ in await heads.list_heads(conn, asked)} if asked else asked


def _behind_nobody(deeds: Sequence[Deed], held: set[int]) -> list[Deed]:
    """Those of the deeds that need nobody who is held, and whose partition has none waiting before them."""
    ready: list[Deed] = []
    waiting: set[object] = set()
    for deed in deeds:
        event: CheckedEvent = deed.request
        if deed.order_key in waiting or (event.is_written_at_once and held.intersection(event.recipients)):
            waiting |= {deed.order_key} - {None}
        else:
            ready.append(deed)
    return ready


class _Batch:
    """One batch under its locks: which events are new, what was answered, and what is to be written."""

    def __init__(self, others: set[int], seqs: dict[int, int]) -> None:
        self._others = others
        self._seqs = dict(seqs)
        self._taken: dict[EventKey, Taken] = {}
        self._new: dict[EventKey, tuple[CheckedEvent, list[int]]] = {}  # with those of its recipients who exist
        self._at: datetime  # the moment when they were taken
        self.untold: list[tuple[CheckedEvent, datetime, list[int]]] = []  # what is not told of by its recipients' rows

    async def take(self, conn: Connection, events: Sequence[CheckedEvent]) -> None:
        """Note those that are new; of several with one key the first."""
        firsts: dict[EventKey, tuple[CheckedEvent, list[int]]] = {}
        for event in events:
            if (key := event.key) not in firsts:
                known = self._seqs if event.is_written_at_once else self._seqs.keys() | self._others
                firsts[key] = event, [user_id for user_id in event.recipients if user_id in known]
        self._taken = {
            key: Taken(event.fingerprint, len(known), len(event.recipients) - len(known))
            for key, (event, known) in firsts.items()
        }
        if not firsts:
            return
        self._at, new = await ingested.insert_events(conn, self._taken)
        if new is None:
            self._new = firsts
            return
        self._new = {key: first for key, first in firsts.items() if key in new}
        self._taken |= await ingested.list_taken(conn, firsts.keys() - new)

    async def store(self, conn: Connection) -> list[Delivered]:
        """The new ones that somebody keeps: their bodies, and the events of those who get them at once."""
        kept: list[tuple[CheckedEvent, list[int], Body, bool]] = []
        for event, known in self._new.values():
            if not event.is_written_at_once:
                self.untold.append((event, self._at, known))
            if known and not event.is_ephemeral:
                body = event.body(self._at)
                kept.append((event, known, body, not event.is_long and is_copied(len(body.data), len(known))))
        shared = [
            Broadcast(event.source, body, known, applied=0 if event.is_long else len(known))
            for event, known, body, copied in kept
            if not copied
        ]
        ids = await broadcasts.insert_broadcasts(conn, shared) if shared else {}
        told: list[SharedEvent] = []
        copies: list[CopiedRow] = []
        references: list[SharedRow] = []
        at_us = micros(self._at) if kept else 0
        for event, known, body, copied in kept:
            events = events_for(body, () if event.is_long else known, self._seqs)
            if copied:
                copies += copies_of(events, body, event.fingerprint, at_us if body.timestamp is self._at else None)
            else:
                references += rows_of(events, ids[event.key])
            told += events
        moved = {event.user_id: event.seq for event in told}
        await write_together(conn, inbox.append_shared(references, copies, moved))
        return [Delivered(event.user_id, event.seq, event) for event in told]

    def answer(self, deed: Deed) -> bytes | Refusal:
        """What the first taking was answered."""
        event: CheckedEvent = deed.request
        key = event.key
        taken = self._taken[key]
        if taken.fingerprint != event.fingerprint:
            return Refusal("idempotency_conflict", "This source and id came with another body before.", field="id")
        new = self._new.get(key)
        deed.is_replay = not deed.attempted and (new is None or new[0] is not event)
        return _answer(taken.accepted, taken.skipped)


@lru_cache(maxsize=1024)
def _answer(accepted: int, skipped: int) -> bytes:
    return b'{"ok":true,"data":%b}' % encode(PublishAnswer(accepted, skipped))
