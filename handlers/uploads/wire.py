"""What uploads look like on the wire (spec 2 and 3)."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from handlers.wire import ActionId, ItemId, Message, Request, Title


class UploadRequest(Request, frozen=True):
    video_id: ItemId
    title: Title
    action_id: ActionId


class UploadAward(Message):
    points: Decimal
    new_balance: Decimal


class UploadAck(Message):
    """The ack's data; `reason` only where no award was paid."""

    video_id: str
    award: UploadAward | None
    reason: str | msgspec.UnsetType = msgspec.UNSET
