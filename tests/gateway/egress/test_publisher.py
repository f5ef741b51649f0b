"""The ledger on a real Kafka: all of it, each user's entries in their order, whatever breaks in between."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import asyncpg
import pytest
import structlog
from aiokafka.admin import AIOKafkaAdminClient

from gateway import ground, settings
from gateway.cluster.kafka import EmbeddedKafka
from gateway.egress import publisher, sender, watch
from gateway.egress.counts import EgressCounts
from gateway.egress.watch import EgressWatch
from handlers.wallet.handler import WalletHandler
from handlers.wallet.wire import HistoryRequest
from handlers.wire import encode
from storage.users import insert_unknown_users
from tests.support.egress import PATIENCE_S, Consumer, Publishing, consumer, publishing
from tests.support.services import need_kafka
from tests.support.writers import Writer, writers

USERS: Final = range(1, 31)
_prefixes = itertools.count(1)


@pytest.fixture
def prefix() -> str:
    return f"egress-{os.getpid()}-{next(_prefixes)}"


@pytest.fixture
async def reader(kafka: str, prefix: str) -> AsyncIterator[Consumer]:
    async with consumer(kafka, prefix) as made:
        yield made


@pytest.fixture
async def writer(dsn: str, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Writer]:
    monkeypatch.setattr(publisher, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(publisher, "CLAIM_EVERY_S", 0.1)
    await insert_unknown_users(conn, USERS, [None] * len(USERS))
    [made] = await writers(dsn, 1)
    yield made
    await made.conn.close()


async def post(writer: Writer, times: int) -> None:
    """An entry for everybody, so many times."""
    for _ in range(times):
        await writer.begin()
        await writer.post(*USERS)
        await writer.end()


async def swept(conn: asyncpg.Connection, prefix: str) -> None:
    """Return when the sweep is over: what is committed meanwhile may come twice."""
    async with asyncio.timeout(PATIENCE_S):
        while not await conn.fetchval("SELECT swept_user IS NULL FROM egress WHERE topic = $1", f"{prefix}.ledger"):
            await asyncio.sleep(0.02)


async def test_a_record_is_a_row_of_the_history_and_the_epoch(
    reader: Consumer, writer: Writer, kafka: str, prefix: str, dsn: str, conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    await post(writer, 1)
    async with publishing(dsn, kafka, prefix, partitions=3) as node:
        await reader.has_all(conn)
        await swept(conn, prefix)
        await post(writer, 3)
        await reader.has_all(conn)
        await node.until(lambda: node.counts.records == 4 * len(USERS), "the count")
        assert (node.counts.sweeps, node.counts.failures) == (1, 0)
    assert len(reader.records) == 4 * len(USERS)
    record = next(each for each in reader.records if (each["userId"], each["n"]) == (7, 2))
    [_, _, row, _] = (await WalletHandler(pool=pool).history(7, HistoryRequest())).transactions
    assert len(record.pop("epoch")) == 16
    assert encode(record) == encode(row)


async def test_the_topic_is_there_when_a_node_has_started(kafka: str, prefix: str) -> None:
    """But for one that takes no part."""
    servers = settings.Kafka(bootstrap_servers=(kafka,), prefix=prefix)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await ground.topics(settings.Settings(kafka=servers, egress=settings.Egress(enabled=False)))
    assert f"{prefix}.ledger" not in await admin.list_topics()
    await ground.topics(settings.Settings(kafka=servers, egress=settings.Egress(partitions=3)))
    async with asyncio.timeout(PATIENCE_S):
        while True:  # a topic that has just been made may have none yet
            [described] = await admin.describe_topics([f"{prefix}.ledger"])
            if described["partitions"]:
                break
            await asyncio.sleep(0.05)
    assert len(described["partitions"]) == 3
    await admin.close()


async def test_who_comes_after_goes_on_where_it_was(
    reader: Consumer, writer: Writer, kafka: str, prefix: str, dsn: str, conn: asyncpg.Connection
) -> None:
    """Also at once, where the one before has left; and while one publishes, no other does."""
    async with publishing(dsn, kafka, prefix):
        await swept(conn, prefix)
    for times in range(1, 4):
        async with publishing(dsn, kafka, prefix) as node, publishing(dsn, kafka, prefix) as other:
            await post(writer, 2)
            await reader.has_all(conn)
            # Who ends between Kafka's answer and the place repeats that page.
            await node.until(lambda: node.counts.records + other.counts.records == 2 * len(USERS), "the place")
            assert node.counts.is_publishing is not other.counts.is_publishing
        assert len(reader.records) == 2 * times * len(USERS), "nothing twice"


async def test_a_page_of_several_batches_and_one_that_fails(
    reader: Consumer,
    writer: Writer,
    kafka: str,
    prefix: str,
    dsn: str,
    conn: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was sent before the fault comes again, and what was behind it not before it."""
    monkeypatch.setattr(sender, "BATCH_BYTES", 4_000)
    real, calls = sender.Sender._send_first, itertools.count()

    async def fails_at_times(self: sender.Sender, producer: object, waiting: dict[int, list[object]]) -> None:
        if next(calls) in (2, 5, 9):
            raise TimeoutError
        await real(self, producer, waiting)

    monkeypatch.setattr(sender.Sender, "_send_first", fails_at_times)
    await post(writer, 20)
    async with publishing(dsn, kafka, prefix, partitions=2) as node:
        await reader.has_all(conn)
        await node.until(lambda: node.counts.records == 20 * len(USERS), "the end")
        assert node.counts.failures >= 3
    assert len(reader.records) > 20 * len(USERS)


async def test_another_goes_on_for_one_whose_lease_ran_out(
    reader: Consumer, writer: Writer, kafka: str, prefix: str, dsn: str, conn: asyncpg.Connection
) -> None:
    """The first one stands still behind Kafka's answer, is replaced, and wakes up."""
    frozen = asyncio.Event()

    class StandsStill:
        async def reach(self, _: str) -> None:
            await frozen.wait()

    await post(writer, 1)
    slow = Publishing(dsn, kafka, prefix, lease_s=1)
    slow.publisher._failpoints = StandsStill()  # type: ignore[assignment]
    slow.supervisor.keep("egress", slow.publisher.run)
    await reader.has_all(conn)
    async with publishing(dsn, kafka, prefix, lease_s=1) as other:
        await post(writer, 2)
        await reader.has_all(conn)
        # Or more: what is posted while it sweeps may come in the sweep and once more behind it.
        await other.until(lambda: other.counts.records >= 3 * len(USERS), "the other")
        frozen.set()
        await slow.until(lambda: not slow.counts.is_publishing, "the end of it")
        await post(writer, 1)
        await reader.has_all(conn)
        assert slow.counts.records == 0
    await slow.supervisor.stop()


async def test_kafka_dies_under_load_and_comes_back(
    writer: Writer,
    prefix: str,
    dsn: str,
    conn: asyncpg.Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need_kafka()
    monkeypatch.setattr(sender, "SEND_S", 1.0)
    kafka = EmbeddedKafka(tmp_path / "kafka")
    servers = await kafka.start()
    try:
        async with publishing(dsn, servers, prefix) as node, consumer(servers, prefix) as reader:
            await post(writer, 3)
            await reader.has_all(conn)
            load = asyncio.create_task(post(writer, 100))
            await node.until(lambda: node.counts.records > 10 * len(USERS), "a load")
            os.kill(kafka.pid, signal.SIGKILL)
            await load
            await node.until(lambda: node.counts.failures > 0, "the loss")
            await kafka.start()
            await reader.has_all(conn)
        async with publishing(dsn, servers, prefix) as node, consumer(servers, prefix) as reader:
            await reader.has_all(conn)
            await node.until(lambda: node.counts.is_publishing, "its turn")
            os.kill(kafka.pid, signal.SIGSTOP)
            await post(writer, 1)
            await asyncio.sleep(0.3)
            begun = time.monotonic()
            await node.supervisor.stop()
            assert time.monotonic() - begun < 4, "it ends all the same"
            os.kill(kafka.pid, signal.SIGCONT)
    finally:
        await kafka.stop()


async def test_what_waits_for_long_is_told(
    writer: Writer,
    kafka: str,
    prefix: str,
    dsn: str,
    conn: asyncpg.Connection,
    pool: asyncpg.Pool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "ALARM_S", 0.3)
    counts = EgressCounts()
    looking = EgressWatch(pool=pool, topic=f"{prefix}.ledger", counts=counts)
    await looking.look()
    async with publishing(dsn, kafka, prefix) as node:
        await swept(conn, prefix)
        [late] = await writers(dsn, 1)
        await late.begin()
        await post(writer, 1)
        await asyncio.sleep(0.4)
        with structlog.testing.capture_logs() as lines:
            await looking.look()
            await looking.look()
            assert (counts.lag.entries, counts.lag.is_sweeping) == (len(USERS), False)
            await late.end()
            await node.until(lambda: node.counts.records == len(USERS), "all")
            await looking.look()
        await late.conn.close()
    assert [line["event"] for line in lines] == ["egress_behind", "egress_caught_up"]
    assert lines[0]["entries"] == len(USERS)
    assert counts.lag.entries == 0
