"""Dead letters: records that could not be read, as they were, with the reason and where they stand."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from gateway.intake.sender import Record, Sender
from gateway.intake.wire import Letter
from handlers.wire import encode

# A letter that doesn't fit Kafka's usual megabyte would stop its partition for ever.
MOST_BYTES: Final = 640 * 1024  # of key and value together; in base64 they still fit
# Of each, where they don't; the whole is where the letter says, as long as Kafka keeps it.
KEPT_BYTES: Final = 64 * 1024
MOST_REASON: Final = 1_000  # characters; it may quote the record


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
    reason, key, value = reason[:MOST_REASON], record.key, record.value
    if len(key or b"") + len(value or b"") > MOST_BYTES:
        reason += f" (too long for a letter: at most {KEPT_BYTES} bytes of each, key and value, are here)"
        key, value = key and key[:KEPT_BYTES], value and value[:KEPT_BYTES]
    letter = Letter(reason, record.topic, record.partition, record.offset, _base64(key), _base64(value))
    return f"{record.topic}/{record.partition}".encode(), encode(letter)


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()
