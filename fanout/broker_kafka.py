"""The broker over Kafka: each node is told what concerns it, with whole events, so it need not read the inbox.

One topic. Partition 0 is for all and everybody reads it; of the others each node reads one (its own, as presence says),
which may be others' too: a reader looks at a record's key and ignores what is not its own. Readers begin at the end:
what was said before is in the inbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import MessageSizeTooLargeError

from fanout.broker import Announced, Listeners
from fanout.counts import KafkaCounts
from fanout.kafka import AWAY, START_TIMEOUT_S, Kafka, Topic, TopicsMissing, bury, quiet, start
from fanout.notices import Compare, tell
from fanout.presence import Locator
from fanout.records import BEAT, FOR_ALL, FOR_ONE, Outbox, Record, read, records
from fanout.tasks import Backoff, Spawn, end, set_or_late

GATHER_S: Final = 0.005  # from one batch to the next at least; the first after a pause leaves at once
SEND_S: Final = 2.0  # what a batch may take until Kafka counts as away
BEAT_EVERY_S: Final = 2.0
DEAF_S: Final = 10.0  # without hearing oneself
FLUSH_S: Final = 0.5  # what `stop` spends on the last batch
RETRY_FIRST_S, RETRY_MOST_S = 0.1, 5.0
POLL_MS: Final = 500
RECORDS_AT_ONCE: Final = 100
BEHIND_MAX: Final = 20_000  # records; whoever has more before it has slept, and reads the inbox instead
RECORD_BYTES_MAX: Final = 4 * 2**20
FETCH_BYTES: Final = 4 * 2**20

EVERYBODY: Final = 0
"""The partition that all read."""

log = logging.getLogger(__name__)


def fanout_topic(prefix: str, partitions: int) -> Topic:
    """As it is created: what is a few minutes old is of no use to anybody."""
    settings = {
        "retention.ms": "600000",
        "segment.ms": "600000",
        "segment.bytes": str(64 * 2**20),
        "retention.bytes": str(256 * 2**20),
        "max.message.bytes": str(RECORD_BYTES_MAX),
    }
    return Topic(f"{prefix}.fanout", partitions, settings)


class KafkaBroker:
    """See `Broker`. Kafka may be away, at the start too: others then hear later, by comparing heads. One task talks and
    one listens, each with a client that is made anew when it fails; both then have heads compared, since something is
    missing. A node tells itself that it is there: what can't hear that can't hear others either."""

    def __init__(
        self,
        *,
        kafka: Kafka,
        topic: Topic,
        node: str,
        family: str,
        locator: Locator | None,
        listeners: Listeners,
        spawn: Spawn,
    ) -> None:
        """`node` is unique to this run of this process; those of one `family` do not hear each other here. Without a
        `locator` everything is for all."""
        self._kafka = kafka
        self._topic = topic
        self._beat = BEAT + node.encode()
        self._family = family
        self._own_broadcasts = FOR_ALL + family.encode()
        self._locator = locator
        self._listeners = listeners
        self._spawn = spawn
        self._outbox = Outbox()
        self._to_say = asyncio.Event()
        self._has_said = asyncio.Event()
        self._is_dumb = self._is_deaf = False
        self._stopping = False
        self._next_offsets: dict[int, int] = {}
        self._beats: dict[int, float] = {EVERYBODY: time.monotonic()}  # partition -> when it heard itself there
        self._tasks: list[asyncio.Task[None]] = []
        self._burials: set[asyncio.Task[None]] = set()
        self.counts = KafkaCounts()

    async def start(self) -> None:
        consumer = None
        try:
            consumer = await self._open_listening()
        except AWAY as error:
            self._note_deaf(error)
        self._outbox.add_compare()  # so that the others know of this node before presence tells them
        self._to_say.set()
        self._tasks = [self._spawn(self._keep_listening(consumer)), self._spawn(self._keep_talking())]
        await set_or_late(self._has_said, SEND_S if consumer is not None else 0)

    async def stop(self) -> None:
        if not self._tasks:
            return
        listening, talking = self._tasks
        listening.cancel()
        self._stopping = True
        self._to_say.set()
        await asyncio.wait([talking], timeout=0 if self._is_dumb else FLUSH_S)
        await end(self._tasks)
        if self._burials:
            await asyncio.wait(self._burials)
        self._tasks = []

    def announce_events(self, events: Sequence[Announced]) -> None:
        self._outbox.add_events(events)  # where nothing can be said, these are compared later
        self._to_say.set()

    def publish_topic(self, topic: str, envelope: bytes) -> None:
        if self._can_say():
            self._outbox.others.add_topic(topic, envelope)

    def publish_users(self, user_ids: Sequence[int], envelope: bytes, topic: str | None = None) -> None:
        if self._can_say():
            self._outbox.others.add_users(user_ids, envelope, topic)

    def announce_replaced(self, user_id: int, device_id: str, generation: int) -> None:
        if self._can_say():
            self._outbox.others.add_replaced(user_id, device_id, generation)

    def beat_ages(self) -> dict[str, float]:
        """Seconds since this node has heard itself, on each partition that it reads (0: everybody's)."""
        now = time.monotonic()
        return {str(partition): now - heard for partition, heard in self._beats.items()}

    def _can_say(self) -> bool:
        """Ephemeral things are lost while Kafka is away: nobody wants them later."""
        if self._is_dumb:
            self.counts.dropped["ephemeral"] += 1
            return False
        self._to_say.set()
        return True

    # Talking

    async def _keep_talking(self) -> None:
        backoff = Backoff(first=RETRY_FIRST_S, most=RETRY_MOST_S)
        while not self._stopping:
            producer = self._kafka.producer(
                acks=1, enable_idempotence=False, max_batch_size=RECORD_BYTES_MAX, max_request_size=RECORD_BYTES_MAX
            )
            try:
                await start(producer)
                await self._talk(producer, backoff)
            except Exception as error:  # aiokafka raises more than it says
                self._note_dumb(error)
                await asyncio.sleep(0 if self._stopping else backoff.next())
            finally:
                self._bury(producer)

    async def _talk(self, producer: AIOKafkaProducer, backoff: Backoff) -> None:
        beat_at = sent_at = time.monotonic() - BEAT_EVERY_S
        while True:
            await set_or_late(self._to_say, beat_at + BEAT_EVERY_S - time.monotonic())
            if not self._stopping:
                await asyncio.sleep(sent_at + GATHER_S - time.monotonic())
            self._to_say.clear()
            outbox, self._outbox = self._outbox, Outbox()
            sent_at = time.monotonic()
            is_beat = sent_at >= beat_at + BEAT_EVERY_S
            beat_at = sent_at if is_beat else beat_at
            try:
                async with asyncio.timeout(SEND_S):
                    await self._say(producer, outbox, with_beat=is_beat)
            except BaseException:
                self.counts.dropped["events"] += len(outbox.events)
                raise
            if self._is_dumb:
                self._is_dumb = False
                log.warning("broker talks again")
            self._has_said.set()
            backoff.reset()
            if self._stopping and not self._outbox:  # it may have been told more while it spoke
                return

    async def _say(self, producer: AIOKafkaProducer, outbox: Outbox, *, with_beat: bool) -> None:
        """Returns when Kafka has it: the producer has one request on its way to a broker at a time anyhow, and what
        comes meanwhile is gathered into fewer records."""
        self.counts.dropped["events"] += outbox.dropped
        partitions = len(await producer.partitions_for(self._topic.name))  # known, and somebody may add some
        beats = self._beats_for(partitions) if with_beat else []
        users = outbox.user_ids()
        where = await self._locator.nodes_of(users) if users and self._locator is not None else None
        sent = []
        for record in (*records(outbox, where, self._family), *beats):
            at = _within(record.partition, partitions)
            try:
                sent.append(quiet(await producer.send(self._topic.name, record.value, key=record.key, partition=at)))
            except MessageSizeTooLargeError:
                self.counts.dropped["too_large"] += 1
                continue
            self.counts.said[_kind(record.key)] += 1
            self.counts.said_bytes += len(record.value)
        for result in await asyncio.gather(*sent, return_exceptions=True):
            if isinstance(result, MessageSizeTooLargeError):  # the topic was made by somebody else
                self.counts.dropped["too_large"] += 1
            elif isinstance(result, Exception):
                raise result
            elif isinstance(result, BaseException):  # cancelled, but not by us
                raise ConnectionError("Kafka's client gave a record up")

    def _beats_for(self, partitions: int) -> list[Record]:
        now = str(time.monotonic()).encode()
        return [Record(own, self._beat, now) for own in self._own_partitions(partitions)]

    def _note_dumb(self, error: Exception) -> None:
        """What was to be said is lost. When it can be said again, that is."""
        self.counts.failures["talk"] += 1
        self.counts.dropped["events"] += self._outbox.dropped + len(self._outbox.events)
        self._outbox = Outbox()
        self._outbox.add_compare()
        self._to_say.set()
        if not self._is_dumb:
            self._is_dumb = True
            log.warning("broker can't talk: %s", _text(error))

    # Listening

    async def _keep_listening(self, consumer: AIOKafkaConsumer | None) -> None:
        backoff = Backoff(first=RETRY_FIRST_S, most=RETRY_MOST_S)
        while True:
            try:
                if consumer is None:
                    consumer = await self._open_listening()
                    self._listeners.on_compare()  # only now: whatever is said from here on is heard
                await self._listen(consumer, backoff)
            except Exception as error:  # aiokafka raises more than it says
                self._note_deaf(error)
            finally:
                if consumer is not None:
                    self._bury(consumer)
            consumer = None
            await asyncio.sleep(backoff.next())

    async def _open_listening(self) -> AIOKafkaConsumer:
        await self._kafka.ensure([self._topic])
        name = self._topic.name
        consumer = self._kafka.consumer(group_id=None, auto_offset_reset="latest", fetch_max_bytes=FETCH_BYTES)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await start(consumer)
                consumer.assign([TopicPartition(name, EVERYBODY)])
                while not (partitions := consumer.partitions_for_topic(name)):
                    await asyncio.sleep(0.01)
                own = [TopicPartition(name, each) for each in self._own_partitions(len(partitions))]
                consumer.assign(own)
                self._next_offsets = {}
                await self._skip_to_end(consumer, own)
        except BaseException:
            self._bury(consumer)
            raise
        self._beats = dict.fromkeys(self._next_offsets, time.monotonic())
        return consumer

    async def _listen(self, consumer: AIOKafkaConsumer, backoff: Backoff) -> None:
        """Until something is wrong, which raises."""
        while True:
            heard = await consumer.getmany(timeout_ms=POLL_MS, max_records=RECORDS_AT_ONCE)
            for place, found in heard.items():
                if found[0].offset != self._next_offsets[place.partition]:  # they are gone, or were written anew
                    self._note_gap()
                self._next_offsets[place.partition] = found[-1].offset + 1
                for record in found:
                    self._hear(record)
                if (consumer.highwater(place) or 0) - found[-1].offset > BEHIND_MAX:
                    self._note_gap()
                    await self._skip_to_end(consumer, [place])
            # Somebody may have added partitions, too: then its heartbeat is on another one now.
            if time.monotonic() - min(self._beats.values()) > DEAF_S:
                raise ConnectionError("it does not hear itself")
            if heard:
                backoff.reset()
                await asyncio.sleep(0)  # what is there already is given without a turn of the loop

    async def _skip_to_end(self, consumer: AIOKafkaConsumer, places: list[TopicPartition]) -> None:
        async with asyncio.timeout(START_TIMEOUT_S):  # by themselves these wait for as long as Kafka is away
            await consumer.seek_to_end(*places)
            for place in places:
                self._next_offsets[place.partition] = await consumer.position(place)

    def _hear(self, record: Any) -> None:
        key: bytes = record.key or b""
        kind = _kind(key)
        if key == self._beat:
            self._hear_oneself(record)
        elif self._concerns_us(kind, key):
            self._understand(kind, record.value or b"")
        elif kind in ("one", "unreadable"):
            self.counts.heard["skipped" if kind == "one" else kind] += 1

    def _concerns_us(self, kind: str, key: bytes) -> bool:
        if kind == "one":
            return self._locator is not None and self._locator.is_own(key[1:].decode(errors="replace"))
        return kind == "all" and key != self._own_broadcasts

    def _hear_oneself(self, record: Any) -> None:
        self._beats[record.partition] = now = time.monotonic()
        with contextlib.suppress(ValueError, TypeError):
            self.counts.round_trip_s = now - float(record.value)
        if self._is_deaf:
            self._is_deaf = False
            log.warning("broker hears again")

    def _understand(self, kind: str, value: bytes) -> None:
        try:
            notices = read(value)
        except ValueError:  # of a newer version, or of somebody else on the topic
            self.counts.heard["unreadable"] += 1
            log.debug("broker heard a record that it doesn't know")
            return
        self.counts.heard[kind] += 1
        self.counts.heard_bytes += len(value)
        for notice in notices:
            if isinstance(notice, Compare) and self._locator is not None:
                self._locator.look_soon()  # whoever starts says so
            tell(notice, self._listeners)

    def _note_gap(self) -> None:
        self.counts.gaps += 1
        self._listeners.on_compare()

    def _note_deaf(self, error: Exception) -> None:
        self.counts.failures["listen"] += 1
        if not self._is_deaf:
            self._is_deaf = True
            log.warning("broker can't listen: %s", _text(error))

    def _bury(self, client: AIOKafkaProducer | AIOKafkaConsumer) -> None:
        task = self._spawn(bury(client))
        self._burials.add(task)
        task.add_done_callback(self._burials.discard)

    def _own_partitions(self, count: int) -> list[int]:
        own = self._locator.partition if self._locator is not None else None
        return sorted({EVERYBODY, _within(own or EVERYBODY, count)})


def _within(partition: int, count: int) -> int:
    """Where somebody else made the topic with fewer partitions, nodes share those that there are."""
    if partition < count:
        return partition
    return 1 + (partition - 1) % (count - 1) if count > 1 else EVERYBODY


def _kind(key: bytes) -> str:
    return {FOR_ALL: "all", FOR_ONE: "one", BEAT: "beat"}.get(key[:1], "unreadable")


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if isinstance(error, TopicsMissing) else type(error).__name__
