"""Notices: what nodes say to each other; over PostgreSQL as text that fits NOTIFY. Pure: no I/O, no clock.

A notice is `<node> <number> <JSON>`. The node stands in front so that its own notices, which PostgreSQL hands back to
it, cost it no decoding; the number makes each unlike all others, since PostgreSQL keeps only one of equal
notices of a transaction.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import count

import msgspec

from fanout.broker import Listeners

PAYLOAD_MAX = 7_999  # bytes: PostgreSQL refuses 8,000 and more
HEADS_PER_NOTICE = 200  # a pair takes at most 16 + 16 digits and four signs, so 200 stay below PAYLOAD_MAX
HEADS_MAX = 400  # more at once are told as "compare": every node would walk most of them in vain
EPHEMERAL_MAX = 1_000  # messages to topics and users that wait to be sent; the oldest go first
EPHEMERAL_BYTES_MAX = 8_388_608  # bytes of them
ID_BYTES = 17  # of a user's id in a list, at most
REPLACED_MAX = 1_000


class Heads(msgspec.Struct, frozen=True, array_like=True, tag="heads"):
    pairs: list[tuple[int, int]]


class Events(msgspec.Struct, frozen=True, array_like=True, tag="events"):
    """(user, seq, envelope) of whole events."""

    events: list[tuple[int, int, msgspec.Raw]]


class Compare(msgspec.Struct, frozen=True, array_like=True, tag="compare"):
    pass


class Topic(msgspec.Struct, frozen=True, array_like=True, tag="topic"):
    topic: str
    envelope: msgspec.Raw


class Users(msgspec.Struct, frozen=True, array_like=True, tag="users"):
    user_ids: list[int]
    envelope: msgspec.Raw
    topic: str | None = None  # nodes of before it was there leave it out


class Replaced(msgspec.Struct, frozen=True, array_like=True, tag="replaced"):
    user_id: int
    device_id: str
    generation: int


class Large(msgspec.Struct, frozen=True, array_like=True, tag="large"):
    """Says where a notice stands that is too big: in `large_notices`."""

    id: int


Notice = Heads | Events | Compare | Topic | Users | Replaced | Large


class Wording:
    """Writes and reads the notices of one node."""

    def __init__(self, node: str) -> None:
        if not node or " " in node:
            raise ValueError(f"a node's name is one word, not {node!r}")
        self._own = f"{node} "
        self._numbers = count(1)
        self._decoder: msgspec.json.Decoder[Notice] = msgspec.json.Decoder(Notice)

    def write(self, notice: Notice) -> str:
        return f"{self._own}{next(self._numbers)} {msgspec.json.encode(notice).decode()}"

    def read(self, text: str) -> Notice | None:
        """None for what this node has said itself. Raises `ValueError` for what is no notice, or one of a newer
        version: msgspec's errors are `ValueError`s."""
        if text.startswith(self._own):
            return None
        head, _, body = text.partition(" ")
        number, _, body = body.partition(" ")
        if not (head and number.isdigit()):
            raise ValueError("not a notice")
        return self._decoder.decode(body)


def tell(notice: Notice, listeners: Listeners) -> None:
    """Calls the listener that a notice is for. `Large` has none: fetch what it stands for."""
    match notice:
        case Heads(pairs):
            listeners.on_heads(pairs)
        case Events(events):
            listeners.on_events([(user_id, seq, bytes(envelope)) for user_id, seq, envelope in events])
        case Compare():
            listeners.on_compare()
        case Topic(topic, envelope):
            listeners.on_topic(topic, bytes(envelope))
        case Users(user_ids, envelope, topic):
            listeners.on_users(user_ids, bytes(envelope), topic)
        case Replaced(user_id, device_id, generation):
            listeners.on_replaced(user_id, device_id, generation)


class Gathered:
    """What waits to be said. Bounded: many heads become one `Compare`, and the oldest ephemeral messages and replaced
    devices give way."""

    def __init__(self, heads_max: int = HEADS_MAX) -> None:
        self._heads_max = heads_max
        self._heads: dict[int, int] = {}
        self._compare = False
        self._ephemeral: deque[Topic | Users] = deque()
        self._ephemeral_bytes = 0
        self._replaced: dict[tuple[int, str], int] = {}

    def __bool__(self) -> bool:
        return bool(self._heads or self._compare or self._ephemeral or self._replaced)

    def add_heads(self, heads: list[tuple[int, int]]) -> None:
        if self._compare:
            return
        for user_id, seq in heads:
            self._heads[user_id] = max(seq, self._heads.get(user_id, 0))
        if len(self._heads) > self._heads_max:
            self.add_compare()

    def add_compare(self) -> None:
        self._compare = True
        self._heads = {}

    def add_topic(self, topic: str, envelope: bytes) -> None:
        self._add_ephemeral(Topic(topic, msgspec.Raw(envelope)))

    def add_users(self, user_ids: Sequence[int], envelope: bytes, topic: str | None = None) -> None:
        if user_ids:
            self._add_ephemeral(Users(list(user_ids), msgspec.Raw(envelope), topic))

    def _add_ephemeral(self, message: Topic | Users) -> None:
        self._ephemeral.append(message)
        self._ephemeral_bytes += _size(message)
        while len(self._ephemeral) > EPHEMERAL_MAX or self._ephemeral_bytes > EPHEMERAL_BYTES_MAX:
            self._ephemeral_bytes -= _size(self._ephemeral.popleft())

    def add_replaced(self, user_id: int, device_id: str, generation: int) -> None:
        known = self._replaced.pop((user_id, device_id), 0)
        self._replaced[user_id, device_id] = max(known, generation)
        if len(self._replaced) > REPLACED_MAX:
            del self._replaced[next(iter(self._replaced))]

    def notices(self) -> list[Notice]:
        """All of it, to be written one by one."""
        said: list[Notice] = [Compare()] if self._compare else []
        pairs = list(self._heads.items())
        said += [Heads(pairs[i : i + HEADS_PER_NOTICE]) for i in range(0, len(pairs), HEADS_PER_NOTICE)]
        said += [Replaced(user, device, generation) for (user, device), generation in self._replaced.items()]
        said += self._ephemeral
        return said


def _size(message: Topic | Users) -> int:
    users = ID_BYTES * len(message.user_ids) if isinstance(message, Users) else 0
    return len(bytes(message.envelope)) + users
