"""Takes events of backends and hands them to whoever listens."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET

from handlers.errors import Refusal
from handlers.inbox.envelope import timestamp_of
from handlers.live.rules import is_live_topic
from handlers.live.wire import LiveEvent, PublishAnswer, PublishRequest
from handlers.wire import encode
from storage import ingested
from storage.pool import transaction

if TYPE_CHECKING:
    from storage.pool import Pool

MAX_EVENT_BYTES: Final = 65_536

_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # the escape itself, not an escaped backslash before "u0000"
_CANONICAL = msgspec.json.Encoder(order="deterministic")


class LiveHandler:
    """`POST /v1/events`. `publish` gets the topic and the envelope's JSON after the commit."""

    def __init__(self, *, pool: Pool, publish: Callable[[str, bytes], None]) -> None:
        self._pool = pool
        self._publish = publish

    async def publish_event(self, subject: str, request: PublishRequest) -> PublishAnswer:
        """Send the event to its topic once; `subject` is its source where it names none.

        Refusals: `invalid_payload`, `payload_too_large`, and `idempotency_conflict` where
        (source, id) was sent with another body.
        """
        topic = _checked_topic(request)
        source = subject if request.source is UNSET else request.source
        fingerprint = _fingerprint(msgspec.structs.replace(request, source=source))
        timestamp = _given_timestamp(request)
        async with transaction(self._pool) as conn:
            taken_at = await ingested.insert_event(conn, source, request.id, fingerprint)
            known = None if taken_at else await ingested.fetch_fingerprint(conn, source, request.id)
        if taken_at is not None:
            self._publish(topic, encode(_envelope(request, timestamp or timestamp_of(taken_at))))
        elif known != fingerprint:
            raise Refusal("idempotency_conflict", "This source and id came with another body before.", field="id")
        return PublishAnswer(accepted=0, skipped=0)


def _checked_topic(request: PublishRequest) -> str:
    if request.recipient_ids is not UNSET:
        raise Refusal("invalid_payload", "Events for recipients are not taken here yet.", field="recipientIds")
    if request.topic is UNSET:
        raise Refusal("invalid_payload", "`topic` is missing.", field="topic")
    if not is_live_topic(request.topic):
        raise Refusal("invalid_payload", "Backends publish to `live:{name}` only.", field="topic")
    if request.ephemeral is False:
        raise Refusal("invalid_payload", "An event for a topic is always ephemeral.", field="ephemeral")
    return request.topic


def _fingerprint(request: PublishRequest) -> bytes:
    """What tells this body from another, whatever the order of its keys."""
    try:
        canonical = _CANONICAL.encode(request)
    except RecursionError:
        raise Refusal("invalid_payload", "`data` is nested too deeply.", field="data") from None
    if len(canonical) > MAX_EVENT_BYTES:
        raise Refusal("payload_too_large", f"An event has at most {MAX_EVENT_BYTES} bytes.", field="data")
    if _NUL.search(canonical):
        raise Refusal("invalid_payload", "Texts must not hold NUL.", field="data")
    return hashlib.sha256(canonical).digest()


def _given_timestamp(request: PublishRequest) -> str | None:
    if request.timestamp is UNSET:
        return None
    try:
        return timestamp_of(request.timestamp)
    except OverflowError:  # the first or last day there is, in another time zone
        raise Refusal("invalid_payload", "`timestamp` is out of range.", field="timestamp") from None


def _envelope(request: PublishRequest, timestamp: str) -> LiveEvent:
    return LiveEvent(
        id=request.id,
        seq=None,
        type=request.type,
        event_type=f"notification:{request.type}" if request.event_type is UNSET else request.event_type,
        recipient_ids=[],
        data=request.data,
        timestamp=timestamp,
    )
