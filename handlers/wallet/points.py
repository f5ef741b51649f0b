"""A ledger entry as the event that tells of it, and the fixed texts of awards."""

from __future__ import annotations

from typing import Final

import msgspec

from handlers.money import as_number
from handlers.wallet.wire import PointsEarnedEvent
from handlers.wire import encode
from storage.ledger import Entry

REASONS: Final = {
    "video_liked": "Liked a video",
    "video_viewed": "Viewed a video",
    "video_shared": "Shared a video",
}
RECEIVED: Final = {"like_received": "like", "view_received": "view", "share_received": "share"}


class _Counted(msgspec.Struct):
    count: int = 1


_COUNTED = msgspec.json.Decoder(_Counted)


def reason_of(entry: Entry) -> str:
    """The stored reason, else the action's fixed text (spec 3), with the number of those gathered."""
    if entry.reason is not None:
        return entry.reason
    noun = RECEIVED.get(entry.action)
    if noun is None:
        return REASONS.get(entry.action, entry.action)
    count = _COUNTED.decode(entry.metadata).count
    return f"Your video received a {noun}" if count == 1 else f"Your video received {count} {noun}s"


def event_of_entry(entry: Entry, timestamp: str) -> tuple[str, str, bytes]:
    """(type, eventType, data as JSON) of the event that this entry is."""
    data = PointsEarnedEvent(
        user_id=entry.user_id,
        currency=entry.currency,
        action=entry.action,
        points=as_number(abs(entry.points)),
        new_balance=as_number(entry.balance_after),
        previous_balance=as_number(entry.balance_before),
        reason=reason_of(entry),
        timestamp=timestamp,
        metadata=msgspec.Raw(entry.metadata.encode()),
    )
    return "points_earned", "wallet:points:earned", encode(data)
