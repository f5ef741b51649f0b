"""An action on its way through the lane, and what becomes of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast
from uuid import UUID

import msgspec
import uuid_utils

from handlers.errors import Refusal

if TYPE_CHECKING:
    from asyncpg import Connection

    from storage.inbox import Event

_CANONICAL = msgspec.json.Encoder(order="sorted")
_NAMESPACE: Final = uuid_utils.UUID("6f4d1a5e-c0a6-4f0c-9a3b-e2a1d7c0a9f1")  # any constant of ours (RFC 9562, 5.5)


# In place of an acknowledgement: the deed was not carried out, since its record's partition is taken in elsewhere.
GIVEN_UP: Final = b""


class Place(NamedTuple):
    """Where a deed's record stands in Kafka. In the deed's transaction the partition is moved from `before`, where it
    must stand, to `after`; else the deed is given up."""

    topic: str
    partition: int
    before: int
    after: int
    is_answered: bool  # its acknowledgement is sent to its source


class Deed:
    """One action of one caller, whichever door it came through.

    `user_id` acts, or where a backend does (`subject`) is whom it is about (0: nobody in particular); request keys are
    the caller's own. `weight`: so many rows of others it takes as long as.
    `answer` is called exactly once, with the acknowledgement's JSON. `order_key` names what must keep its order: the
    connection, or Kafka's partition; None where nothing does. What has a `place` waits for as long as it takes, and may
    be answered with GIVEN_UP.
    """

    __slots__ = (
        "action_id",
        "answer",
        "attempted",
        "event",
        "fingerprint",
        "is_replay",
        "order_key",
        "place",
        "received_at",
        "request",
        "subject",
        "user_id",
        "weight",
    )

    def __init__(
        self,
        *,
        user_id: int,
        event: str,
        request: Any,
        fingerprint: bytes,
        received_at: float,
        order_key: object | None,
        answer: Callable[[bytes], None],
        subject: str | None = None,
        weight: int = 1,
        place: Place | None = None,
    ) -> None:
        self.user_id = user_id
        self.weight = weight
        self.place = place
        self.subject = subject
        self.event = event
        self.request = request
        self.action_id: str = request.action_id
        self.fingerprint = fingerprint
        self.received_at = received_at
        self.order_key = order_key
        self.answer = answer
        self.attempted = False  # a COMMIT with it was sent whose fate is unknown
        self.is_replay = False  # its key was taken before any such COMMIT


def fingerprint(event: str, payload: bytes | msgspec.Raw) -> bytes:
    """What tells an action from another with the same key: event name and payload as sent, canonically
    encoded, so that the order of keys does not matter."""
    canonical = _CANONICAL.encode(msgspec.json.decode(payload))
    return hashlib.blake2b(event.encode() + b"\0" + canonical, digest_size=16).digest()


# Ids are made by the library of the compiled ones, whose text and bytes are the same as the standard library's: a
# twentieth of the time, and there is one for each entry and event.


def derived_id(origin: str) -> UUID:
    """The id of something that an action creates, from the name of its request key (UUIDv5), so that a
    retry can't make a second one."""
    return cast("UUID", uuid_utils.uuid5(_NAMESPACE, origin))


def uuid_of(data: bytes) -> UUID:
    """16 bytes as an id."""
    return cast("UUID", uuid_utils.UUID(bytes=data))


def fresh_id() -> UUID:
    """The id of something that no action of its own creates (UUIDv7)."""
    return cast("UUID", uuid_utils.uuid7())


class Answer(NamedTuple):
    """The outcome of one deed: the ack's JSON, or the refusal; None means: in the next batch."""

    deed: Deed
    outcome: bytes | Refusal | None


class Delivered(NamedTuple):
    """One event that was committed, for its recipient's connections. It is rendered only where there are any."""

    user_id: int
    seq: int
    row: Event


def delivered(rows: Sequence[Event]) -> list[Delivered]:
    """The rows as events, each user's in the order of `seq`."""
    return sorted(Delivered(row.user_id, row.seq, row) for row in rows)


class BatchResult(NamedTuple):
    """What a handler made of a batch, valid once its transaction has committed. `afterwards` is what to do then, after
    the answers: telling of what nobody keeps."""

    answers: list[Answer]
    events: list[Delivered]
    afterwards: Sequence[Callable[[], None]] = ()


class Concern(Protocol):
    """What a handler found out before the locks; opaque to the lane but for the heads it needs."""

    @property
    def user_ids(self) -> set[int]:
        """Users whose heads the batch locks."""
        ...


class DeedHandler(Protocol):
    """A domain whose deeds run in batches: resolve, then the lane locks, then read, decide and write."""

    async def resolve(self, conn: Connection, deeds: Sequence[Deed]) -> Concern:
        """Find out, unlocked, whom the deeds concern."""
        ...

    async def run(self, conn: Connection, deeds: Sequence[Deed], concern: Any, heads: dict[int, int]) -> BatchResult:
        """Read, decide and write the deeds under the locked heads (user id -> seq), in one transaction."""
        ...
