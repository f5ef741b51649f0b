"""A ledger entry as the event that tells of it, and the fixed texts of actions."""

from __future__ import annotations

from typing import Final

import msgspec

from handlers.money import as_number
from handlers.wallet.wire import PointsDeductedEvent, PointsEarnedEvent, WalletUpdateEvent
from handlers.wire import encode
from storage.ledger import Entry

REASONS: Final = {
    "video_liked": "Liked a video",
    "video_viewed": "Viewed a video",
    "video_shared": "Shared a video",
    "comment_posted": "Commented on a video",
    "video_uploaded": "Uploaded a video",
    "gift_sent": "Sent a gift",
    "gift_received": "Received a gift",
    "purchase": "Purchased an item",
    "boost_post": "Boosted a post",
}
RECEIVED: Final = {"like_received": "like", "view_received": "view", "share_received": "share"}
DEDUCTED: Final = frozenset({"purchase", "withdrawal", "penalty", "gift_sent", "tip_sent", "boost_post"})
CORRECTION: Final = "correction"


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
    if entry.action == CORRECTION:
        return "wallet_update", "wallet:balance:updated", encode(_update(entry, timestamp))
    if entry.action in DEDUCTED:
        return "points_deducted", "wallet:points:deducted", encode(_points(PointsDeductedEvent, entry, timestamp))
    return "points_earned", "wallet:points:earned", encode(_points(PointsEarnedEvent, entry, timestamp))


def _points(event: type[PointsEarnedEvent], entry: Entry, timestamp: str) -> PointsEarnedEvent:
    return event(
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


def _update(entry: Entry, timestamp: str) -> WalletUpdateEvent:
    return WalletUpdateEvent(
        user_id=entry.user_id,
        currency=entry.currency,
        new_balance=as_number(entry.balance_after),
        previous_balance=as_number(entry.balance_before),
        reason=reason_of(entry),
        timestamp=timestamp,
    )
