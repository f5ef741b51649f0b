"""The broker over Kafka: who is told what, and what it must survive. On a real Kafka. The contract: test_broker.py."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest
import pytest_asyncio
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.errors import KafkaError

from fanout import broker_kafka
from fanout.broker_kafka import KafkaBroker
from fanout.kafka import Kafka, Topic, TopicsMissing, bury, commit, start
from fanout.presence_redis import RedisPresence
from fanout.records import EVENTS_MAX
from gateway.cluster.kafka import EmbeddedKafka
from tests.fanout.cluster import PARTITIONS, Places, kafka_broker, presence_of
from tests.fanout.sinks import Heard, Tasks, told, until
from tests.support.services import need_kafka
from tests.support.silence import in_silence


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    owner = Tasks()
    yield owner
    assert not owner.running, "a broker left tasks behind"
    assert not owner.failures


class Node:
    """A broker, the presence that it asks, and what it has heard."""

    def __init__(self, broker: KafkaBroker, presence: RedisPresence, heard: Heard) -> None:
        self.broker, self.presence, self.heard = broker, presence, heard


@pytest.fixture
def partitions() -> int:
    return PARTITIONS


@pytest.fixture
async def nodes(pool: asyncpg.Pool, places: Places, tasks: Tasks, partitions: int) -> AsyncIterator[list[Node]]:
    """Three, with one of the users 1, 2 and 3 on each. They know each other."""
    made: list[Node] = []
    async with AsyncExitStack() as stack:
        for number, name in enumerate(("a", "b", "c"), 1):
            heard, presence = Heard(), presence_of(name, pool, places, tasks, partitions=partitions)
            await presence.start()
            stack.push_async_callback(presence.stop)
            await presence.enter([(number, "phone")])
            broker = kafka_broker(name, places, presence, heard.listeners, tasks, partitions=partitions)
            await broker.start()
            stack.push_async_callback(broker.stop)
            made.append(Node(broker, presence, heard))
        for node in made:
            while not (where := await node.presence.nodes_of([1])) or where.unsure or where.peers < len(made) - 1:
                await asyncio.sleep(0.01)
        yield made


@pytest.mark.parametrize("partitions", [1, 2, 4])
async def test_each_node_hears_what_concerns_it_and_no_more(nodes: list[Node], partitions: int) -> None:
    """Also where they share the one partition that is there for single nodes, or the one that is for all."""
    a, b, c = nodes
    before = a.broker.counts.said.copy()
    a.broker.announce_events(told([(1, 1), (2, 1), (3, 1), (4, 1), (2, 2)]))
    a.broker.publish_users([1, 2, 9], b"{}")
    a.broker.announce_replaced(3, "phone", 99)
    await until(lambda: b.heard.users and c.heard.replaced)
    assert [event[:2] for event in b.heard.events] == [(2, 1), (2, 2)]
    assert [event[:2] for event in c.heard.events] == [(3, 1)]
    assert (b.heard.users, c.heard.users) == ([([2], b"{}")], [])
    assert (b.heard.replaced, c.heard.replaced) == ([], [(3, "phone", 99)])
    assert a.broker.counts.said - before - Counter(beat=99) == {"one": 2}, "a record for each"
    assert bool(b.broker.counts.heard["skipped"]) == (partitions < PARTITIONS), "others' are seen where they are shared"
    b.broker.announce_events(told([(1, 2)]))
    await until(lambda: a.heard.events)
    assert [event[:2] for event in a.heard.events] == [(1, 2)]


async def test_who_is_nowhere_else_costs_no_record(nodes: list[Node]) -> None:
    a, b, _ = nodes
    before = a.broker.counts.said["one"], a.broker.counts.said["all"]
    a.broker.announce_events(told([(1, 1), (77, 5)]))
    a.broker.publish_users([1, 77], b"{}")
    a.broker.announce_replaced(77, "phone", 9)
    a.broker.announce_events(told([(2, 1)]))
    await until(lambda: b.heard.events)
    assert (a.broker.counts.said["one"], a.broker.counts.said["all"]) == (before[0] + 1, before[1])


async def test_who_is_on_most_nodes_is_told_once_to_all(nodes: list[Node]) -> None:
    a, b, c = nodes
    await b.presence.enter([(5, "phone")])
    await c.presence.enter([(5, "tablet")])
    before = a.broker.counts.said["one"], a.broker.counts.said["all"]
    a.broker.announce_events(told([(5, 1)]))
    await until(lambda: b.heard.events and c.heard.events)
    assert (a.broker.counts.said["one"], a.broker.counts.said["all"]) == (before[0], before[1] + 1)


async def test_whose_whereabouts_are_unknown_is_told_to_all(nodes: list[Node], valkey: str) -> None:
    a, b, c = nodes
    a.presence._away = True
    a.broker.announce_events(told([(2, 1), (77, 5)]))
    await until(lambda: b.heard.events and c.heard.events)
    assert [event[:2] for event in b.heard.events] == [(2, 1), (77, 5)]


async def test_what_is_no_record_of_ours_is_counted_and_skipped(nodes: list[Node], places: Places) -> None:
    _, b, _ = nodes
    producer = Kafka(places.kafka).producer()
    await start(producer)
    own = b.presence._members.incarnation.encode()
    garbage = [(None, b"?"), (b"", None), (b"?", b"?"), (b"=\xff", b"?"), (b"=" + own, b"{"), (b"*x", None)]
    garbage += [(b"=" + own, b'[["unheard",1]]'), (b"=nobody", b'[["compare"]]'), (b"~nobody", b"1")]
    for key, value in garbage:
        await producer.send_and_wait(f"{places.prefix}.fanout", value, key=key, partition=0)
    await producer.send_and_wait(f"{places.prefix}.fanout", b'[["heads",[[2,9]]]]', key=b"=" + own, partition=0)
    await bury(producer)
    await until(lambda: b.heard.heads == [(2, 9)])
    assert (b.broker.counts.heard["unreadable"], b.broker.counts.failures.total()) == (6, 0)


async def test_what_is_too_large_is_dropped_and_nothing_else(nodes: list[Node]) -> None:
    a, b, _ = nodes
    a.broker.publish_topic("live:a", b'"%s"' % (b"x" * broker_kafka.RECORD_BYTES_MAX))
    a.broker.publish_topic("live:a", b'"%s"' % (b"y" * 2_000_000))
    a.broker.announce_events(told([(2, 1)]))
    await until(lambda: b.heard.topics and b.heard.events)
    assert [len(envelope) for _, envelope in b.heard.topics] == [2_000_002]
    assert (a.broker.counts.dropped["too_large"], a.broker.counts.failures.total()) == (1, 0)


async def test_a_topic_that_somebody_else_made_smaller_is_used_as_it_is(
    nodes: list[Node], places: Places, pool: asyncpg.Pool, tasks: Tasks
) -> None:
    """Three partitions where four were meant: two share, and the node that was to read the fourth still hears."""
    other = places._replace(prefix=f"{places.prefix}-small")
    await Kafka(places.kafka).ensure([Topic(f"{other.prefix}.fanout", 3)])
    brokers, heard = [], [Heard() for _ in nodes]
    for node, name, each in zip(nodes, "abc", heard, strict=True):
        brokers.append(kafka_broker(name, other, node.presence, each.listeners, tasks))
        await brokers[-1].start()
    brokers[0].announce_events(told([(2, 1), (3, 1)]))
    await until(lambda: heard[1].events and heard[2].events)
    assert heard[0].events == []
    for broker in brokers:
        await broker.stop()


async def test_partitions_that_somebody_adds_are_read(
    nodes: list[Node], places: Places, pool: asyncpg.Pool, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who writes takes them for what they were meant for, and who reads misses its heartbeat."""
    monkeypatch.setattr(broker_kafka, "BEAT_EVERY_S", 0.1)
    monkeypatch.setattr(broker_kafka, "DEAF_S", 3.0)
    common = {"bootstrap_servers": places.kafka, "metadata_max_age_ms": 100}
    monkeypatch.setattr(Kafka, "_common", lambda _: common)
    other = places._replace(prefix=f"{places.prefix}-small")
    await Kafka(places.kafka).ensure([Topic(f"{other.prefix}.fanout", 2)])
    brokers, heard = [], [Heard() for _ in nodes]
    for node, name, each in zip(nodes, "abc", heard, strict=True):
        brokers.append(kafka_broker(name, other, node.presence, each.listeners, tasks))
        await brokers[-1].start()
    admin = AIOKafkaAdminClient(bootstrap_servers=places.kafka)
    await admin.start()
    await admin.create_partitions({f"{other.prefix}.fanout": NewPartitions(PARTITIONS)})
    await admin.close()
    own = [{0, node.presence.partition} for node in nodes]
    await until(
        lambda: [set(broker._next_offsets) for broker in brokers] == own and not any(b._is_deaf for b in brokers)
    )
    compares = [each.compares for each in heard]
    assert min(compares) > 0, "something may have been missed"
    brokers[0].announce_events(told([(2, 1), (3, 1)]))
    await until(lambda: heard[1].events and heard[2].events)
    assert brokers[1].counts.heard["skipped"] == brokers[2].counts.heard["skipped"] == 0
    for broker in brokers:
        await broker.stop()


async def test_missing_topics_that_cannot_be_created_are_named(kafka: str) -> None:
    names = ["x" * 250, "no/slash", f"fine-{os.getpid()}"]
    with pytest.raises(TopicsMissing) as missing:
        await Kafka(kafka).ensure([Topic(name, 1) for name in names])
    assert set(missing.value.topics) == {"x" * 250, "no/slash"}
    assert "no/slash (InvalidTopicError)" in str(missing.value)
    await Kafka(kafka).ensure([Topic(names[2], 1)])


async def test_a_node_that_does_not_hear_itself_listens_anew(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a reader has died silently."""
    a, b, _ = nodes
    monkeypatch.setattr(broker_kafka, "BEAT_EVERY_S", 0.1)
    await until(lambda: min(b.broker.beat_ages().values()) < 0.2)
    assert len(b.broker.beat_ages()) == 2, "on both partitions"
    assert 0 < b.broker.counts.round_trip_s < 5
    monkeypatch.setattr(broker_kafka, "DEAF_S", 1.0)
    monkeypatch.setattr(b.broker, "_hear_oneself", lambda _: None)
    compares = b.heard.compares
    await until(lambda: b.broker.counts.failures["listen"])
    monkeypatch.undo()
    await until(lambda: b.heard.compares > compares and not b.broker._is_deaf)
    a.broker.announce_events(told([(2, 1)]))
    await until(lambda: b.heard.events)


async def test_who_missed_records_compares(nodes: list[Node]) -> None:
    """They were deleted, or Kafka has lost its disk."""
    a, b, _ = nodes
    compares = b.heard.compares
    b.broker._next_offsets = {each: offset - 5 for each, offset in b.broker._next_offsets.items()}
    a.broker.announce_events(told([(2, 1)]))
    await until(lambda: b.heard.events and b.heard.compares > compares)
    assert b.broker.counts.gaps > 0


async def test_who_slept_reads_the_inbox_instead_of_all_that_was_said(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch, places: Places
) -> None:
    _, b, _ = nodes
    monkeypatch.setattr(broker_kafka, "BEHIND_MAX", 50)
    monkeypatch.setattr(broker_kafka, "RECORDS_AT_ONCE", 10)
    producer = Kafka(places.kafka).producer(linger_ms=20)
    await start(producer)
    value = b'[["heads",[[2,9]]]]'
    said = [await producer.send(f"{places.prefix}.fanout", value, key=b"*x", partition=0) for _ in range(500)]
    await asyncio.gather(*said)
    await until(lambda: b.heard.heads and b.broker.counts.gaps)
    assert len(b.heard.heads) < 500
    await producer.send_and_wait(f"{places.prefix}.fanout", b'[["heads",[[2,10]]]]', key=b"*x", partition=0)
    await until(lambda: (2, 10) in b.heard.heads)
    await bury(producer)


@pytest.mark.parametrize("when", ["before", "meanwhile", "later"])
async def test_a_producer_with_a_batch_that_is_to_be_repeated_is_buried_in_silence(kafka: str, when: str) -> None:
    """aiokafka has forgotten by then that it is on its way."""
    topic = f"buried-{os.getpid()}"
    await Kafka(kafka).ensure([Topic(topic, 1)])

    async def send_and_bury() -> None:
        producer = Kafka(kafka).producer(linger_ms=60_000)
        await start(producer)
        sent = await producer.send(topic, b"x", partition=0)
        kept = producer._message_accumulator
        batch = kept._pop_batch(TopicPartition(topic, 0))
        if when == "before":
            kept.reenqueue(batch)
        burying = asyncio.ensure_future(bury(producer))
        if when == "meanwhile":
            asyncio.get_running_loop().call_soon(
                kept.reenqueue, batch
            )  # after the grave is dug, before the batch hears of it
        await burying
        if when == "later":
            kept.reenqueue(batch)
        with pytest.raises(KafkaError):
            await sent

    await in_silence(send_and_bury)


# Kafka away


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shaky_kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedKafka]:
    """One that tests may kill and freeze; they leave it running."""
    need_kafka()
    async with EmbeddedKafka(tmp_path_factory.mktemp("shaky-kafka")) as server:
        yield server


async def test_an_idempotent_producer_with_a_batch_on_its_way_is_buried_in_silence(shaky_kafka: EmbeddedKafka) -> None:
    """aiokafka's own clean-up takes it for one with transactions."""
    kafka, topic = Kafka(shaky_kafka.bootstrap), f"buried-{os.getpid()}"
    await kafka.ensure([Topic(topic, 1)])

    async def send_and_bury() -> None:
        producer = kafka.producer(acks="all", enable_idempotence=True)
        await start(producer)
        await producer.send_and_wait(topic, b"x", partition=0)
        os.kill(shaky_kafka.pid, signal.SIGSTOP)
        try:
            sent = await producer.send(topic, b"y", partition=0)
            await until(lambda: producer._sender._in_flight)
            await bury(producer)
        finally:
            os.kill(shaky_kafka.pid, signal.SIGCONT)
        with pytest.raises(KafkaError):
            await sent

    await in_silence(send_and_bury)


async def test_a_commit_that_is_given_up_is_heard_of_no_more(shaky_kafka: EmbeddedKafka) -> None:
    """aiokafka goes on with it, and leaves it to the log what became of it."""
    kafka, topic = Kafka(shaky_kafka.bootstrap), f"committed-{os.getpid()}"
    await kafka.ensure([Topic(topic, 1)])

    async def commit_and_bury() -> None:
        consumer, at = kafka.consumer(group_id=topic, enable_auto_commit=False), TopicPartition(topic, 0)
        consumer.subscribe([topic])
        await start(consumer)
        await until(consumer.assignment)
        await commit(consumer, {at: 7})
        assert await consumer.committed(at) == 7
        with pytest.raises(KafkaError):
            await commit(consumer, {TopicPartition(topic, 1): 7})
        os.kill(shaky_kafka.pid, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await commit(consumer, {at: 8})
            await bury(consumer)
        finally:
            os.kill(shaky_kafka.pid, signal.SIGCONT)

    await in_silence(commit_and_bury)


@pytest.fixture
async def brokers(
    shaky_kafka: EmbeddedKafka, prefix: str, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[list[KafkaBroker], list[Heard]]]:
    """Two, of which nobody knows who is where, short of patience."""
    monkeypatch.setattr(broker_kafka, "SEND_S", 0.5)
    monkeypatch.setattr(broker_kafka, "BEAT_EVERY_S", 0.2)
    monkeypatch.setattr(broker_kafka, "DEAF_S", 2.0)
    monkeypatch.setattr(broker_kafka, "RETRY_MOST_S", 0.5)
    places, heard = Places(shaky_kafka.bootstrap, "", prefix), [Heard(), Heard()]
    made = [kafka_broker(name, places, None, each.listeners, tasks) for name, each in zip("ab", heard, strict=True)]
    yield made, heard
    for broker in made:
        await stop(broker)


async def stop(broker: KafkaBroker) -> None:
    began = time.monotonic()
    await broker.stop()
    assert time.monotonic() - began < 8, "stopping hangs"  # a second, where the machine is not busy


async def test_a_killed_kafka_keeps_nobody_waiting_and_all_compare_when_it_is_back(
    shaky_kafka: EmbeddedKafka, brokers: tuple[list[KafkaBroker], list[Heard]], tasks: Tasks
) -> None:
    (a, b), (_, heard) = brokers
    os.kill(shaky_kafka.pid, signal.SIGKILL)
    began = time.monotonic()
    await a.start()
    assert time.monotonic() - began < 10, "starting hangs"
    await shaky_kafka.start()
    await b.start()
    await until(lambda: not a._is_dumb and not a._is_deaf, 30)
    a.announce_events(told([(7, 1)]))
    await until(lambda: (7, 1) in [event[:2] for event in heard.events])

    os.kill(shaky_kafka.pid, signal.SIGKILL)
    for number in range(3 * EVENTS_MAX):
        a.announce_events(told([(number, 1)]))
        a.publish_topic("live:a", b'"%s"' % (b"x" * 1_000))
        a.publish_users([7], b"{}")
    await until(lambda: a._is_dumb)
    a.announce_events(told((number, 2) for number in range(3 * EVENTS_MAX)))
    assert not a._outbox.events, "nothing is kept that will be compared anyway"
    assert a.counts.dropped["events"] + a._outbox.dropped >= 3 * EVENTS_MAX
    a.publish_topic("live:a", b"late")
    heard.topics.clear()
    compares = heard.compares
    third = kafka_broker("c", Places(shaky_kafka.bootstrap, "", "third"), None, Heard().listeners, tasks)
    await third.start()
    await stop(third)

    await shaky_kafka.start()
    await until(lambda: heard.compares > compares, 30)
    await until(lambda: not a._is_dumb and not b._is_deaf, 30)
    a.announce_events(told([(7, 3)]))
    await until(lambda: (7, 3) in [event[:2] for event in heard.events], 30)
    assert heard.topics == [], "nobody wants ephemeral events later"


async def test_a_frozen_kafka_keeps_nobody_waiting_and_all_compare_when_it_goes_on(
    shaky_kafka: EmbeddedKafka, brokers: tuple[list[KafkaBroker], list[Heard]], tasks: Tasks
) -> None:
    (a, b), (heard_a, heard) = brokers
    await a.start()
    await b.start()
    await until(lambda: heard_a.compares)
    os.kill(shaky_kafka.pid, signal.SIGSTOP)
    try:
        compares = heard.compares
        a.announce_events(told([(7, 1)]))
        await until(lambda: a._is_dumb)
        third = kafka_broker("c", Places(shaky_kafka.bootstrap, "", "third"), None, Heard().listeners, tasks)
        starting = asyncio.ensure_future(third.start())
        await asyncio.sleep(0.5)
        await until(lambda: b.counts.failures["listen"], 30)
        starting.cancel()
        await asyncio.wait([starting], timeout=3)
        assert starting.done()
        await stop(third)
    finally:
        os.kill(shaky_kafka.pid, signal.SIGCONT)
    await until(lambda: heard.compares > compares, 30)
    await until(lambda: not a._is_dumb and not b._is_deaf, 30)
    a.announce_events(told([(7, 2)]))
    await until(lambda: (7, 2) in [event[:2] for event in heard.events], 30)


async def test_stopping_beside_a_frozen_kafka_takes_a_second(
    shaky_kafka: EmbeddedKafka, brokers: tuple[list[KafkaBroker], list[Heard]]
) -> None:
    (a, _), _ = brokers
    await a.start()
    os.kill(shaky_kafka.pid, signal.SIGSTOP)
    try:
        a.announce_events(told([(7, 1)]))
        await asyncio.sleep(0.05)
        await stop(a)
    finally:
        os.kill(shaky_kafka.pid, signal.SIGCONT)
