"""One event as its reader gets it (spec 2), rendered from the stored row, live and on replay alike."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import msgspec

from handlers.wallet.points import event_of_entry
from handlers.wire import encode
from storage.inbox import StoredEvent
from storage.ledger import Entry


def timestamp_of(moment: datetime) -> str:
    """UTC with milliseconds: 2026-11-21T12:00:00.000Z."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def render(event: StoredEvent | Entry) -> bytes:
    """The envelope's JSON: {id, seq, type, eventType, recipientIds, data, timestamp}."""
    timestamp = timestamp_of(event.created_at)
    if isinstance(event, Entry):
        type_, event_type, data = event_of_entry(event, timestamp)
    else:
        type_, data = event.type, event.data.encode()
        event_type = event.event_type or f"notification:{type_}"
    return _envelope(event.user_id, event.seq, event.id, type_, event_type, data, timestamp)


def _envelope(
    user_id: int, seq: int, event_id: UUID, type_: str, event_type: str, data: bytes, timestamp: str
) -> bytes:
    # Put together by hand: `data` is JSON already, and this runs once per event and recipient.
    return b'{"id":"%b","seq":%d,"type":%b,"eventType":%b,"recipientIds":[%d],"data":%b,"timestamp":"%b"}' % (
        str(event_id).encode(),
        seq,
        _quoted(type_),
        _quoted(event_type),
        user_id,
        data,
        timestamp.encode(),
    )


def _quoted(text: str) -> bytes:
    return encode(text)


def parse(envelope: bytes) -> msgspec.Raw:
    """An envelope as a part of a larger message, such as a page of `inbox:fetch`."""
    return msgspec.Raw(envelope)
