"""One event as its reader gets it (spec 2), rendered from the stored row, live and on replay alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from uuid import UUID

import msgspec

from handlers.wallet.points import event_of_entry
from handlers.wire import encode
from storage.broadcasts import Body
from storage.inbox import Event, SharedEvent
from storage.ledger import Entry

Parts = tuple[bytes, bytes, bytes]
"""Of an envelope with a body of many: before the `seq`, between it and the reader's id, and after."""


@lru_cache(maxsize=64)  # the events of a batch share one, and it takes longer than all the rest of the envelope
def timestamp_of(moment: datetime) -> str:
    """UTC with milliseconds: 2026-11-21T12:00:00.000Z."""
    # A tenth of what `isoformat` costs; it leaves out a fraction of zero.
    whole = encode(moment.astimezone(UTC)).decode()
    return f"{whole[1:24]}Z" if moment.microsecond else f"{whole[1:20]}.000Z"


def render(event: Event) -> bytes:
    """The envelope's JSON: {id, seq, type, eventType, recipientIds, data, timestamp}."""
    if isinstance(event, SharedEvent):
        return _render_shared(event, _shared(event.body))
    timestamp = timestamp_of(event.created_at)
    if isinstance(event, Entry):
        type_, event_type, data = event_of_entry(event, timestamp)
    else:
        type_, data = event.type, event.data.encode()
        event_type = event.event_type or f"notification:{type_}"
    return _envelope(event.user_id, event.seq, event.id, type_, event_type, data, timestamp)


def render_pages(pages: Iterable[Sequence[Event] | None]) -> list[list[tuple[int, bytes]] | None]:
    """Each page as (seq, envelope); None stays None. A body that many share is encoded once."""
    parts: dict[int, Parts] = {}  # by the body's identity, which lives as long as the pages

    def rendered(event: Event) -> bytes:
        if not isinstance(event, SharedEvent):
            return render(event)
        if (mine := parts.get(id(event.body))) is None:
            mine = parts[id(event.body)] = _parts_of(event.body)
        return _render_shared(event, mine)

    return [None if page is None else [(event.seq, rendered(event)) for event in page] for page in pages]


def _envelope(
    user_id: int, seq: int, event_id: UUID, type_: str, event_type: str, data: bytes, timestamp: str
) -> bytes:
    # Put together by hand: `data` is JSON already, and this runs once per event and recipient.
    return b'{"id":"%b","seq":%d,"type":%b,"eventType":%b,"recipientIds":[%d],"data":%b,"timestamp":"%b"}' % (
        str(event_id).encode(),
        seq,
        _named(type_),
        _named(event_type),
        user_id,
        data,
        timestamp.encode(),
    )


def render_ephemeral(event_id: str, type_: str, event_type: str, data: bytes, timestamp: str) -> bytes:
    """The envelope of what nobody keeps, the same for all who hear it: without a `seq` and recipients."""
    return b'{"id":%b,"seq":null,"type":%b,"eventType":%b,"recipientIds":[],"data":%b,"timestamp":"%b"}' % (
        _quoted(event_id),
        _named(type_),
        _named(event_type),
        data,
        timestamp.encode(),
    )


def _render_shared(event: SharedEvent, parts: Parts) -> bytes:
    before, between, after = parts
    return b"%b%d%b%d%b" % (before, event.seq, between, event.user_id, after)


def _parts_of(body: Body) -> Parts:
    event_type = body.event_type or f"notification:{body.type}"
    return (
        b'{"id":%b,"seq":' % _quoted(body.id),
        b',"type":%b,"eventType":%b,"recipientIds":[' % (_quoted(body.type), _quoted(event_type)),
        b'],"data":%b,"timestamp":%b}' % (body.data.encode(), _quoted(timestamp_of(body.timestamp))),
    )


_shared = lru_cache(maxsize=16)(_parts_of)  # for live events, which come body by body


def _quoted(text: str) -> bytes:
    return encode(text)


_named = lru_cache(maxsize=256)(_quoted)  # of types: few, over and over


def parse(envelope: bytes) -> msgspec.Raw:
    """An envelope as a part of a larger message, such as a page of `inbox:fetch`."""
    return msgspec.Raw(envelope)
