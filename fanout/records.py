"""Records: what nodes tell each other through Kafka, and to which of them. Pure: no I/O, no clock.

A record's key says whom it concerns, so that nobody else reads on; its value is a JSON list of notices.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple

import msgspec

from fanout.broker import Announced
from fanout.notices import Events, Gathered, Heads, Notice, Replaced, Topic, Users
from fanout.presence import Peer, Where

FOR_ALL: Final = b"*"  # and the family that says so, which does not listen to itself
FOR_ONE: Final = b"="  # and the incarnation that it is for
BEAT: Final = b"~"  # and the node that says so to itself

EVENTS_MAX: Final = 10_000  # that wait to be said; more are told as "compare"
EVENT_BYTES_MAX: Final = 8 * 2**20  # of them at once; the others are told as heads
RECORD_BYTES: Final = 500_000  # a record is ended when it has as many
PAIR_BYTES: Final = 40

_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final[msgspec.json.Decoder[list[Notice]]] = msgspec.json.Decoder(list[Notice])


class Record(NamedTuple):
    """`partition` as its reader has it; 0 is everybody's."""

    partition: int
    key: bytes
    value: bytes


class Outbox:
    """What waits to be said. Bounded: too many events become one `Compare`."""

    def __init__(self) -> None:
        self.events: list[Announced] = []
        self.others = Gathered()
        self.dropped = 0
        self.compares = False

    def __bool__(self) -> bool:
        return bool(self.events or self.others)

    def add_events(self, events: Collection[Announced]) -> None:
        if self.compares or len(self.events) + len(events) > EVENTS_MAX:
            self.dropped += len(events)
            self.add_compare()
        else:
            self.events.extend(events)

    def add_compare(self) -> None:
        """Instead of all events that wait, and of those that come."""
        self.compares = True
        self.others.add_compare()
        self.dropped += len(self.events)
        self.events = []

    def user_ids(self) -> set[int]:
        """Everybody whom something of it is for."""
        found = {event.user_id for event in self.events}
        for notice in self.others.notices():
            if isinstance(notice, Users):
                found.update(notice.user_ids)
            elif isinstance(notice, Replaced):
                found.add(notice.user_id)
        return found


def records(outbox: Outbox, where: Where | None, family: str) -> Iterator[Record]:
    """One for each node that is concerned, and one for all; more where they would be very big. What concerns most nodes
    is for all, and so is everything where it is not known who is (`where` is None)."""
    parcels: dict[Peer | None, _Parcel] = {}

    def parcel(peer: Peer | None) -> _Parcel:
        if peer not in parcels:
            parcels[peer] = _Parcel()
        return parcels[peer]

    room = EVENT_BYTES_MAX
    for event in outbox.events:
        for peer in _concerned(where, (event.user_id,)):
            room -= parcel(peer).add_event(event, whole=room > 0)
    for notice in outbox.others.notices():
        if isinstance(notice, Users):
            for peer in _concerned(where, notice.user_ids):
                parcel(peer).add(_of_one(notice, peer, where), len(bytes(notice.envelope)))
        elif isinstance(notice, Replaced):
            for peer in _concerned(where, (notice.user_id,)):
                parcel(peer).add(notice, 0)
        else:
            parcel(None).add(notice, len(bytes(notice.envelope)) if isinstance(notice, Topic) else 0)
    for peer, each in parcels.items():
        partition, key = (0, FOR_ALL + family.encode()) if peer is None else (peer.partition, _key_of(peer))
        for notices in each.records():
            yield Record(partition, key, _ENCODER.encode(notices))


def read(value: bytes) -> list[Notice]:
    """Raises ValueError for what is no list of notices, or one of a newer version."""
    return _DECODER.decode(value)


def _key_of(peer: Peer) -> bytes:
    return FOR_ONE + peer.incarnation.encode()


def _concerned(where: Where | None, user_ids: Iterable[int]) -> Collection[Peer | None]:
    """None stands for everybody."""
    if where is None:
        return (None,)
    concerned: set[Peer | None] = set(where.unsure)
    for user_id in user_ids:
        concerned.update(where.holders.get(user_id, ()))
    return (None,) if len(concerned) > 1 and 2 * len(concerned) > where.peers else concerned


def _of_one(notice: Users, peer: Peer | None, where: Where | None) -> Users:
    """With those users that concern it."""
    if peer is None or where is None or peer in where.unsure:
        return notice
    concerned = [each for each in notice.user_ids if peer in where.holders.get(each, ())]
    return Users(concerned, notice.envelope, notice.topic)


class _Parcel:
    """What is for one reader."""

    def __init__(self) -> None:
        self._done: list[list[Notice]] = []
        self._begin()

    def _begin(self) -> None:
        self._events: list[tuple[int, int, msgspec.Raw]] = []
        self._heads: list[tuple[int, int]] = []
        self._rest: list[Notice] = []
        self._bytes = 0

    def add_event(self, event: Announced, *, whole: bool) -> int:
        """Its size, where it is told whole."""
        if not whole:
            self._heads.append((event.user_id, event.seq))
            self._grow(PAIR_BYTES)
            return 0
        envelope = event.envelope
        self._events.append((event.user_id, event.seq, msgspec.Raw(envelope)))
        self._grow(len(envelope) + PAIR_BYTES)
        return len(envelope)

    def add(self, notice: Notice, size: int) -> None:
        self._rest.append(notice)
        self._grow(size + PAIR_BYTES * (len(notice.user_ids) if isinstance(notice, Users) else 1))

    def _grow(self, size: int) -> None:
        self._bytes += size
        if self._bytes >= RECORD_BYTES:
            self._end()

    def _end(self) -> None:
        notices: list[Notice] = []
        if self._events:
            notices.append(Events(self._events))
        if self._heads:
            notices.append(Heads(self._heads))
        if notices or self._rest:
            self._done.append([*notices, *self._rest])
        self._begin()

    def records(self) -> list[list[Notice]]:
        self._end()
        return self._done
