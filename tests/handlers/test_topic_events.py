"""Events of backends to live topics: sent once, refused clearly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import asyncpg
import msgspec
import pytest

from handlers.deed import Delivered
from handlers.errors import Refusal
from handlers.events.request import MAX_EVENT_BYTES
from handlers.events.rules import is_live_topic
from handlers.events.wire import PublishAnswer, PublishRequest
from tests.support.publishing import Desk


class Topics:
    """Remembers what was published."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []

    def topic(self, topic: str, envelope: bytes) -> None:
        self.sent.append((topic, json.loads(envelope)))

    def events(self, events: Sequence[Delivered]) -> None:
        assert not events, "an event for a topic is nobody's in particular"

    def users(self, user_ids: Sequence[int], envelope: bytes) -> None:
        raise AssertionError("an event for a topic is nobody's in particular")


def handler_on(pool: asyncpg.Pool, topics: Topics) -> Desk:
    return Desk(pool, topics)


def event(**fields: Any) -> PublishRequest:
    given = {"id": "e1", "type": "goal", "topic": "live:match", "data": {"score": 1}, **fields}
    return msgspec.json.decode(json.dumps({k: v for k, v in given.items() if v is not ...}), type=PublishRequest)


@pytest.mark.parametrize("topic", ["live:a", "live:a.b_c:d-1", "live:" + "x" * 64])
def test_topics(topic: str) -> None:
    assert is_live_topic(topic)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "live",
        "live:",
        "live:" + "x" * 65,
        "Live:a",
        "live:a b",
        "live:a\n",
        "live:ä",
        "video:1",
        "live:*",
        "live:a\0",
    ],
)
def test_no_topics(topic: str) -> None:
    assert not is_live_topic(topic)


async def test_the_envelope(pool: asyncpg.Pool) -> None:
    topics = Topics()
    handler = handler_on(pool, topics)
    answer = await handler.publish_event("scores", event(data={"b": 1.5, "a": ["é", None]}))
    assert answer == PublishAnswer(0, 0)
    await handler.publish_event(
        "scores", event(id="e2", eventType="match:goal", timestamp="2025-12-23T14:00:00+02:00", ephemeral=True)
    )
    (topic, first), (_, second) = topics.sent
    assert topic == "live:match"
    timestamp = first.pop("timestamp")
    assert first == {
        "id": "e1", "seq": None, "type": "goal", "eventType": "notification:goal", "recipientIds": [],
        "data": {"b": 1.5, "a": ["é", None]},
    }  # fmt: skip
    assert timestamp.endswith("Z")
    assert len(timestamp) == len("2025-12-23T12:00:00.000Z")
    assert (second["eventType"], second["timestamp"]) == ("match:goal", "2025-12-23T12:00:00.000Z")


async def test_a_repetition_sends_nothing_and_answers_the_same(pool: asyncpg.Pool) -> None:
    topics = Topics()
    handler = handler_on(pool, topics)
    same = [event(), event(source="scores"), PublishRequest(**msgspec.structs.asdict(event()))]
    answers = await asyncio.gather(*(handler.publish_event("scores", request) for request in same * 3))
    assert set(map(str, answers)) == {str(PublishAnswer(0, 0))}
    assert len(topics.sent) == 1
    await handler.publish_event("other", event())
    await handler.publish_event("scores", event(source="third"))
    assert len(topics.sent) == 3


async def test_another_body_under_the_same_key_is_a_conflict(pool: asyncpg.Pool) -> None:
    topics = Topics()
    handler = handler_on(pool, topics)
    await handler.publish_event("scores", event())
    others: list[dict[str, Any]] = [
        {"data": {"score": 2}},
        {"type": "foul"},
        {"topic": "live:other"},
        {"eventType": "x"},
        {"data": {}},
    ]
    for other in others:
        with pytest.raises(Refusal) as refused:
            await handler.publish_event("scores", event(**other))
        assert refused.value.code == "idempotency_conflict"
    assert len(topics.sent) == 1


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"topic": ...}, "invalid_payload", "topic"),
    ({"topic": "video:1"}, "invalid_payload", "topic"),
    ({"recipientIds": [7]}, "invalid_payload", "recipientIds"),
    ({"ephemeral": False}, "invalid_payload", "ephemeral"),
    ({"data": {"a": "x\0y"}}, "invalid_payload", "data"),
    ({"data": {"a\0": 1}}, "invalid_payload", "data"),
    ({"data": {"a": "\\\0"}}, "invalid_payload", "data"),
    ({"data": {"a": "x" * MAX_EVENT_BYTES}}, "payload_too_large", "data"),
    ({"type": "points_earned"}, "invalid_payload", "type"),
    ({"eventType": "wallet:points:earned"}, "invalid_payload", "eventType"),
    ({"timestamp": "0001-01-01T00:00:00+23:00"}, "invalid_payload", "timestamp"),
]


async def test_refusals_leave_no_trace(pool: asyncpg.Pool) -> None:
    topics = Topics()
    handler = handler_on(pool, topics)
    for fields, code, field in REFUSED:
        with pytest.raises(Refusal) as refused:
            await handler.publish_event("scores", event(**fields))
        assert (refused.value.code, refused.value.field) == (code, field)
    await handler.publish_event("scores", event(data={"a": "\\u0000 is no NUL"}))
    assert len(topics.sent) == 1
