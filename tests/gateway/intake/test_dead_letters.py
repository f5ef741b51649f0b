"""Letters fit Kafka's usual megabyte whatever the record was: one that does not would stop its partition for ever."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

import msgspec
import pytest

from gateway.intake.dead_letters import KEPT_BYTES, MOST_BYTES, DeadLetters, Unread
from gateway.intake.sender import Record, Sender
from gateway.intake.wire import Letter

MEGABYTE = 1_000_000


class Written(NamedTuple):
    key: bytes | None
    value: bytes | None
    topic: str = "t.events"
    partition: int = 3
    offset: int = 7


class Post(Sender):
    """Keeps what it was to send."""

    def __init__(self) -> None:
        self.sent: list[Record] = []

    async def send(self, records: Any) -> None:
        self.sent += records


async def letter(record: Written, reason: str = "So.") -> Letter:
    post = Post()
    await DeadLetters(post).send([Unread(record, reason)])
    [(key, body)] = post.sent
    assert len(key) + len(body) < MEGABYTE
    assert key == b"t.events/3"
    return msgspec.json.decode(body, type=Letter)


async def test_a_letter_has_the_record_as_it_was_and_where_it_stands() -> None:
    told = await letter(Written(b"\xff", b"{"))
    assert told == Letter("So.", "t.events", 3, 7, base64.b64encode(b"\xff").decode(), base64.b64encode(b"{").decode())
    assert await letter(Written(None, None)) == Letter("So.", "t.events", 3, 7, None, None)
    half = b"x" * (MOST_BYTES // 2)
    told = await letter(Written(half, half))
    assert (told.key, told.value) == (base64.b64encode(half).decode(),) * 2


@pytest.mark.parametrize(("key", "value"), [(1, 900_000), (900_000, 1), (500_000, 500_000), (900_000, None)])
async def test_of_too_much_there_is_the_beginning(key: int, value: int | None) -> None:
    told = await letter(Written(b"k" * key, None if value is None else b"v" * value))
    assert told.key == base64.b64encode(b"k" * min(key, KEPT_BYTES)).decode()
    assert told.value == (None if value is None else base64.b64encode(b"v" * min(value, KEPT_BYTES)).decode())
    assert told.reason.startswith("So. (too long for a letter")


async def test_a_reason_that_quotes_the_record_is_cut() -> None:
    told = await letter(Written(b"k", b"v" * MOST_BYTES), "Object contains unknown field `" + "\x01" * MOST_BYTES)
    assert told.reason.startswith("Object contains unknown field `\x01")
