"""What other backends write to Kafka, and what becomes of it: on a real broker, topics of the test's own."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete

from fanout.kafka import Kafka
from gateway import settings
from gateway.intake.door import IntakeDoor
from gateway.intake.topics import DEAD_LETTERS, OUTCOMES, topics_of
from gateway.intake.wire import Letter, Outcome
from gateway.lane import Lane
from gateway.routes import AWARD, FOR_BACKENDS, PUBLISH
from gateway.supervisor import Supervisor
from handlers.deed import Delivered
from handlers.directory.records import RecordsHandler
from handlers.events.handler import EventsHandler
from handlers.wallet.spending import SpendingHandler
from storage import db
from storage.audit import audit


class ExactOutcome(Outcome, forbid_unknown_fields=True):
    """As it is documented, and nothing else."""


class ExactLetter(Letter, forbid_unknown_fields=True):
    """Likewise."""


PATIENCE_S: Final = 60.0
_ids = itertools.count(1)


def event(*recipients: int, **fields: Any) -> dict[str, Any]:
    """An event's record; `...` leaves a field out."""
    given = {"source": "feed", "id": f"e{next(_ids)}", "type": "news", "recipientIds": recipients, "data": {"n": 1}}
    return {name: value for name, value in (given | fields).items() if value is not ...}


def command(verb: str, user_id: int, amount: float, **fields: Any) -> dict[str, Any]:
    """A command's record."""
    given = {"source": "shop", "id": f"c{next(_ids)}", "verb": verb, "userId": user_id, "amount": amount}
    return given | {"reason": "As promised"} | fields


def user(user_id: int, **fields: Any) -> dict[str, Any]:
    """A record of the directory."""
    return {"source": "crm", "id": f"d{next(_ids)}", "kind": "user", "userId": user_id, **fields}


def video(video_id: str, **fields: Any) -> dict[str, Any]:
    """Another one."""
    return {"source": "crm", "id": f"d{next(_ids)}", "kind": "video", "videoId": video_id, **fields}


class Backends:
    """Other backends, which write to topics of one prefix, and whoever reads what comes of it."""

    def __init__(self, servers: str, prefix: str) -> None:
        self.servers = servers
        self.prefix = prefix
        self.partitions = 0
        self._producer: AIOKafkaProducer

    @property
    def settings(self) -> dict[str, object]:
        """Of a node that takes them in."""
        return {"KAFKA__BOOTSTRAP_SERVERS": self.servers, "KAFKA__PREFIX": self.prefix}

    async def start(self, partitions: int) -> None:
        """Make the topics."""
        self.partitions = partitions
        self._producer = AIOKafkaProducer(bootstrap_servers=self.servers, acks="all", linger_ms=2)
        await self._producer.start()
        async with self.admin() as admin:
            await admin.create_topics([NewTopic(each.name, partitions, 1) for each in topics_of(self.prefix, 1)])
            while {each.name for each in topics_of(self.prefix, 1)} - set(await admin.list_topics()):
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        await self._producer.stop()

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        client = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        await client.start()
        try:
            yield client
        finally:
            await client.close()

    def topic(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    async def write(self, topic: str, *records: Any, partition: int | None = 0, key: bytes | None = None) -> list[int]:
        """Their offsets; bytes and None are written as they are. `partition` None: by key, or wherever."""
        values = [each if isinstance(each, bytes | None) else json.dumps(each).encode() for each in records]
        acks = [
            await self._producer.send(
                self.topic(topic), each, key=key or (b"k" if each is None else None), partition=partition
            )
            for each in values
        ]
        return [(await ack).offset for ack in acks]

    async def read(self, topic: str, count: int) -> list[Any]:
        """All records of a topic, once there are at least `count`; each partition's in their order."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.servers, auto_offset_reset="earliest")
        await consumer.start()
        found: list[Any] = []
        try:
            places = [TopicPartition(self.topic(topic), each) for each in range(self.partitions)]
            consumer.assign(places)
            async with asyncio.timeout(PATIENCE_S):
                ends = await consumer.end_offsets(places)
                while len(found) < count or any([await consumer.position(at) < end for at, end in ends.items()]):
                    for records in (await consumer.getmany(timeout_ms=50)).values():
                        found += [json.loads(record.value) for record in records]
        except TimeoutError:
            raise AssertionError(f"{len(found)} of {count} in {topic}: {found[-10:]}") from None
        finally:
            await consumer.stop()
        return found

    async def outcomes(self, count: int) -> dict[str, Any]:
        """id -> the answer to that command; of all that were given, which must agree."""
        found: dict[str, Any] = {}
        for each in await self.read(OUTCOMES, count):
            msgspec.convert(each, ExactOutcome)
            assert found.setdefault(each["id"], each) == each
        return found

    async def letters(self, count: int) -> list[Any]:
        letters = await self.read(DEAD_LETTERS, count)
        msgspec.convert(letters, list[ExactLetter])
        return letters

    async def ends(self) -> dict[tuple[str, int], int]:
        """(topic, partition) -> the end of what was written."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.servers)
        await consumer.start()
        try:
            places = [
                TopicPartition(self.topic(topic), each)
                for topic in ("events", "directory", "commands")
                for each in range(self.partitions)
            ]
            return {tuple(at): end for at, end in (await consumer.end_offsets(places)).items()}
        finally:
            await consumer.stop()

    async def _lag_is_gone(self, ends: dict[tuple[str, int], int], committed: dict[tuple[str, int], int]) -> None:
        """Enters what Kafka says into `committed`."""
        async with self.admin() as admin:
            while any(committed.get(at) != end for at, end in ends.items()):
                found = await admin.list_consumer_group_offsets(self.topic("intake"))
                committed.update({tuple(at): each.offset for at, each in found.items()})
                await asyncio.sleep(0.1)

    async def delete_up_to(self, topic: str, offset: int, partition: int = 0) -> None:
        async with self.admin() as admin:
            await admin.delete_records({TopicPartition(self.topic(topic), partition): RecordsToDelete(offset)})

    async def all_taken_in(self, conn: asyncpg.Connection, *, but: Iterable[str] = ()) -> None:
        """Return when PostgreSQL, and then Kafka itself, have every partition at its end, and no answer waits."""
        ends = {at: end for at, end in (await self.ends()).items() if at[0] not in {self.topic(each) for each in but}}
        stored: Any = {}
        committed: dict[tuple[str, int], int] = {}
        waiting = 0
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    rows = await conn.fetch("SELECT topic, partition, next FROM ingress_offsets")
                    stored = {(row[0], row[1]): row[2] for row in rows}
                    waiting = await conn.fetchval("SELECT count(*) FROM ingress_outcomes")
                    if not waiting and all(stored.get(at, 0) == end for at, end in ends.items()):
                        break
                    await asyncio.sleep(0.05)
                await self._lag_is_gone({at: end for at, end in ends.items() if end}, committed)
        except TimeoutError:
            told = f"{ends}; stored {stored}; committed {committed}; {waiting} answers wait"
            raise AssertionError(f"not taken in: {told}") from None


@asynccontextmanager
async def backends(servers: str, prefix: str, partitions: int = 2) -> AsyncIterator[Backends]:
    made = Backends(servers, prefix)
    await made.start(partitions)
    try:
        yield made
    finally:
        await made.stop()


class Taker:
    """A node's lane and its door to Kafka, in this process, without its other doors."""

    def __init__(self, dsn: str, others: Backends, *, lane: Mapping[str, Any], **intake: Any) -> None:
        kafka = settings.Kafka(bootstrap_servers=(others.servers,), prefix=others.prefix)
        self._settings = settings.Settings(kafka=kafka, intake=settings.Intake(**intake), lane=settings.Lane(**lane))
        self._dsn = dsn
        self.told: list[Delivered] = []
        self.ephemeral: list[tuple[object, bytes]] = []
        self.supervisor = Supervisor()
        self.lane = Lane(
            handlers={
                PUBLISH: EventsHandler(publisher=self, wake_applier=lambda: None),
                **dict.fromkeys((*FOR_BACKENDS, AWARD), SpendingHandler(max_amount=1_000_000)),
            },
            connect=lambda: db.connect_lane(dsn),
            orders=_Freely(),
            deliver=self.told.extend,
            catch_up=lambda: None,
            limits=self._settings.lane,
        )
        self.door: IntakeDoor

    def topic(self, topic: str, envelope: bytes) -> None:
        self.ephemeral.append((topic, envelope))

    def users(self, user_ids: Sequence[int], envelope: bytes) -> None:
        self.ephemeral.append((list(user_ids), envelope))

    async def start(self) -> None:
        self._pool = await db.create_pool(self._dsn, size=6)
        self.door = IntakeDoor(
            settings=self._settings,
            kafka=Kafka(",".join(self._settings.kafka.bootstrap_servers)),
            pool=self._pool,
            lane=self.lane,
            directory=RecordsHandler(pool=self._pool, follows_count=False),
        )
        self.supervisor.start("lane", self.lane.run())
        self.supervisor.keep("intake", self.door.run)
        self.supervisor.keep("outcomes", self.door.outbox.run)

    async def stop(self) -> None:
        """As a node that drains."""
        await self.door.leave()
        await self.supervisor.stop()
        self._pool.terminate()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Return when it holds."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"waited in vain for {what}; {self.door.counts.records}") from None

    async def has_partitions(self, count: int) -> None:
        """Return when it takes in so many."""
        await self.until(lambda: sum(self.door.counts.partitions.values()) == count, f"{count} partitions")


class _Freely:
    def hold(self, order_key: object) -> None: ...

    def release(self, order_key: object) -> None: ...


@asynccontextmanager
async def taking(
    dsn: str, others: Backends, *, lane: Mapping[str, Any] | None = None, **intake: Any
) -> AsyncIterator[Taker]:
    taker = Taker(dsn, others, lane=lane or {}, **intake)
    await taker.start()
    try:
        yield taker
    finally:
        await taker.stop()


class Flow:
    """Records of all kinds, some of them twice, and what must have come of them in the end."""

    USERS: Final = range(1, 21)

    def __init__(self, others: Backends, seed: int = 7) -> None:
        self._others = others
        self._chance = random.Random(seed)
        self._run = next(_ids)
        self.written = 0
        self.events: dict[int, list[str]] = {user_id: [] for user_id in self.USERS}
        self.balances: dict[int, int] = dict.fromkeys(self.USERS, 0)
        self.followers: dict[int, int] = dict.fromkeys(self.USERS, 0)
        self.commands: set[str] = set()
        self.twice: set[str] = set()  # the second may have been read first

    async def write(self, count: int) -> None:
        """Some more, each user's to the user's own partition; a repetition goes anywhere."""
        for _ in range(count):
            self.written += 1
            at, user_id = self.written, self._chance.choice(self.USERS)
            partition = user_id % self._others.partitions
            kind = self._chance.choices(("events", "commands", "directory"), (8, 3, 1))[0]
            name = f"flow-{self._run}-{at}"
            if kind == "events":
                record = event(user_id, id=name, data={"n": at, "text": "x" * self._chance.choice((0, 0, 3000))})
                self.events[user_id].append(name)
            elif kind == "commands":
                record = command("award", user_id, 0.01, id=name)
                self.balances[user_id] += 1
                self.commands.add(name)
            else:
                record = user(user_id, id=name, followersCount=at)
                self.followers[user_id] = at
            await self._others.write(kind, record, partition=partition)
            if self._chance.random() < 0.1 and kind != "directory":
                await self._others.write(kind, record, partition=self._chance.randrange(self._others.partitions))
                self.twice.add(name)

    async def check(self, conn: asyncpg.Connection) -> None:
        """Everything was taken in once, each user's events in the order written; nothing waits any more."""
        await self._others.all_taken_in(conn)
        rows = await conn.fetch(
            "SELECT i.user_id, coalesce(i.event_id, b.event_id) FROM inbox i LEFT JOIN broadcasts b"
            " ON b.id = i.broadcast_id ORDER BY i.user_id, i.seq"
        )
        stored: dict[int, list[str]] = {user_id: [] for user_id in self.USERS}
        for user_id, name in rows:
            stored[user_id].append(name)
        assert {each: sorted(names) for each, names in stored.items()} == {
            each: sorted(names) for each, names in self.events.items()
        }
        assert self._in_order(stored) == self._in_order(self.events)
        balances = dict(await conn.fetch("SELECT user_id, balance FROM accounts"))
        assert balances == self.balances
        followers = dict(await conn.fetch("SELECT id, followers_count FROM users"))
        assert followers == self.followers
        outcomes = await self._others.outcomes(len(self.commands))
        assert (outcomes.keys(), {each["ok"] for each in outcomes.values()} - {True}) == (self.commands, set())
        assert await audit(conn) == []

    def _in_order(self, names: dict[int, list[str]]) -> dict[int, list[str]]:
        return {each: [name for name in some if name not in self.twice] for each, some in names.items()}
