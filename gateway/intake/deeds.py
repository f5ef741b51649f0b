"""A partition whose records are deeds of the lane."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from aiokafka.structs import ConsumerRecord

from gateway.counts import code_of
from gateway.intake.counts import OK, REPEATED
from gateway.intake.partition import FAULT_OF_OURS, At, Partition, Tools
from gateway.intake.records import DeedOf
from gateway.intake.room import Room
from gateway.lane import Lane
from handlers.deed import GIVEN_UP, Deed, Place
from handlers.errors import Refusal

OVERLOADED_S: Final = 0.05
INTERNAL: Final = "internal"


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
        self._under_way: deque[Deed] = deque()
        self._next = stored  # where the partition will stand before the next deed
        self._records_of = tools.counts.records

    @property
    def is_under_way(self) -> bool:
        return bool(self._under_way)

    def _read(self, record: ConsumerRecord[bytes, bytes]) -> Deed:
        return self._work.deed_of(record.value or b"", order_key=self, answer=self._answered)

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
        self._under_way.append(deed)
        deed.received_at = asyncio.get_running_loop().time()
        while True:
            try:
                return self._work.lane.submit(deed)
            except Refusal:  # `overloaded`, by others
                await asyncio.sleep(OVERLOADED_S)

    def _answered(self, ack: bytes) -> None:
        """What the lane says of the oldest that is under way."""
        deed = self._under_way.popleft()
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

    def _move_to(self, stored: int) -> None:
        super()._move_to(stored)
        if not self._under_way:
            self._next = stored

    def withdraw(self) -> None:
        """It is another's now: what waits of it is given up."""
        self.lose()
        self._work.lane.withdraw(self)
