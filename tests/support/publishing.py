"""Backends' events for tests, taken as the lane takes them, on a connection of the pool each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import asyncpg
import msgspec

from gateway.routes import PUBLISH
from gateway.settings import Events
from handlers.deed import Deed, Delivered
from handlers.errors import Refusal, refusal_ack
from handlers.events.handler import EventsHandler
from handlers.events.request import CheckedEvent, checked
from handlers.events.wire import PublishAnswer, PublishRequest
from storage.pool import session
from tests.support.deeds import run_batch

PATIENCE: Final = 50  # batches that may pass a deed over


class Listening(Protocol):
    """Who hears of events."""

    def events(self, events: Sequence[Delivered]) -> None: ...
    def topic(self, topic: str, envelope: bytes) -> None: ...
    def users(self, user_ids: Sequence[int], envelope: bytes) -> None: ...


class _Answer(msgspec.Struct):
    data: PublishAnswer


def deed_of(event: CheckedEvent) -> Deed:
    """The event as a door submits it."""
    return Deed(
        user_id=0,
        event=PUBLISH,
        request=event,
        fingerprint=event.fingerprint,
        received_at=asyncio.get_running_loop().time(),
        order_key=None,
        answer=lambda _: None,
        subject=event.source,
        weight=max(1, len(event.recipients)),
    )


class Desk:
    """Where tests publish: one batch an event. Several at once are as several nodes."""

    def __init__(
        self, pool: asyncpg.Pool, told: Listening, *, wake: Callable[[], None] = lambda: None, **limits: int
    ) -> None:
        self._pool = pool
        self._told = told
        self._handler = EventsHandler(publisher=told, wake_applier=wake)
        self.limits = Events(**limits)

    async def publish_event(self, subject: str, request: PublishRequest) -> PublishAnswer:
        """Its answer; raises Refusal, `unavailable` where recipients stay held."""
        [outcome] = await self.publish_together(checked(subject, request, self.limits))
        if isinstance(outcome, Refusal):
            raise outcome
        return msgspec.json.decode(outcome, type=_Answer).data

    async def publish(self, event: CheckedEvent) -> bytes:
        """The whole acknowledgement, as gateway.dispatch.Dispatch gives it."""
        [outcome] = await self.publish_together(event)
        return refusal_ack(outcome) if isinstance(outcome, Refusal) else outcome

    async def publish_together(self, *events: CheckedEvent) -> list[bytes | Refusal]:
        """All in one batch, and again those that it passed over."""
        outcomes: dict[Deed, Any] = dict.fromkeys(deed_of(event) for event in events)
        for _ in range(PATIENCE):
            waiting = [deed for deed, outcome in outcomes.items() if outcome is None]
            if not waiting:
                break
            async with session(self._pool) as conn:
                result = await run_batch(conn, self._handler, waiting, skip_locked=True)
            outcomes |= {answer.deed: answer.outcome for answer in result.answers}
            self._told.events(result.events)
            for tell in result.afterwards:
                tell()
            await asyncio.sleep(0.01 * any(outcome is None for outcome in outcomes.values()))
        return [outcome or Refusal("unavailable", "passed over too often") for outcome in outcomes.values()]
