"""Live topics that a connection listens to: which there are, and who may listen.

`live:{name}` is open to every user and published by backends; `video:{id}` tells the totals of a video that is there.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from fanout.cursor import Cursor
from fanout.delivery import Delivery
from handlers.engagement.rules import watched_video
from handlers.engagement.totals import LiveTotals
from handlers.errors import Refusal
from handlers.events.rules import is_live_topic
from handlers.events.wire import SubscribeRequest, TopicAck, UnsubscribeRequest

if TYPE_CHECKING:
    from gateway.socket.session import Session


class Seats:
    """Joins connections to topics of any kind, at most so many each."""

    def __init__(self, *, delivery: Delivery, most: int) -> None:
        self._delivery = delivery
        self._most = most

    def join(self, cursor: Cursor, topic: str, *, field: str) -> None:
        """From now on it hears of the topic. Refuses `conflict`, naming the field, where there are too many."""
        if cursor.topics and topic not in cursor.topics and len(cursor.topics) >= self._most:
            raise Refusal("conflict", "Too many topics on this connection.", field=field)
        self._delivery.subscribe(cursor, topic)

    def leave(self, cursor: Cursor, topic: str) -> None:
        """It hears no more of it, if it did."""
        self._delivery.unsubscribe(cursor, topic)


class Topics:
    """`topic:subscribe` and `topic:unsubscribe`."""

    def __init__(self, *, seats: Seats, totals: LiveTotals) -> None:
        self._seats = seats
        self._totals = totals

    def subscribe(self, session: Session, request: SubscribeRequest) -> TopicAck | Awaitable[TopicAck]:
        """Hear of a topic; again changes nothing. Refuses `not_found`, and `conflict` where there are too many."""
        if (video_id := watched_video(request.topic)) is not None:
            return self._watch(session, request.topic, video_id)
        if not is_live_topic(request.topic):
            raise Refusal("not_found", "There is no such topic.", field="topic")
        return self._join(session, request.topic)

    def unsubscribe(self, session: Session, request: UnsubscribeRequest) -> TopicAck:
        """Hear no more of it: also of what was never subscribed."""
        assert session.cursor is not None
        if is_live_topic(request.topic) or watched_video(request.topic) is not None:
            self._seats.leave(session.cursor, request.topic)
        return TopicAck(request.topic)

    async def _watch(self, session: Session, topic: str, video_id: str) -> TopicAck:
        await self._totals.check(video_id)
        answer = self._join(session, topic)
        self._totals.tell_again(video_id)  # only now: what is told before is told without this connection
        return answer

    def _join(self, session: Session, topic: str) -> TopicAck:
        assert session.cursor is not None
        self._seats.join(session.cursor, topic, field="topic")
        return TopicAck(topic)
