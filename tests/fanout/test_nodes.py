"""Whole nodes side by side, over real Kafka and Valkey: what one commits reaches connections on the others, in order,
once, and without their reading the inbox while all goes well."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import asyncpg
import pytest

from fanout.broker import Listeners
from fanout.broker_kafka import KafkaBroker
from fanout.cursor import Cursor
from fanout.delivery import Delivery
from fanout.hub import Hub
from fanout.publisher import Publisher
from tests.fanout.cluster import Places, kafka_broker, presence_of
from tests.fanout.sinks import Inbox, Recorder, Tasks, until

Spoil = Callable[[Listeners], Listeners]


class Event(NamedTuple):
    """A committed event, as the publisher takes it."""

    user_id: int
    seq: int
    row: int


class Node:
    """All of a node that fans out."""

    def __init__(self, name: str, pool: asyncpg.Pool, places: Places, tasks: Tasks, spoil: Spoil) -> None:
        self.inbox = Inbox()
        self.compares = 0
        self.rendered: list[int] = []
        hub = Hub()
        self.delivery = Delivery(hub=hub, read_pages=self.inbox.read_pages, frame_of=bytes, spawn=tasks)
        self.presence = presence_of(name, pool, places, tasks)
        self.publisher = Publisher(
            hub=hub,
            delivery=self.delivery,
            presence=self.presence,
            render=self._render,
            compare_soon=self._compare,
            more_to_come=lambda: False,
        )
        self.broker: KafkaBroker = kafka_broker(name, places, self.presence, spoil(self.publisher.listeners()), tasks)
        self.publisher.join(self.broker)
        self._tasks = tasks

    def _render(self, row: int) -> bytes:
        self.rendered.append(row)
        return b"%d" % row

    def _compare(self) -> None:
        self.compares += 1

    async def start(self, stack: AsyncExitStack) -> None:
        for part in (self.presence, self.broker):
            await part.start()
            stack.push_async_callback(part.stop)

    async def connect(self, user_id: int) -> tuple[Recorder, Cursor]:
        sink = Recorder()
        cursor = self.delivery.attach(user_id, sink)
        await self.presence.enter([(user_id, "phone")])
        self.delivery.start(cursor, self.inbox.head, self.inbox.head, lambda _: None)
        return sink, cursor

    def commit(self, *events: tuple[int, int]) -> None:
        self.publisher.events([Event(user_id, seq, seq) for user_id, seq in events])


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    owner = Tasks()
    yield owner
    await owner.end()
    assert not owner.failures


@asynccontextmanager
async def cluster(
    pool: asyncpg.Pool, places: Places, tasks: Tasks, count: int, spoil: Spoil = lambda heard: heard
) -> AsyncIterator[list[Node]]:
    """So many nodes, which know each other; what the last one hears is spoiled."""
    async with AsyncExitStack() as stack:
        nodes = [
            Node(f"node-{number}", pool, places, tasks, spoil if number == count - 1 else (lambda heard: heard))
            for number in range(count)
        ]
        for node in nodes:
            await node.start(stack)
        for node in nodes:
            while not (where := await node.presence.nodes_of([1])) or where.unsure or where.peers < count - 1:
                await asyncio.sleep(0.01)
        yield nodes


async def test_an_event_reaches_its_user_on_other_nodes_without_a_look_into_the_inbox(
    pool: asyncpg.Pool, places: Places, tasks: Tasks
) -> None:
    async with cluster(pool, places, tasks, 3) as (a, b, c):
        here, _ = await a.connect(7)
        there, _ = await b.connect(7)
        third, _ = await c.connect(8)
        for seq in range(1, 101):
            a.commit((7, seq))
            if seq % 10 == 0:
                await asyncio.sleep(0.003)
        await until(lambda: len(there.frames) == 100)
        a.commit((7, 101), (8, 1), (9, 1))
        await until(lambda: len(there.frames) == 101 and third.frames)
        expected = [b"%d" % seq for seq in range(1, 102)]
        assert (here.frames, there.frames, third.frames) == (expected, expected, [b"1"])
        assert (a.inbox.reads, b.inbox.reads, c.inbox.reads) == ([], [], [])
        assert a.rendered == [*range(1, 102), 1], "once, for here and there; and never for who is nowhere"


def spoiling(chance: random.Random) -> Spoil:
    """What is heard comes late, twice, not at all, or behind what was said after it."""

    def spoil(listeners: Listeners) -> Listeners:
        kept: list[list[tuple[int, int, bytes]]] = []

        def on_events(events: list[tuple[int, int, bytes]]) -> None:
            for event in events:
                fate = chance.random()
                if fate < 0.2:
                    continue
                if fate < 0.4:
                    kept.append([event])
                    continue
                listeners.on_events([event] * chance.choice([1, 1, 2]))
            chance.shuffle(kept)
            while kept and chance.random() < 0.6:
                listeners.on_events(kept.pop())

        return Listeners(
            on_heads=listeners.on_heads,
            on_events=on_events,
            on_compare=listeners.on_compare,
            on_topic=listeners.on_topic,
            on_users=listeners.on_users,
            on_replaced=listeners.on_replaced,
        )

    return spoil


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_records_that_are_lost_doubled_or_out_of_order_leave_no_trace(
    pool: asyncpg.Pool, places: Places, tasks: Tasks, seed: int
) -> None:
    """Two nodes commit to one user in turn; the third has the user's connection, and hears badly."""
    chance = random.Random(seed)
    async with cluster(pool, places, tasks, 3, spoiling(chance)) as (a, b, c):
        sink, _ = await c.connect(7)
        for seq in range(1, 201):
            c.inbox.head = seq
            chance.choice((a, b)).commit((7, seq))
            await asyncio.sleep(chance.choice([0, 0, 0.002]))
        a.commit((7, 200))  # said again, as after a batch whose fate was unknown
        await asyncio.sleep(0.1)
        c.delivery.raise_head(7, 200)  # the comparison of heads
        await until(lambda: len(sink.frames) == 200)
        await asyncio.sleep(0.05)
        assert sink.frames == [b"%d" % seq for seq in range(1, 201)]
        assert c.inbox.reads, "what was lost was read"


async def test_what_others_committed_does_not_overtake_an_answer(
    pool: asyncpg.Pool, places: Places, tasks: Tasks
) -> None:
    """The same action through two nodes at once: the other one's events wait for this one's acknowledgement."""
    async with cluster(pool, places, tasks, 2) as (a, b):
        sink, cursor = await b.connect(7)
        b.delivery.hold(cursor)
        b.inbox.head = 1
        a.commit((7, 1))
        await until(lambda: cursor.head == 1)
        await asyncio.sleep(0.02)
        assert sink.frames == []
        b.delivery.release(cursor)
        await until(lambda: sink.frames == [b"1"])


async def test_a_topic_and_what_is_for_users_come_once(pool: asyncpg.Pool, places: Places, tasks: Tasks) -> None:
    async with cluster(pool, places, tasks, 2) as (a, b):
        sink, cursor = await b.connect(7)
        near, _ = await a.connect(7)
        b.delivery.subscribe(cursor, "live:a")
        a.publisher.topic("live:a", b'"topic"')
        a.publisher.users([7, 8], b'"typing"')
        a.publisher.replaced(9, "phone", 1)
        a.commit((7, 1))
        await until(lambda: len(sink.frames) == 3)
        await asyncio.sleep(0.05)
        assert sorted(sink.frames) == [b'"topic"', b'"typing"', b"1"]
        assert sorted(near.frames) == [b'"typing"', b"1"]


async def test_a_device_that_connects_elsewhere_is_replaced_here(
    pool: asyncpg.Pool, places: Places, tasks: Tasks
) -> None:
    async with cluster(pool, places, tasks, 2) as (a, b):
        sink = Recorder()
        (old,) = await b.presence.enter([(7, "phone")])
        b.delivery.attach(7, sink, "phone", old)
        (new,) = await a.presence.enter([(7, "phone")])
        a.publisher.replaced(7, "phone", new)
        await until(lambda: sink.cuts == ["replaced"])


async def test_a_new_node_hears_of_its_first_connection_on(pool: asyncpg.Pool, places: Places, tasks: Tasks) -> None:
    """Before the others have looked who lives: whoever starts says so."""
    async with cluster(pool, places, tasks, 1) as (a,), AsyncExitStack() as stack:
        a.presence._members.renew = _never  # type: ignore[method-assign]
        new = Node("node-new", pool, places, tasks, lambda heard: heard)
        await new.start(stack)
        sink, _ = await new.connect(7)
        await until(lambda: a.compares)
        assert not a.presence.other_nodes()
        a.commit((7, 1))
        await until(lambda: sink.frames == [b"1"])
        assert new.inbox.reads == []


async def _never(**_: object) -> bool:
    raise OSError("the database is away")
