"""The verb table: every event that a client may send. The product's index.

Actions go through the lane and carry an `actionId`, but for `message:read`, which can be repeated; everything else is
answered in its turn among the connection's requests: at once where it concerns the connection alone, else from the
database.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import msgspec

from handlers.engagement.wire import CommentRequest, LikeRequest, ShareRequest, UnlikeRequest, ViewRequest
from handlers.events.wire import SubscribeRequest, UnsubscribeRequest
from handlers.inbox.handler import InboxHandler
from handlers.inbox.wire import AckRequest, FetchRequest
from handlers.messaging.wire import ChatRequest, ReadRequest, SendRequest, TypingRequest
from handlers.profile.wire import FollowRequest, UnfollowRequest
from handlers.uploads.wire import UploadRequest
from handlers.wallet.handler import WalletHandler
from handlers.wallet.wire import (
    BoostRequest,
    CorrectionRequest,
    DeductionRequest,
    GetRequest,
    GiftRequest,
    HistoryRequest,
    PurchaseRequest,
)
from handlers.wire import Message, RefreshRequest

ENGAGEMENT: Final[dict[str, type[msgspec.Struct]]] = {
    "video:like": LikeRequest,
    "video:unlike": UnlikeRequest,
    "video:view": ViewRequest,
    "video:share": ShareRequest,
    "video:comment": CommentRequest,
}
UPLOADS: Final[dict[str, type[msgspec.Struct]]] = {"video:upload": UploadRequest}
PROFILE: Final[dict[str, type[msgspec.Struct]]] = {
    "profile:follow": FollowRequest,
    "profile:unfollow": UnfollowRequest,
}
MESSAGING: Final[dict[str, type[msgspec.Struct]]] = {"message:send": SendRequest, "message:read": ReadRequest}

SPENDING: Final[dict[str, type[msgspec.Struct]]] = {
    "wallet:gift": GiftRequest,
    "wallet:purchase": PurchaseRequest,
    "wallet:boost": BoostRequest,
}

# Backends' actions about a user, and the path that takes each.
FOR_BACKENDS: Final[dict[str, type[msgspec.Struct]]] = {
    "wallet:deduct": DeductionRequest,
    "wallet:correct": CorrectionRequest,
}
AWARD: Final = "wallet:award"  # over Kafka alone
PATHS_FOR_BACKENDS: Final = {
    "/v1/wallet/deductions": "wallet:deduct",
    "/v1/wallet/corrections": "wallet:correct",
}

# Backends' events, which have a key of their own instead of an `actionId`.
PUBLISH: Final = "event:publish"

# (the asking Session, the request): the answer, or where it takes the database a promise of it
Read = Callable[[Any, Any], Message | Awaitable[Message]]


class Route(NamedTuple):
    """How one event is decoded and answered; an action has no `read`. Backends' own come over HTTP alone."""

    event: str
    request: type[msgspec.Struct]
    read: Read | None
    for_backends: bool = False


def routes(*, wallet: WalletHandler, inbox: InboxHandler, visits: Visits) -> dict[str, Route]:
    """The whole table, by event name."""
    reads: dict[str, tuple[type[msgspec.Struct], Read]] = {
        "wallet:get": (GetRequest, lambda visit, request: wallet.get(visit.user_id, request)),
        "wallet:history": (HistoryRequest, lambda visit, request: wallet.history(visit.user_id, request)),
        "inbox:fetch": (FetchRequest, lambda visit, request: inbox.fetch(visit.user_id, request)),
        "inbox:ack": (AckRequest, lambda visit, request: inbox.ack(visit.user_id, visit.device_id, request)),
        "topic:subscribe": (SubscribeRequest, visits.subscribe),
        "topic:unsubscribe": (UnsubscribeRequest, visits.unsubscribe),
        "chat:open": (ChatRequest, visits.open_chat),
        "chat:close": (ChatRequest, visits.close_chat),
        "typing:start": (TypingRequest, visits.start_typing),
        "typing:stop": (TypingRequest, visits.stop_typing),
        "auth:refresh": (RefreshRequest, visits.refresh),
    }
    table = {
        event: Route(event, request, None) for event, request in (ENGAGEMENT | UPLOADS | PROFILE | MESSAGING).items()
    }
    table.update({event: Route(event, request, None) for event, request in SPENDING.items()})
    table.update({event: Route(event, request, None, for_backends=True) for event, request in FOR_BACKENDS.items()})
    table.update({event: Route(event, request, read) for event, (request, read) in reads.items()})
    return table


class Visits(msgspec.Struct, frozen=True):
    """What a client asks of its own connection."""

    subscribe: Read
    unsubscribe: Read
    open_chat: Read
    close_chat: Read
    start_typing: Read
    stop_typing: Read
    refresh: Read
