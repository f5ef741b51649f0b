"""Payments and notices of engagement as the rows that storage keeps."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from handlers.deed import derived_id
from handlers.engagement.rules import COMMENT, LIKE, SHARE, VIEW, Notice, Payment
from handlers.engagement.wire import VideoCommentEvent, VideoLikeEvent, VideoShareEvent
from handlers.money import LYK
from handlers.wire import encode
from storage.inbox import StoredEvent
from storage.ledger import ISSUANCE, Entry

TOTAL_NAME: Final = {LIKE: "totalLikes", VIEW: "totalViews", SHARE: "totalShares"}


def entry_of(payment: Payment, entry_id: UUID, now: datetime) -> Entry:
    """An award as its ledger entry: points that the platform issues to the user."""
    metadata: dict[str, object] = {
        "videoId": payment.video_id,
        "videoTitle": payment.title,
        "userType": payment.user_type,
    }
    if payment.user_type == "creator":
        metadata["count"] = payment.count
        metadata[TOTAL_NAME[payment.kind]] = payment.total
    return Entry(
        payment.user_id,
        payment.seq,
        LYK,
        payment.n,
        entry_id,
        payment.action,
        payment.points,
        payment.balance_before,
        payment.balance_before + payment.points,
        ISSUANCE,
        None,
        encode(metadata).decode(),
        now,
    )


def event_of(notice: Notice, event_id: UUID, now: datetime) -> StoredEvent:
    """A notice as its inbox event: `video_like`, `video_share` or `video_comment` for the owner."""
    newest = notice.actors[0]
    data: VideoLikeEvent | VideoShareEvent | VideoCommentEvent
    if notice.kind == COMMENT:
        type_ = "video_comment"
        comment_id = str(comment_id_of(notice.origin))
        data = VideoCommentEvent(newest, notice.username, notice.video_id, comment_id, notice.text)
    elif notice.kind == SHARE:
        type_ = "video_share"
        data = VideoShareEvent(newest, notice.username, notice.video_id, notice.count, notice.actors, notice.channel)
    else:
        type_ = "video_like"
        data = VideoLikeEvent(newest, notice.username, notice.video_id, notice.count, notice.actors)
    return StoredEvent(notice.user_id, notice.seq, event_id, type_, None, encode(data).decode(), now)


def comment_id_of(origin: str) -> UUID:
    """The id of the comment that the action of this origin posts."""
    return derived_id(f"{origin}/comment")
