"""What likes, views and shares look like on the wire (spec 2 and 3)."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import msgspec

from handlers.wire import ActionId, ItemId, Message, Request

WatchedMs = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Channel = Annotated[str, msgspec.Meta(min_length=1, max_length=32, pattern=r"^[^\x00]*\Z")]


class LikeRequest(Request, frozen=True):
    video_id: ItemId
    action_id: ActionId


class UnlikeRequest(Request, frozen=True):
    video_id: ItemId
    action_id: ActionId


class ViewRequest(Request, frozen=True):
    video_id: ItemId
    action_id: ActionId
    watched_ms: WatchedMs | None = None


class ShareRequest(Request, frozen=True):
    video_id: ItemId
    action_id: ActionId
    channel: Channel | None = None


EngagementRequest = LikeRequest | UnlikeRequest | ViewRequest | ShareRequest


class PaidAward(Message):
    points: Decimal
    new_balance: Decimal


class EngagementAck(Message):
    """The ack's data of all four verbs; `reason` only where no award was paid for one."""

    video_id: str
    total: int
    already: bool
    award: PaidAward | None
    reason: str | msgspec.UnsetType = msgspec.UNSET


class VideoLikeEvent(Message):
    actor_id: int
    actor_username: str | None
    video_id: str
    count: int
    actor_ids: list[int]


class VideoShareEvent(Message):
    actor_id: int
    actor_username: str | None
    video_id: str
    count: int
    actor_ids: list[int]
    channel: str | None
