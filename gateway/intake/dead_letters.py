"""Dead letters: records that could not be read, as they were, with the reason and where they stand."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from gateway.intake.sender import Record, Sender

MOST_VALUE_BYTES: Final = 640 * 1024  # in base64 it still fits Kafka's usual megabyte
KEPT_BYTES: Final = 64 * 1024  # of a larger one; the whole is where the letter says, as long as Kafka keeps it


class Origin(Protocol):
    """aiokafka's ConsumerRecord."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...


class Unread(NamedTuple):
    """A record and what is wrong with it."""

    record: Origin
    reason: str


class Letter(msgspec.Struct):
    """What is written. Bytes are in base64."""

    reason: str
    topic: str
    partition: int
    offset: int
    key: str | None
    value: str | None


class DeadLetters:
    """Writes them; those of one partition in their order."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    async def send(self, unread: Sequence[Unread]) -> None:
        """Return when Kafka has all of them. Raises NotSent."""
        await self._sender.send([_as_record(each) for each in unread])

    async def close(self) -> None:
        """End."""
        await self._sender.close()


def _as_record(unread: Unread) -> Record:
    record, reason = unread
    value = record.value
    if value is not None and len(value) > MOST_VALUE_BYTES:
        reason += f" (of {len(value)} bytes only the first {KEPT_BYTES} are here)"
        value = value[:KEPT_BYTES]
    letter = Letter(reason, record.topic, record.partition, record.offset, _base64(record.key), _base64(value))
    return f"{record.topic}/{record.partition}".encode(), msgspec.json.encode(letter)


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()
