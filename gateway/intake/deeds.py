"""A partition whose records are deeds of the lane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from aiokafka.structs import ConsumerRecord

from fanout.tasks import set_or_late
from gateway.counts import code_of
from gateway.intake.counts import OK, REPEATED
from gateway.intake.partition import FAULT_OF_OURS, At, Partition, Tools
from gateway.intake.records import DeedOf
from gateway.lane import Lane
from handlers.deed import GIVEN_UP, Deed, Place
from handlers.errors import Refusal

OVERLOADED_S: Final = 0.05
ROOM_S: Final = 1.0
INTERNAL: Final = "internal"


class Room:
    """How much of Kafka's may be in the lane at once: so much weight, all partitions together; what is heavier than all
    of it goes in alone. The lane stays short for others, and while one batch is carried out the next is made ready."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._freed = asyncio.Event()

    def is_full(self) -> bool:
        """Whether the next one has to wait."""
        return self._taken >= self._size

    def take(self, weight: int) -> None:
        """Somebody goes in."""
        self._taken += weight

    def give(self, weight: int) -> None:
        """And comes out."""
        self._taken -= weight
        if not self.is_full():
            self._freed.set()

    async def wait(self) -> None:
        """Return when somebody has come out since, or after a moment."""
        self._freed.clear()
        await set_or_late(self._freed, ROOM_S)


class Work(NamedTuple):
    """How a topic's records are carried out: `deed_of` makes the deeds; `answered`, where there is one, is told when
    answers wait to be sent."""

    lane: Lane
    room: Room
    deed_of: DeedOf
    answered: Callable[[], None] | None


class DeedPartition(Partition):
    """The lane answers a partition's deeds in their order, and moves the partition with them."""

    def __init__(self, at: At, stored: int, tools: Tools, work: Work) -> None:
        super().__init__(at, stored, tools)
        self._work = work
        self._under_way = 0
        self._next = stored  # where the partition will stand before the next deed
        self._records_of = tools.counts.records

    @property
    def is_under_way(self) -> bool:
        return self._under_way > 0

    def _read(self, record: ConsumerRecord[bytes, bytes]) -> Deed:
        deed = self._work.deed_of(record.value or b"", order_key=self)
        deed.answer = partial(self._answered, deed)
        return deed

    async def _carry_out(self, read: Sequence[tuple[ConsumerRecord[bytes, bytes], Deed]]) -> None:
        topic, number, _ = self.at
        room, is_answered = self._work.room, self._work.answered is not None
        for record, deed in read:
            while room.is_full():
                await room.wait()
            if self._lost:
                return
            after = record.offset + 1
            deed.place = Place(topic, number, self._next, after, is_answered)
            self._next = after
            await self._submit(deed)

    async def _submit(self, deed: Deed) -> None:
        self._work.room.take(deed.weight)
        self._under_way += 1
        deed.received_at = asyncio.get_running_loop().time()
        while True:
            try:
                return self._work.lane.submit(deed)
            except Refusal:  # `overloaded`, by others
                await asyncio.sleep(OVERLOADED_S)

    def _answered(self, deed: Deed, ack: bytes) -> None:
        """What the lane says: in the deeds' order, but that those withdrawn are answered while earlier ones run."""
        self._under_way -= 1
        self._work.room.give(deed.weight)
        assert deed.place is not None
        code = code_of(ack) if ack else None
        if ack == GIVEN_UP or code == INTERNAL:
            if code == INTERNAL:
                self._cant[deed.place.after - 1] = FAULT_OF_OURS
            self.lose()
        else:
            self._move_to(deed.place.after)
            self._records_of[self.at.kind, code or (REPEATED if deed.is_replay else OK)] += 1
            if self._work.answered is not None:
                self._work.answered()
        if not self._under_way:
            self._news.set()

    def _stand_at(self, stored: int) -> None:
        super()._stand_at(stored)
        if not self._under_way:
            self._next = stored

    def withdraw(self) -> None:
        """It is another's now: what waits of it is given up."""
        self.lose()
        self._work.lane.withdraw(self)
