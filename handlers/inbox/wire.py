"""What the inbox looks like on the wire (spec 2)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from handlers.wire import Message, Request

Seq = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
FetchLimit = Annotated[int, msgspec.Meta(ge=1, le=500)]


class FetchRequest(Request, frozen=True):
    after_seq: Seq
    limit: FetchLimit = 100


class AckRequest(Request, frozen=True):
    seq: Seq


class FetchAck(Message):
    """`complete` is false, and nothing is listed, where the inbox does not reach back to `afterSeq`."""

    events: list[msgspec.Raw]
    seq: int
    oldest_seq: int
    complete: bool


class AckAck(Message):
    acked: int


class SeenRequest(Request, frozen=True):
    """`POST /v1/notifications/seen`."""

    seq: Seq


class NotificationPage(Message):
    """Envelopes without those of wallets and chats, newest first."""

    notifications: list[msgspec.Raw]
    unread_count: int
    seen_seq: int
    next_cursor: str | None


class SeenAnswer(Message):
    seen_seq: int
    unread_count: int


class Device(Message):
    device_id: str
    acked: int
    connected: bool


class InboxState(Message):
    seq: int
    oldest_seq: int
    connected: bool
    devices: list[Device]
    nodes: list[str]  # that hold a connection of the user, as `welcome` names them
