"""This node as a member of the consumer group: which partitions are its own, their records, and how far they are."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, Final, NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, OffsetOutOfRangeError

from fanout.kafka import AWAY, Kafka, bury, commit, start
from fanout.tasks import end, set_or_late
from gateway.intake.counts import IntakeCounts
from gateway.intake.deeds import DeedPartition
from gateway.intake.offsets import Offsets
from gateway.intake.partition import At, Partition

log = structlog.get_logger()

HEARTBEATS: Final = 4  # at least, in the time after which the group takes a member for dead
HEARTBEAT_MS: Final = 1_000  # and no rarer than that: until all have heard of somebody's coming or going nobody reads
GRACE_MS: Final = 5_000  # a request waits longer than the group may take to gather
NEVER_MS: Final = 2**31 - 1  # who has records in hand and waits for the database is no less alive
POLL_MS: Final = 1_000
BUSY_MS: Final = 10  # where a partition may become hungry meanwhile
RECORDS_AT_ONCE: Final = 500
FETCH_BYTES: Final = 8 * 2**20
COMMIT_EVERY_S: Final = 1.0
LOOK_EVERY: Final = 5  # commits; then what still waits in Kafka is looked at
STALLED_LOOKS: Final = 4
LETTING_GO_S: Final = 2.0
LEAVING_S: Final = 2.0


class Stalled(Exception):
    """The client does not bring records, though some may wait, or has lost the group: it is to be made anew."""


class Group(NamedTuple):
    """The group, and its topics by their full names: what each is for."""

    name: str
    topics: Mapping[str, str]
    session_timeout_s: float


class Member(ConsumerRebalanceListener):  # type: ignore[misc]
    """One life in the group, until something breaks. `partition_of` makes a partition that stands at an offset."""

    def __init__(
        self,
        *,
        kafka: Kafka,
        group: Group,
        offsets: Offsets,
        counts: IntakeCounts,
        partition_of: Callable[[At, int, Member], Partition],
    ) -> None:
        self._group = group
        self._offsets = offsets
        self._counts = counts
        self._partition_of = partition_of
        self._partitions: dict[TopicPartition, Partition] = {}
        self._tasks: list[asyncio.Task[None]] = []  # of this life; of the partitions that it has just now
        self._services: list[asyncio.Task[None]] = []
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed = asyncio.Event()
        self._committed: dict[TopicPartition, int] = {}
        self._stuck: Counter[tuple[TopicPartition, int]] = Counter()
        self._looks_without_commit = 0
        self._consumer = self._make_consumer(kafka)

    async def run(self) -> None:
        """Join, and take in what is this node's, until cancelled. Raises what ends this life."""
        try:
            await start(self._consumer)
            self._counts.lives += 1
            self._consumer.subscribe(list(self._group.topics), listener=self)
            self._tasks = [self._begin(self._read()), self._begin(self._watch())]
            await self._end
        finally:
            await asyncio.shield(self._leave())

    def seek(self, partition: Partition, offset: int) -> None:
        at = TopicPartition(*partition.at[:2])
        if self._partitions.get(at) is partition:
            self._seek(at, offset)

    def look(self) -> None:
        self._changed.set()

    # -- coming and going --------------------------------------------------------------------------------------------

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        # The client's heartbeat stands still until this returns, so nothing waits for the database here.
        self._services = [self._begin(self._take_up(assigned))]

    async def on_partitions_revoked(self, _: Collection[TopicPartition]) -> None:
        await self._let_go()

    async def _take_up(self, assigned: Collection[TopicPartition]) -> None:
        """Begin with partitions where the database says; with those that nobody has begun with, at their oldest."""
        names = [(at.topic, at.partition) for at in assigned]
        stored = await self._offsets.fetch(names)
        if new := [at for at in assigned if (at.topic, at.partition) not in stored]:
            oldest = await self._consumer.beginning_offsets(new)
            stored |= await self._offsets.begin({(at.topic, at.partition): offset for at, offset in oldest.items()})
        for at in assigned:
            offset = stored[at.topic, at.partition]
            self._seek(at, offset)
            partition = self._partition_of(At(at.topic, at.partition, self._group.topics[at.topic]), offset, self)
            self._partitions[at] = partition
            self._services.append(self._begin(partition.run()))
        self._note_partitions()
        self.look()

    async def _let_go(self) -> None:
        """They are others' from now on. What runs just now may end, so that the others begin where it does."""
        partitions, self._partitions = self._partitions, {}
        services, self._services = self._services, []
        deeds = [each for each in partitions.values() if isinstance(each, DeedPartition)]
        for each in deeds:
            each.withdraw()
        deadline = time.monotonic() + LETTING_GO_S
        while any(each.is_under_way for each in deeds) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await end(services)
        with contextlib.suppress(*AWAY, IllegalStateError):
            async with asyncio.timeout(LETTING_GO_S):
                await self._commit(partitions)
        self._note_partitions()

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Part of this life: what it raises ends it."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        error: BaseException | None = None
        if not task.cancelled():
            error = task.exception()
        elif task in self._tasks:
            error = Stalled("the client has cancelled whoever reads")  # nobody else does, but while this life ends
        if error is not None and not self._end.done():
            self._end.set_exception(error)

    async def _leave(self) -> None:
        await end(self._tasks)
        await self._let_go()
        with contextlib.suppress(*AWAY, asyncio.CancelledError):
            async with asyncio.timeout(LEAVING_S):
                await self._consumer.stop()  # so that the others have the partitions at once
        await bury(self._consumer)

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            self._changed.clear()
            partitions = [each for each in self._partitions.items() if each[1].paused is None]
            hungry = [at for at, partition in partitions if partition.is_hungry]
            if not hungry:
                await set_or_late(self._changed, POLL_MS / 1000)
                continue
            patience_ms = POLL_MS if len(hungry) == len(partitions) else BUSY_MS
            try:
                found = await self._consumer.getmany(*hungry, timeout_ms=patience_ms, max_records=RECORDS_AT_ONCE)
            except OffsetOutOfRangeError as error:
                for at, offset in error.args[0].items():
                    if at in self._partitions:
                        self._partitions[at].stop_out_of_range(offset)
                continue
            for at, records in found.items():
                if at in self._partitions:
                    self._partitions[at].hand(records)

    # -- how far it is -----------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Tell Kafka how far the partitions are, for its tools, and look how much still waits."""
        number = 0
        while True:
            await asyncio.sleep(COMMIT_EVERY_S)
            number += 1
            with contextlib.suppress(*AWAY, IllegalStateError):
                async with asyncio.timeout(LETTING_GO_S):
                    await self._pass_marks()
                    if number % LOOK_EVERY == 0:
                        self._committed.clear()  # a broker that was away may have taken an older commit for the newest
                        await self._look_at_lag()
                        self._look_at_group()
                    await self._commit(self._partitions)
                    self._looks_without_commit = 0
            self._note_partitions()

    def _look_at_group(self) -> None:
        """Kafka has just answered; whether its group hears this member, too. The client may lose the group for good
        when Kafka was away: records go on coming, but no commit is taken, and nobody joins again."""
        if self._looks_without_commit >= STALLED_LOOKS:
            raise Stalled("the group takes no commit, though Kafka answers")
        self._looks_without_commit += 1  # all is committed once more, now

    async def _pass_marks(self) -> None:
        """Records that we never see end a transaction, or were cleaned away."""
        for at, partition in list(self._partitions.items()):
            position = await self._consumer.position(at) if partition.is_idle else 0
            if partition.is_idle and position > partition.reached:
                partition.skip_to(position)

    async def _commit(self, partitions: Mapping[TopicPartition, Partition]) -> None:
        moved = {at: each.stored for at, each in partitions.items() if self._committed.get(at) != each.stored}
        if moved:
            await commit(self._consumer, moved)
            self._committed |= moved

    async def _look_at_lag(self) -> None:
        partitions = dict(self._partitions)
        ends = await self._consumer.end_offsets(list(partitions)) if partitions else {}
        lag = dict.fromkeys(self._counts.lag, 0)
        stuck: Counter[tuple[TopicPartition, int]] = Counter()
        for at, last in ends.items():
            partition = partitions[at]
            lag[partition.at.kind] += max(0, last - partition.stored)
            if partition.is_idle and last > partition.reached:
                place = (at, partition.reached)
                stuck[place] = self._stuck[place] + 1
        self._counts.lag = lag
        self._stuck = stuck
        if stuck and max(stuck.values()) >= STALLED_LOOKS:
            raise Stalled(f"no records of {max(stuck, key=stuck.__getitem__)[0]} though some wait")

    def _note_partitions(self) -> None:
        """For the metrics."""
        own = self._partitions.values()
        held = Counter(each.at.kind for each in own)
        self._counts.partitions = {kind: held[kind] for kind in self._counts.partitions}
        self._counts.note_paused((each.at.kind, each.paused) for each in own if each.paused is not None)

    # -- the client --------------------------------------------------------------------------------------------------

    def _make_consumer(self, kafka: Kafka) -> AIOKafkaConsumer:
        session_ms = round(self._group.session_timeout_s * 1000)
        return AIOKafkaConsumer(
            bootstrap_servers=kafka.servers,
            group_id=self._group.name,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=min(HEARTBEAT_MS, session_ms // HEARTBEATS),
            request_timeout_ms=session_ms + GRACE_MS,
            max_poll_interval_ms=NEVER_MS,
            fetch_max_bytes=FETCH_BYTES,
            consumer_timeout_ms=POLL_MS,
        )

    def _seek(self, at: TopicPartition, offset: int) -> None:
        with contextlib.suppress(IllegalStateError):  # it is others' by now
            self._consumer.seek(at, offset)
