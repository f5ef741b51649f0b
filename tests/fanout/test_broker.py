"""The contract of brokers, over all of them, and what those that talk must survive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import asyncpg
import pytest

from fanout import broker_postgres, broker_unix, postgres, records
from fanout.broker import Broker, MemoryBroker
from fanout.broker_kafka import KafkaBroker
from fanout.broker_postgres import PostgresBroker
from fanout.broker_unix import UnixBroker
from fanout.exchange import Exchange
from fanout.line import Line
from fanout.notices import HEADS_MAX
from fanout.presence_redis import RedisPresence
from tests.fanout.cluster import Places, kafka_broker, presence_of
from tests.fanout.lines import lines, opened
from tests.fanout.sinks import Heard, Tasks, told, until


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    owner = Tasks()
    yield owner
    assert not owner.running, "a broker left tasks behind"
    assert not owner.failures


class Pair:
    """Two nodes; `a` speaks, `b` hears."""

    a: Broker
    b: Broker
    heads_max: int

    def __init__(self) -> None:
        self.heard_a, self.heard_b = Heard(), Heard()

    async def connect(self, users: Iterable[int]) -> None:
        """These are connected to b, where that makes a difference."""

    async def start(self) -> None:
        await self.a.start()
        await self.b.start()
        await until(lambda: self.heard_a.compares == 1)  # who starts is heard at once
        self.heard_a.compares = self.heard_b.compares = 0

    async def stop(self) -> None:
        await self.a.stop()
        await self.b.stop()


class Workers(Pair):
    """Of one parent."""

    heads_max = broker_unix.HEADS_MAX

    def __init__(self, a: Line, b: Line) -> None:
        super().__init__()
        self.a = UnixBroker(line=a, listeners=self.heard_a.listeners)
        self.b = UnixBroker(line=b, listeners=self.heard_b.listeners)


class Nodes(Pair):
    """On one database."""

    a: PostgresBroker
    b: PostgresBroker
    heads_max = HEADS_MAX

    def __init__(self, dsn: str, tasks: Tasks) -> None:
        super().__init__()
        self.a = PostgresBroker(dsn=dsn, node="a.1", listeners=self.heard_a.listeners, spawn=tasks, large_keep_s=0.3)
        self.b = PostgresBroker(dsn=dsn, node="b.1", listeners=self.heard_b.listeners, spawn=tasks)


class Everywhere(Pair):
    """Through Kafka, and nobody knows who is where."""

    a: KafkaBroker
    b: KafkaBroker
    heads_max = records.EVENTS_MAX

    def __init__(self, pool: asyncpg.Pool, places: Places, tasks: Tasks) -> None:
        super().__init__()
        self.presences = [presence_of(name, pool, places, tasks) for name in ("a.1", "b.1")]
        heard = (self.heard_a, self.heard_b)
        self.a, self.b = (
            kafka_broker(name, places, self.locator(presence), each.listeners, tasks)
            for name, presence, each in zip(("a.1", "b.1"), self.presences, heard, strict=True)
        )

    def locator(self, _: RedisPresence) -> RedisPresence | None:
        return None


class Located(Everywhere):
    """Through Kafka, each told what concerns it."""

    def locator(self, presence: RedisPresence) -> RedisPresence | None:
        return presence

    async def connect(self, users: Iterable[int]) -> None:
        await self.presences[1].enter([(user, "") for user in users])

    async def start(self) -> None:
        for presence in self.presences:
            await presence.start()
        await self.connect([7, 8, 2**53 - 1])
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        for presence in self.presences:
            await presence.stop()


@pytest.fixture
async def everywhere(pool: asyncpg.Pool, places: Places, tasks: Tasks) -> AsyncIterator[Everywhere]:
    nodes = Everywhere(pool, places, tasks)
    await nodes.start()
    yield nodes
    await nodes.stop()


@pytest.fixture
async def located(pool: asyncpg.Pool, places: Places, tasks: Tasks) -> AsyncIterator[Located]:
    nodes = Located(pool, places, tasks)
    await nodes.start()
    yield nodes
    await nodes.stop()


@pytest.fixture
async def nodes(dsn: str, tasks: Tasks) -> AsyncIterator[Nodes]:
    nodes = Nodes(dsn, tasks)
    await nodes.start()
    yield nodes
    await nodes.stop()


@pytest.fixture
async def workers(tasks: Tasks) -> AsyncIterator[Workers]:
    async with lines(tasks) as (a, b, _):
        workers = Workers(a, b)
        await workers.start()
        yield workers
        await workers.stop()


@pytest.fixture(params=["nodes", "workers", "everywhere", "located"])
def pair(request: pytest.FixtureRequest) -> Pair:
    made: Pair = request.getfixturevalue(request.param)
    return made


@pytest.fixture
async def lone_line(tasks: Tasks) -> AsyncIterator[Line]:
    async with lines(tasks, workers=1) as (line, _):
        yield line


@pytest.fixture(params=["memory", "postgres", "unix", "kafka"])
def lone(request: pytest.FixtureRequest, tasks: Tasks) -> tuple[Broker, Heard]:
    heard = Heard()
    if request.param == "memory":
        return MemoryBroker(), heard
    if request.param == "unix":
        return UnixBroker(line=request.getfixturevalue("lone_line"), listeners=heard.listeners), heard
    if request.param == "kafka":
        return kafka_broker("a.1", request.getfixturevalue("places"), None, heard.listeners, tasks), heard
    dsn = request.getfixturevalue("dsn")
    return PostgresBroker(dsn=dsn, node="a.1", listeners=heard.listeners, spawn=tasks), heard


async def test_a_node_does_not_hear_itself(lone: tuple[Broker, Heard]) -> None:
    broker, heard = lone
    await broker.start()
    broker.announce_events(told([(7, 4)]))
    broker.announce_events(told((user, 1) for user in range(2 * HEADS_MAX)))
    broker.publish_topic("live:a", b"{}")
    broker.publish_topic("live:a", b'"%s"' % (b"x" * 9_000))
    broker.publish_users([7, 8], b"{}")
    broker.publish_users(range(1, 5_000), b"{}")
    broker.announce_replaced(7, "phone", 2)
    await asyncio.sleep(0.1)
    await broker.stop()
    await broker.stop()
    assert not heard.anything()


async def test_announcing_before_start_or_after_stop_does_no_harm(lone: tuple[Broker, Heard]) -> None:
    broker, _ = lone
    broker.announce_events(told([(7, 4)]))
    await broker.start()
    await broker.stop()
    broker.announce_events(told([(7, 5)]))


async def test_others_hear_everything(pair: Pair) -> None:
    pair.a.announce_events(told([(7, 4), (8, 1)]))
    pair.a.announce_events(told([(7, 5)]))
    pair.a.announce_replaced(7, "phöne", 12)
    pair.a.publish_topic("live:a", '{"data":"ä"}'.encode())
    heard = pair.heard_b
    await until(lambda: heard.topics and heard.reached == {7: 5, 8: 1})  # what is for one may overtake what is for all
    assert pair.heard_b.replaced == [(7, "phöne", 12)]
    assert pair.heard_b.topics == [("live:a", '{"data":"ä"}'.encode())]
    assert pair.heard_b.compares == 0
    assert not pair.heard_a.anything()


async def test_equal_topic_messages_are_two(pair: Pair) -> None:
    pair.a.publish_topic("live:a", b"{}")
    pair.a.publish_topic("live:a", b"{}")
    await until(lambda: len(pair.heard_b.topics) == 2)


async def test_many_heads_are_told_as_a_comparison(pair: Pair) -> None:
    await pair.connect(range(pair.heads_max + 1))
    pair.a.announce_events(told((user, 1) for user in range(pair.heads_max)))
    await until(lambda: len(pair.heard_b.heads) + len(pair.heard_b.events) == pair.heads_max)
    pair.a.announce_events(told((user, 1) for user in range(pair.heads_max + 1)))
    await until(lambda: pair.heard_b.compares == 1)
    assert len(pair.heard_b.heads) + len(pair.heard_b.events) == pair.heads_max


async def test_a_big_topic_message_goes_through_the_table_and_is_trimmed(
    nodes: Nodes, conn: asyncpg.Connection
) -> None:
    big = '"{}"'.format("ä" * 30_000).encode()
    nodes.a.publish_topic("live:a", big)
    nodes.a.publish_topic("live:a", b"1")
    await until(lambda: len(nodes.heard_b.topics) == 2)
    assert set(nodes.heard_b.topics) == {("live:a", big), ("live:a", b"1")}
    assert await conn.fetchval("SELECT count(*) FROM large_notices") == 1
    async with asyncio.timeout(5):
        while await conn.fetchval("SELECT count(*) FROM large_notices"):
            await asyncio.sleep(0.05)


async def test_an_event_for_users_reaches_the_others_with_all_their_ids(pair: Pair) -> None:
    pair.a.publish_users([7, 2**53 - 1], '{"data":"ä"}'.encode())
    pair.a.publish_users([7], b"{}")
    pair.a.publish_users([7], b"{}")  # equal ones are two
    pair.a.publish_users([], b"{}")  # and one for nobody is none
    pair.a.publish_users([7], b"{}", "chat:a")
    await until(lambda: len(pair.heard_b.users) == 3 and pair.heard_b.users_of_topics)
    assert pair.heard_b.users_of_topics == [([7], b"{}", "chat:a")]
    assert pair.heard_b.users == [([7, 2**53 - 1], '{"data":"ä"}'.encode()), ([7], b"{}"), ([7], b"{}")]
    assert not pair.heard_a.anything()


async def test_an_event_for_very_many_or_a_very_big_one_goes_through_the_table(
    nodes: Nodes, conn: asyncpg.Connection
) -> None:
    many = [2**53 - number for number in range(1, 10_001)]
    big = '"{}"'.format("ä" * 30_000).encode()
    nodes.a.publish_users(many, b"{}")
    nodes.a.publish_users([7], big)
    nodes.a.publish_users([7], b"1")
    await until(lambda: len(nodes.heard_b.users) == 3)
    assert sorted(nodes.heard_b.users) == sorted([(many, b"{}"), ([7], big), ([7], b"1")])
    assert await conn.fetchval("SELECT count(*) FROM large_notices") == 2
    async with asyncio.timeout(5):
        while await conn.fetchval("SELECT count(*) FROM large_notices"):
            await asyncio.sleep(0.05)


async def test_big_events_and_those_for_very_many_arrive(pair: Pair) -> None:
    many = [2**53 - number for number in range(1, 10_001)]
    await pair.connect(many)
    big = '"{}"'.format("ä" * 30_000).encode()
    pair.a.publish_users(many, b"{}")
    pair.a.publish_users([7], big)
    pair.a.publish_topic("live:a", big)
    await until(lambda: len(pair.heard_b.users) == 2 and pair.heard_b.topics)
    assert sorted(pair.heard_b.users) == sorted([(many, b"{}"), ([7], big)])
    assert pair.heard_b.topics == [("live:a", big)]


async def test_nothing_is_heard_after_stop(pair: Pair) -> None:
    await pair.b.stop()
    pair.a.announce_events(told([(7, 4)]))
    pair.a.publish_topic("live:a", b"{}")
    await pair.a.stop()
    await asyncio.sleep(0.05)
    assert (pair.heard_b.reached, pair.heard_b.topics) == ({}, [])


async def test_stop_sends_what_is_gathered(pair: Pair) -> None:
    pair.a.announce_events(told([(7, 4)]))
    await pair.a.stop()
    await until(lambda: pair.heard_b.reached == {7: 4})


async def test_foreign_notices_on_the_channel_are_ignored(nodes: Nodes, conn: asyncpg.Connection) -> None:
    await conn.execute("SELECT pg_notify($1, 'hello')", broker_postgres.CHANNEL)
    nodes.a.announce_events(told([(7, 4)]))
    await until(lambda: nodes.heard_b.heads)


async def terminate(conn: asyncpg.Connection, name: str) -> None:
    killed = await conn.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE application_name = $1 AND datname = current_database()",
        name,
    )
    assert killed == 2


async def test_a_terminated_listening_connection_comes_back_and_asks_for_a_comparison(
    nodes: Nodes, conn: asyncpg.Connection
) -> None:
    await terminate(conn, "applause listen")
    await until(lambda: nodes.heard_a.compares == nodes.heard_b.compares == 1)
    nodes.a.announce_events(told([(7, 4)]))
    nodes.a.publish_topic("live:a", b'"%s"' % (b"x" * 9_000))
    await until(lambda: nodes.heard_b.heads == [(7, 4)] and nodes.heard_b.topics)


async def test_a_terminated_talking_connection_has_the_others_compare(nodes: Nodes, conn: asyncpg.Connection) -> None:
    nodes.a.announce_events(told([(1, 1)]))
    await until(lambda: nodes.heard_b.heads)
    await terminate(conn, "applause talk")
    nodes.a.announce_events(told([(7, 4)]))
    await until(lambda: nodes.heard_b.compares == 1 or (7, 4) in nodes.heard_b.heads)
    nodes.a.announce_events(told([(8, 4)]))
    await until(lambda: (8, 4) in nodes.heard_b.heads)


async def test_a_listening_connection_that_died_silently_is_found_by_the_ping(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the other machine lost power: no FIN, no RST, and a listener that only ever reads."""
    opened: list[asyncpg.Connection] = []

    class Deaf:
        """A connection whose peer is gone once it has said hello: pings time out."""

        def __init__(self, real: asyncpg.Connection) -> None:
            self._real = real

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

        async def execute(self, statement: str, *said: object) -> None:
            if not said:
                raise TimeoutError
            await self._real.execute(statement, *said)

    async def connect(dsn: str, name: str) -> object:
        connection = await postgres.connect(dsn, name)
        opened.append(connection)
        return Deaf(connection) if name == "applause listen" and len(opened) == 1 else connection

    monkeypatch.setattr(broker_postgres, "connect", connect)
    monkeypatch.setattr(broker_postgres, "PING_EVERY_S", 0.05)
    tasks, heard = Tasks(), Heard()
    broker = PostgresBroker(dsn=nodes.a._dsn, node="c.1", listeners=heard.listeners, spawn=tasks)
    await broker.start()
    await until(lambda: heard.compares == 1)
    nodes.a.announce_events(told([(7, 4)]))
    await until(lambda: heard.heads == [(7, 4)])
    await broker.stop()


async def test_an_unreachable_database_is_told_at_start(tasks: Tasks) -> None:
    broker = PostgresBroker(dsn="postgresql://x@127.0.0.1:1/x", node="a.1", listeners=Heard().listeners, spawn=tasks)
    with pytest.raises(OSError):  # noqa: PT011 - whichever the system gives
        await broker.start()
    await broker.stop()


async def test_a_worker_that_reads_too_slowly_costs_the_others_nothing_and_compares_at_last(tasks: Tasks) -> None:
    """Its hints are dropped instead of kept without end."""
    exchange, heard = Exchange(), Heard()
    fast, slow = await opened(exchange, 0, tasks), await exchange.attach(1)
    third = await opened(exchange, 2, tasks)
    broker = UnixBroker(line=fast, listeners=Heard().listeners)
    other = UnixBroker(line=third, listeners=heard.listeners)
    await broker.start()
    await other.start()
    topic = b'"%s"' % (b"x" * 100_000)
    for number in range(300):  # 30 MB: more than waits for anybody
        broker.publish_topic("live:a", topic)
        await until(lambda number=number: len(heard.topics) > number)

    late = Heard()
    line = Line(1, tasks)
    awake = UnixBroker(line=line, listeners=late.listeners)
    await awake.start()
    await line.open(slow)
    await until(lambda: late.compares > 2)  # the others' starts, and the gap
    assert 0 < len(late.topics) < 300
    broker.announce_events(told([(7, 4)]))
    await until(lambda: late.heads == [(7, 4)])
    for each in (broker, other, awake):
        await each.stop()
    exchange.close()
    for each in (fast, third, line):
        await each.ended()
