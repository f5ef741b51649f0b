"""What a backend's event must be, beyond its types, and what it says: checks before the database is asked."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from typing import Final, Protocol

import msgspec
from msgspec import UNSET

from handlers.errors import Refusal
from handlers.events.rules import distinct_recipients, is_live_topic, is_reserved_event_type, is_reserved_type
from handlers.events.wire import PublishRequest
from handlers.inbox.envelope import render_ephemeral, timestamp_of
from handlers.wire import encode
from storage.broadcasts import Body
from storage.ingested import EventKey

MAX_EVENT_BYTES: Final = 65_536  # without the list of recipients

_NUL_ESCAPED: Final = b"\\u0000"
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # the escape itself, not an escaped backslash before "u0000"
_CANONICAL = msgspec.json.Encoder(order="deterministic")


class EventLimits(Protocol):
    """gateway.settings.Events: recipients who get an event in one transaction, and recipients of one event."""

    @property
    def chunk_recipients(self) -> int: ...
    @property
    def max_recipients(self) -> int: ...


class CheckedEvent(msgspec.Struct, frozen=True):
    """A request that may be carried out: to `topic`, or for `recipients` (ascending, each once) where there is none.

    `is_long`: it has too many recipients for one transaction, so the applier brings it to them by and by.
    """

    source: str
    request: PublishRequest
    topic: str | None
    recipients: list[int]
    timestamp: datetime | None
    fingerprint: bytes
    is_long: bool

    @property
    def action_id(self) -> str:
        """The backend's own id: with `source` what makes it one event, however often it is sent."""
        return self.request.id

    @property
    def key(self) -> EventKey:
        """(source, id)."""
        return self.source, self.request.id

    @property
    def is_written_at_once(self) -> bool:
        """Whether the transaction that takes it writes the inboxes of its recipients."""
        return not (self.is_long or self.topic is not None or self.request.ephemeral is True)

    @property
    def is_ephemeral(self) -> bool:
        """Whether nobody keeps it."""
        return self.topic is not None or self.request.ephemeral is True

    def body(self, taken_at: datetime) -> Body:
        """The event as it is stored."""
        request = self.request
        event_type = None if request.event_type is UNSET else request.event_type
        return Body(request.id, request.type, event_type, encode(request.data).decode(), self.timestamp or taken_at)

    def ephemeral_envelope(self, taken_at: datetime) -> bytes:
        """The event as all who hear it get it."""
        request = self.request
        event_type = f"notification:{request.type}" if request.event_type is UNSET else request.event_type
        timestamp = timestamp_of(self.timestamp or taken_at)
        return render_ephemeral(request.id, request.type, event_type, encode(request.data), timestamp)


def checked(subject: str, request: PublishRequest, limits: EventLimits) -> CheckedEvent:
    """The request of a backend, `subject` being its source where it names none. Raises Refusal `invalid_payload` and
    `payload_too_large`."""
    topic, recipients = _addressees(request, limits.max_recipients)
    if is_reserved_type(request.type):
        raise Refusal("invalid_payload", "Only Applause itself tells of money and chats.", field="type")
    if request.event_type is not UNSET and is_reserved_event_type(request.event_type):
        raise Refusal("invalid_payload", "Only Applause itself tells of money and chats.", field="eventType")
    source = subject if request.source is UNSET else request.source
    fingerprint = _fingerprint(msgspec.structs.replace(request, source=source, recipient_ids=UNSET), recipients)
    is_long = request.ephemeral is not True and len(recipients) > limits.chunk_recipients
    return CheckedEvent(source, request, topic, recipients, _given_timestamp(request), fingerprint, is_long)


def _addressees(request: PublishRequest, most_recipients: int) -> tuple[str | None, list[int]]:
    if request.recipient_ids is UNSET:
        return _topic(request), []
    if request.topic is not UNSET:
        raise Refusal("invalid_payload", "One of `topic` and `recipientIds`, please.", field="recipientIds")
    recipients = distinct_recipients(request.recipient_ids)
    if len(recipients) > most_recipients:
        raise Refusal("payload_too_large", f"An event has at most {most_recipients} recipients.", field="recipientIds")
    return None, recipients


def _topic(request: PublishRequest) -> str:
    if request.topic is UNSET:
        raise Refusal("invalid_payload", "One of `topic` and `recipientIds` is needed.", field="topic")
    if not is_live_topic(request.topic):
        raise Refusal("invalid_payload", "Backends publish to `live:{name}` only.", field="topic")
    if request.ephemeral is False:
        raise Refusal("invalid_payload", "An event for a topic is always ephemeral.", field="ephemeral")
    return request.topic


def _fingerprint(request: PublishRequest, recipients: list[int]) -> bytes:
    """What tells this body (its recipients apart) from another, whatever the order of its keys and recipients."""
    try:
        canonical = _CANONICAL.encode(request)
    except RecursionError:
        raise Refusal("invalid_payload", "`data` is nested too deeply.", field="data") from None
    if len(canonical) > MAX_EVENT_BYTES:
        raise Refusal("payload_too_large", f"An event has at most {MAX_EVENT_BYTES} bytes.", field="data")
    if _NUL_ESCAPED in canonical and _NUL.search(canonical):
        raise Refusal("invalid_payload", "Texts must not hold NUL.", field="data")
    return hashlib.sha256(canonical + (_CANONICAL.encode(recipients) if recipients else b"")).digest()


def _given_timestamp(request: PublishRequest) -> datetime | None:
    if request.timestamp is UNSET:
        return None
    try:
        timestamp_of(request.timestamp)
    except OverflowError:  # the first or last day there is, in another time zone
        raise Refusal("invalid_payload", "`timestamp` is out of range.", field="timestamp") from None
    return request.timestamp
