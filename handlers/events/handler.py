"""Takes events of backends: into inboxes, for the applier, or to whoever listens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from handlers.deed import Delivered
from handlers.errors import Refusal
from handlers.events.request import Checked, checked
from handlers.events.rows import events_for, id_of
from handlers.events.wire import AcceptedAnswer, PublishAnswer, PublishRequest
from storage import broadcasts, heads, inbox, ingested
from storage.db import is_lock_timeout
from storage.pool import session, transaction
from storage.statement import Write, write_together

if TYPE_CHECKING:
    from asyncpg import Connection

    from storage.pool import Pool


class Publisher(Protocol):
    """fanout.publisher.Publisher: tells connections here and on other nodes, after the commit."""

    def events(self, events: Sequence[Delivered]) -> None:
        """Durable events, each for its user."""
        ...

    def topic(self, topic: str, envelope: bytes) -> None:
        """An envelope for whoever listens to a topic."""
        ...

    def users(self, user_ids: Sequence[int], envelope: bytes) -> None:
        """An envelope for whoever of these users is connected."""
        ...


class EventLimits(Protocol):
    """gateway.settings.Events: recipients who get an event in one transaction, and recipients of one event."""

    @property
    def chunk_recipients(self) -> int: ...
    @property
    def max_recipients(self) -> int: ...


class EventsHandler:
    """`POST /v1/events`. `wake_applier` is called where a long list of recipients waits for it."""

    def __init__(
        self, *, pool: Pool, publisher: Publisher, limits: EventLimits, wake_applier: Callable[[], None]
    ) -> None:
        self._pool = pool
        self._publisher = publisher
        self._limits = limits
        self._wake_applier = wake_applier

    async def publish_event(self, subject: str, request: PublishRequest) -> PublishAnswer:
        """Take the event once; `subject` is its source where it names none. An AcceptedAnswer where it is stored, but
        not yet in all inboxes.

        Refusals: `invalid_payload`, `payload_too_large`, `unavailable` where recipients are held by somebody who
        does not let go, and `idempotency_conflict` where (source, id) was sent with another body.
        """
        event = checked(subject, request, most_recipients=self._limits.max_recipients)
        try:
            return await self._take(event)
        except Exception as error:
            if not is_lock_timeout(error):
                raise
            raise Refusal("unavailable", "The recipients are too busy.", retry_after_ms=1000) from None

    async def _take(self, event: Checked) -> PublishAnswer:
        return await (self._take_for_topic(event) if event.topic is not None else self._take_for_users(event))

    async def _take_for_topic(self, event: Checked) -> PublishAnswer:
        """One statement, committed by itself: nothing else is stored."""
        async with session(self._pool) as conn:
            taken_at = await ingested.insert_event(conn, event.source, event.request.id, event.fingerprint)
            if taken_at is None:
                return PublishAnswer(*await _counts_of(conn, event))
        self._tell(event, taken_at, [], [])
        return PublishAnswer(0, 0)

    async def _take_for_users(self, event: Checked) -> PublishAnswer:
        told: list[Delivered] = []
        answer_type = PublishAnswer
        async with transaction(self._pool) as conn:
            taken_at = await ingested.insert_event(conn, event.source, event.request.id, event.fingerprint)
            if not event.is_ephemeral and len(event.recipients) > self._limits.chunk_recipients:
                answer_type = AcceptedAnswer
            if taken_at is None:
                return answer_type(*await _counts_of(conn, event))
            if answer_type is AcceptedAnswer:
                accepted = await _leave_to_applier(conn, event, taken_at)
            elif event.is_ephemeral:
                accepted = [user_id for user_id, _, _ in await heads.list_heads(conn, event.recipients)]
                await write_together(conn, _counted(event, len(accepted)))
            else:
                told = await _store(conn, event, taken_at)
                accepted = [one.user_id for one in told]
        self._tell(event, taken_at, told, accepted)
        return answer_type(len(accepted), len(event.recipients) - len(accepted))

    def _tell(self, event: Checked, taken_at: datetime, told: list[Delivered], accepted: list[int]) -> None:
        """After the commit."""
        if event.topic is not None:
            self._publisher.topic(event.topic, event.ephemeral_envelope(taken_at))
        elif event.is_ephemeral:
            self._publisher.users(accepted, event.ephemeral_envelope(taken_at))
        elif told:
            self._publisher.events(told)
        elif accepted:
            self._wake_applier()


async def _counts_of(conn: Connection, event: Checked) -> tuple[int, int]:
    """(accepted, skipped) as they were answered when it was taken; refuses another body."""
    taken = await ingested.fetch_taken(conn, event.source, event.request.id)
    if taken is None or taken.fingerprint != event.fingerprint:
        raise Refusal("idempotency_conflict", "This source and id came with another body before.", field="id")
    return taken.accepted, taken.skipped


async def _store(conn: Connection, event: Checked, taken_at: datetime) -> list[Delivered]:
    """The event into each known recipient's inbox."""
    await heads.hold_briefly(conn)
    seqs = await heads.lock(conn, event.recipients)
    if not seqs:
        await write_together(conn, _counted(event, 0))
        return []
    body = event.body(taken_at)
    broadcast_id = await broadcasts.insert_broadcast(conn, event.source, body, sorted(seqs), applied=len(seqs))
    events = events_for(body, seqs)
    shared = inbox.append_shared(events, id_of(broadcast_id), broadcast_id)
    await write_together(conn, [*shared, *_counted(event, len(seqs))])
    return [Delivered(one.user_id, one.seq, one) for one in events]


async def _leave_to_applier(conn: Connection, event: Checked, taken_at: datetime) -> list[int]:
    """The body with its known recipients, none of whom is locked."""
    known = sorted(user_id for user_id, _, _ in await heads.list_heads(conn, event.recipients))
    if known:
        await broadcasts.insert_broadcast(conn, event.source, event.body(taken_at), known)
    await write_together(conn, _counted(event, len(known)))
    return known


def _counted(event: Checked, accepted: int) -> list[Write]:
    skipped = len(event.recipients) - accepted
    return [ingested.mark_counts(event.source, event.request.id, accepted, skipped)] if accepted or skipped else []
