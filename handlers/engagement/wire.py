"""What likes, views, shares and comments look like on the wire (spec 2, 3 and 7)."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import msgspec

from handlers.wire import ActionId, ItemId, Message, Request

WatchedMs = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Channel = Annotated[str, msgspec.Meta(min_length=1, max_length=32, pattern=r"^[^\x00]*\Z")]

# In code points, as JSON's readers count them. One that is not white space must be there; NUL can't be stored.
CommentText = Annotated[str, msgspec.Meta(min_length=1, max_length=1000, pattern=r"^\s*[^\s\x00][^\x00]*\Z")]


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


class CommentRequest(Request, frozen=True):
    video_id: ItemId
    text: CommentText
    action_id: ActionId


EngagementRequest = LikeRequest | UnlikeRequest | ViewRequest | ShareRequest | CommentRequest


class PaidAward(Message):
    points: Decimal
    new_balance: Decimal


class EngagementAck(Message):
    """The ack's data; `reason` only where no award was paid for one."""

    video_id: str
    total: int
    already: bool
    award: PaidAward | None
    reason: str | msgspec.UnsetType = msgspec.UNSET
    comment_id: str | msgspec.UnsetType = msgspec.UNSET  # of `video:comment`


class VideoLikeEvent(Message):
    actor_id: int
    actor_username: str | None
    video_id: str
    count: int
    actor_ids: list[int]


class VideoCommentEvent(Message):
    actor_id: int
    actor_username: str | None
    video_id: str
    comment_id: str
    text: str


class VideoTotalsEvent(Message):
    """Ephemeral, to the live topic `video:{id}`."""

    video_id: str
    total_likes: int
    total_views: int
    total_shares: int
    total_comments: int


class Comment(Message):
    """One row of a video's comments; `username` as of then."""

    comment_id: str
    video_id: str
    user_id: int
    username: str
    text: str
    timestamp: str


class Comments(Message):
    """`GET /v1/videos/{id}/comments`: newest first."""

    comments: list[Comment]
    next_cursor: str | None


class VideoShareEvent(Message):
    actor_id: int
    actor_username: str | None
    video_id: str
    count: int
    actor_ids: list[int]
    channel: str | None
