"""Takes events of backends in batches: into inboxes, for the applier, or to whoever listens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Protocol

from handlers.deed import Answer, BatchResult, Deed, delivered
from handlers.errors import Refusal
from handlers.events.request import CheckedEvent
from handlers.events.rows import events_for, rows_of
from handlers.events.wire import PublishAnswer
from handlers.wire import encode
from storage import broadcasts, heads, inbox, ingested
from storage.broadcasts import Broadcast
from storage.inbox import SharedEvent, SharedRow
from storage.ingested import EventKey, Taken
from storage.statement import write_together

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
    """Those of all recipients who exist, and those whose inboxes the batch writes: they are to be locked."""

    known: set[int]
    user_ids: set[int]


class EventsHandler:
    """`event:publish`, whose request is a CheckedEvent. `wake_applier` is called where a long list of recipients waits
    for it."""

    def __init__(self, *, publisher: Publisher, wake_applier: Callable[[], None]) -> None:
        self._publisher = publisher
        self._wake_applier = wake_applier

    async def resolve(self, conn: Connection, deeds: Sequence[Deed]) -> EventsConcern:
        """Find out which of the recipients exist."""
        events: list[CheckedEvent] = [deed.request for deed in deeds]
        named = {user_id for event in events for user_id in event.recipients}
        known = {user_id for user_id, *_ in await heads.list_heads(conn, named)} if named else set()
        written = {user_id for event in events for user_id in _written_to(event)}
        return EventsConcern(known, known & written)

    async def run(
        self, conn: Connection, deeds: Sequence[Deed], concern: EventsConcern, heads: dict[int, int]
    ) -> BatchResult:
        """Take each event whose recipients are locked, once; the others wait for the next batch.

        The answer is PublishAnswer as it was given first; `idempotency_conflict` where (source, id) was sent with
        another body.
        """
        held = concern.user_ids - heads.keys()  # by somebody else
        ready = [deed for deed in deeds if not held.intersection(_written_to(deed.request))] if held else list(deeds)
        batch = _Batch(concern.known, heads)
        await batch.take(conn, [deed.request for deed in ready])
        told = await batch.store(conn)
        answers = {deed: batch.answer(deed) for deed in ready}
        afterwards = [partial(self._tell, event, taken_at, batch.known_to(event)) for event, taken_at in batch.new]
        return BatchResult([Answer(deed, answers.get(deed)) for deed in deeds], delivered(told), afterwards)

    def _tell(self, event: CheckedEvent, taken_at: datetime, known: list[int]) -> None:
        if event.topic is not None:
            self._publisher.topic(event.topic, event.ephemeral_envelope(taken_at))
        elif event.is_ephemeral:
            self._publisher.users(known, event.ephemeral_envelope(taken_at))
        elif event.is_long and known:
            self._wake_applier()


def _written_to(event: CheckedEvent) -> list[int]:
    """Whose inboxes the batch writes for it."""
    return [] if event.is_ephemeral or event.is_long else event.recipients


class _Batch:
    """One batch under its locks: which events are new, what was answered, and what is to be written."""

    def __init__(self, known: set[int], seqs: dict[int, int]) -> None:
        self._known = known
        self._seqs = dict(seqs)
        self._taken: dict[EventKey, Taken] = {}
        self._firsts: dict[EventKey, CheckedEvent] = {}  # the new ones
        self.new: list[tuple[CheckedEvent, datetime]] = []  # with the moment when it was taken

    def known_to(self, event: CheckedEvent) -> list[int]:
        """Its recipients who exist, ascending."""
        return [user_id for user_id in event.recipients if user_id in self._known]

    async def take(self, conn: Connection, events: Sequence[CheckedEvent]) -> None:
        """Note those that are new; of several with one key the first."""
        firsts: dict[EventKey, CheckedEvent] = {}
        for event in events:
            firsts.setdefault(event.key, event)
        noted = {key: self._as_taken(event) for key, event in firsts.items()}
        times = await ingested.insert_events(conn, noted)
        others = noted.keys() - times.keys()
        self._taken = noted | (await ingested.list_taken(conn, others) if others else {})
        self._firsts = {key: event for key, event in firsts.items() if key in times}
        self.new = [(event, times[key]) for key, event in self._firsts.items()]

    def _as_taken(self, event: CheckedEvent) -> Taken:
        accepted = len(self.known_to(event))
        return Taken(event.fingerprint, accepted, len(event.recipients) - accepted)

    async def store(self, conn: Connection) -> list[SharedEvent]:
        """The new ones that somebody keeps: their bodies, and the events of those who get them at once."""
        kept = [(event, event.body(at), self.known_to(event)) for event, at in self.new if not event.is_ephemeral]
        new = [
            Broadcast(event.source, body, known, applied=0 if event.is_long else len(known))
            for event, body, known in kept
            if known
        ]
        if not new:
            return []
        ids = await broadcasts.insert_broadcasts(conn, new)
        told: list[SharedEvent] = []
        rows: list[SharedRow] = []
        for each in new:
            events = events_for(each.body, each.recipients[: each.applied], self._seqs)
            rows += rows_of(events, ids[each.source, each.body.id])
            told += events
        await write_together(conn, inbox.append_shared(rows))
        return told

    def answer(self, deed: Deed) -> bytes | Refusal:
        """What the first taking was answered."""
        event: CheckedEvent = deed.request
        taken = self._taken[event.key]
        if taken.fingerprint != event.fingerprint:
            return Refusal("idempotency_conflict", "This source and id came with another body before.", field="id")
        deed.is_replay = not deed.attempted and self._firsts.get(event.key) is not event
        return b'{"ok":true,"data":%b}' % encode(PublishAnswer(taken.accepted, taken.skipped))
