"""One partition of Kafka's that is this node's for now: its records in their order."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

import structlog
from aiokafka.structs import ConsumerRecord

from fanout.tasks import Backoff
from gateway.intake.counts import DEAD_LETTER, LETTERS_AWAY, OUT_OF_RANGE, IntakeCounts
from gateway.intake.dead_letters import DeadLetters, Unread
from gateway.intake.offsets import Offsets
from gateway.intake.records import Unreadable
from gateway.intake.sender import NotSent
from gateway.intake.topics import DEAD_LETTERS
from storage.ingress import Step

log = structlog.get_logger()

FAULT_OF_OURS: Final = "This record can't be carried out: a fault of Applause's, whose log has more."

# Records that are decoded before others have their turn. The lane waits for the database half a dozen times a batch;
# an answer that came in the middle of 50 records of each of 8 partitions was 10 ms late.
YIELD_EVERY: Final = 10
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
LOOK_FOR_REPAIR_S: Final = 2.0


class At(NamedTuple):
    """Which one it is, and what its topic is for."""

    topic: str
    number: int
    kind: str


class Reader(Protocol):
    """gateway.intake.member.Member: whoever hands records over."""

    def seek(self, partition: Partition, offset: int) -> None:
        """Hand over the records from that offset on, where the partition is still this node's."""
        ...

    def look(self) -> None:
        """A partition may have become hungry."""
        ...


class Tools(NamedTuple):
    """What all partitions share."""

    reader: Reader
    offsets: Offsets
    letters: DeadLetters
    counts: IntakeCounts
    decoding: asyncio.Lock  # one partition at a time, in small helpings


class Partition(abc.ABC):
    """Records are handed over by the reader; `run` takes them in.

    `stored` is where the partition stands in the database, as far as known here; below `reached` nothing is left to be
    done here. In between are records on their way, and those that came to nothing.
    """

    def __init__(self, at: At, stored: int, tools: Tools) -> None:
        self.at = at
        self.stored = self.reached = stored
        self.paused: str | None = None  # why it does not go on, where somebody has to do something
        self._tools = tools
        self._records: Sequence[ConsumerRecord[bytes, bytes]] = ()
        self._cant: dict[int, str] = {}  # offsets of records that were read and failed, and why
        self._lost = False  # it does not stand where it was believed to: begin again from what is stored
        self._losses = Backoff(first=FIRST_PAUSE_S, most=LONGEST_PAUSE_S)
        self._news = asyncio.Event()

    @property
    def is_hungry(self) -> bool:
        """Whether it may be handed records."""
        return not self._records and not self._lost and self.paused is None

    @property
    def is_idle(self) -> bool:
        """Whether everything that it was handed is stored."""
        return self.is_hungry and not self.is_under_way and self.stored == self.reached

    @property
    @abc.abstractmethod
    def is_under_way(self) -> bool:
        """Whether records are being carried out."""

    def hand(self, records: Sequence[ConsumerRecord[bytes, bytes]]) -> None:
        """The next records. Whoever is about to begin again will have them read again."""
        if self.is_hungry:
            self._records = records
            self._news.set()

    def skip_to(self, offset: int) -> None:
        """There is nothing for us below that offset: Kafka's own marks, and what was deleted. Only while it is idle."""
        self.reached = max(self.reached, offset)
        self._news.set()

    def lose(self) -> None:
        """It does not stand where it was believed to."""
        self._lost = True
        self._news.set()

    def stop_out_of_range(self, offset: int) -> None:
        """Kafka has no such offset any more, or not yet: records are lost, so a person has to say how to go on."""
        if self.paused is None:
            log.error("intake_paused", topic=self.at.topic, partition=self.at.number, offset=offset, why=OUT_OF_RANGE)
        self.paused = OUT_OF_RANGE
        self._news.set()

    async def run(self) -> None:
        """Take in what is handed over, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self.paused == OUT_OF_RANGE:
                await self._wait_for_repair()
            if self._lost:
                await self._begin_again()
            elif self._records:
                await self._take(self._records)
                self._records = ()
                self._tools.reader.look()
            await self._pass_over()

    # -- records -----------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _read(self, record: ConsumerRecord[bytes, bytes]) -> Any:
        """What the record says. Raises Unreadable."""

    @abc.abstractmethod
    async def _carry_out(self, read: Sequence[tuple[ConsumerRecord[bytes, bytes], Any]]) -> None:
        """Have these carried out, or under way, in their order; or `lose`."""

    async def _take(self, records: Sequence[ConsumerRecord[bytes, bytes]]) -> None:
        read: list[tuple[ConsumerRecord[bytes, bytes], Any]] = []
        unread: list[Unread] = []
        async with self._tools.decoding:
            for number, record in enumerate(records, start=1):
                if record.offset < self.reached:
                    continue
                try:
                    if record.offset in self._cant:
                        raise Unreadable(self._cant[record.offset])
                    read.append((record, self._read(record)))
                except Unreadable as why:
                    unread.append(Unread(record, str(why)))
                if number % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
        if unread:
            await self._bury(unread)
        await self._carry_out(read)
        if not self._lost:
            self.reached = max(self.reached, records[-1].offset + 1)

    async def _bury(self, unread: Sequence[Unread]) -> None:
        """Return when Kafka has their letters. Until then the partition does not go on."""
        backoff = Backoff(first=FIRST_PAUSE_S, most=LONGEST_PAUSE_S)
        counts = self._tools.counts
        while True:
            try:
                await self._tools.letters.send(unread)
                break
            except NotSent as error:
                counts.failed_sends[DEAD_LETTERS] += len(unread)
                if self.paused is None:
                    self.paused = LETTERS_AWAY
                    log.error(
                        "intake_paused", topic=self.at.topic, partition=self.at.number,
                        offset=unread[0].record.offset, why=LETTERS_AWAY, error=str(error),
                    )  # fmt: skip
            await asyncio.sleep(backoff.next())
        self._go_on()
        counts.sent[DEAD_LETTERS] += len(unread)
        counts.records[self.at.kind, DEAD_LETTER] += len(unread)
        for each in unread:
            self._cant.pop(each.record.offset, None)

    def _go_on(self) -> None:
        if self.paused is not None:
            log.warning("intake_goes_on", topic=self.at.topic, partition=self.at.number)
            self.paused = None
            self._tools.reader.look()

    # -- where it stands ---------------------------------------------------------------------------------------------

    async def _pass_over(self) -> None:
        """Move over what came to nothing, once nothing is under way."""
        if self._lost or self.is_under_way or self._records or self.reached == self.stored:
            return
        step = Step(self.at.topic, self.at.number, self.stored, self.reached)
        if await self._tools.offsets.pass_over(step):
            self._move_to(step.after)
        else:
            self.lose()

    async def _begin_again(self) -> None:
        """From what is stored, once nothing is under way any more."""
        if self.is_under_way:
            return
        await asyncio.sleep(self._losses.next())
        await self._go_to(await self._stored())
        self._tools.counts.begun_again += 1

    async def _wait_for_repair(self) -> None:
        """A person moves the partition in the database."""
        while (stored := await self._stored()) == self.stored:
            await asyncio.sleep(LOOK_FOR_REPAIR_S)
        await self._go_to(stored)
        self._go_on()

    async def _stored(self) -> int:
        partition = self.at[:2]
        return (await self._tools.offsets.fetch([partition]))[partition]

    async def _go_to(self, stored: int) -> None:
        self._records = ()
        self._stand_at(stored)
        self.reached = stored
        self._lost = False
        self._tools.reader.seek(self, stored)
        self._tools.reader.look()

    def _move_to(self, stored: int) -> None:
        """We have moved it there: it is ours after all."""
        self._stand_at(stored)
        self._losses.reset()

    def _stand_at(self, stored: int) -> None:
        """It stands there now."""
        self.stored = stored
