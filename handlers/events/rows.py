"""A backend's event as the rows of its recipients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from handlers.deed import derived_id, uuid_of
from storage.broadcasts import Body
from storage.inbox import CopiedRow, SharedEvent, SharedRow
from storage.statement import micros


def events_for(body: Body, recipients: Iterable[int], heads: dict[int, int]) -> list[SharedEvent]:
    """The next event of each recipient; `heads` holds everybody's last `seq`, and is moved."""
    events = []
    for user_id in recipients:
        heads[user_id] += 1
        events.append(SharedEvent(user_id, heads[user_id], body))
    return events


def rows_of(events: Sequence[SharedEvent], broadcast_id: int) -> list[SharedRow]:
    """The events of one broadcast as they are stored. Their id is the same for all, and derived: where one stood twice
    in an inbox, the audit would find it."""
    event_id = derived_id(f"broadcast/{broadcast_id}")
    return [
        SharedRow(event.user_id, event.seq, event_id, event.body.type, event.body.event_type, broadcast_id)
        for event in events
    ]


def copies_of(
    events: Sequence[SharedEvent], body: Body, fingerprint: bytes, sent_us: int | None = None
) -> list[CopiedRow]:
    """The events of one small body as they are stored: each with all of it. Their id is the same for all: the beginning
    of the event's fingerprint, so that the audit can tell which one it is. `sent_us`: its moment, where it is known."""
    event_id = uuid_of(fingerprint[:16])
    moment = micros(body.timestamp) if sent_us is None else sent_us
    return [
        CopiedRow(user_id, seq, event_id, body.type, body.event_type, body.data, body.id, moment)
        for user_id, seq, _ in events
    ]
