"""Events of backends, and what a live topic's listeners get of them (spec 2, 6 and 7)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from handlers.wire import Message, RecordId, Request, Source, UserId

TypeName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:-]{1,128}\Z")]
TopicName = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Recipients = Annotated[list[UserId], msgspec.Meta(min_length=1)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class PublishRequest(Request, frozen=True):
    """One event, for users or to a topic. Its fingerprint is of these fields in this order: add new ones at the end."""

    id: RecordId
    type: TypeName
    data: dict[str, Any]
    topic: TopicName | UnsetType = UNSET
    recipient_ids: Recipients | UnsetType = UNSET
    source: Source | UnsetType = UNSET
    event_type: TypeName | UnsetType = UNSET
    timestamp: Moment | UnsetType = UNSET
    ephemeral: bool | UnsetType = UNSET


class PublishAnswer(Message):
    """How many recipients get it and how many are unknown: for a topic none and none."""

    accepted: int
    skipped: int


class SubscribeRequest(Request, frozen=True):
    """`topic:subscribe`; which topics there are is gateway/socket/topics.py's to say."""

    topic: TopicName


class UnsubscribeRequest(Request, frozen=True):
    """`topic:unsubscribe`."""

    topic: TopicName


class TopicAck(Message):
    """The topic that the connection hears of, or no more."""

    topic: str
