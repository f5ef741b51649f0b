"""Door 3 while nodes, the database and Kafka die, freeze and come back: everything is taken in once, in its order."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from gateway.cluster.kafka import EmbeddedKafka
from storage import db, users
from storage.embedded import running_dsn
from tests.support.cluster import NodeProcess, cluster
from tests.support.intake import Backends, Flow, backends
from tests.support.processes import freeze, postmaster_of, thaw
from tests.support.scrape import named, scrape
from tests.support.server import running
from tests.support.services import need_kafka

SESSION_S: Final = 1.5
ASLEEP_S: Final = 3.0
TOPICS: Final = ("events", "directory", "commands")
PATIENCE_S: Final = 60.0
_prefixes = itertools.count(1)


@pytest.fixture
async def others(kafka: str, conn: asyncpg.Connection) -> AsyncIterator[Backends]:
    await users.insert_unknown_users(conn, Flow.USERS, [None] * len(Flow.USERS))
    async with backends(kafka, f"faults-{os.getpid()}-{next(_prefixes)}") as made:
        yield made


async def sample(node: NodeProcess, name: str) -> float:
    return (await scrape(node.url)).get(named(name), 0.0)


async def has_partitions(node: NodeProcess, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while sum([await sample(node, f"applause_intake_partitions{{topic={each}}}") for each in TOPICS]) != count:
            await asyncio.sleep(0.05)


@asynccontextmanager
async def lone_node(dsn: str, log: Path, **settings: object) -> AsyncIterator[NodeProcess]:
    """One that is to die, or to sleep."""
    node = NodeProcess(dsn, log, **settings)
    try:
        await node.ready()
        yield node
    finally:
        if node.process.poll() is None:
            node.process.kill()
            node.process.wait()


@pytest.mark.parametrize("point", ["after_receipt", "after_commit_before_ack", "after_commit_before_delivery"])
async def test_a_node_that_dies_leaves_nothing_undone_and_nothing_done_twice(
    others: Backends, dsn: str, conn: asyncpg.Connection, tmp_path: Path, point: str
) -> None:
    flow = Flow(others)
    settings = others.settings | {"INTAKE__SESSION_TIMEOUT_S": SESSION_S, "LANE__BATCH": 20}
    async with lone_node(dsn, tmp_path / "doomed.log", **settings, FAILPOINTS=f"{point}=kill:4") as doomed:
        await flow.write(200)
        async with asyncio.timeout(PATIENCE_S):
            assert await asyncio.to_thread(doomed.process.wait) == -signal.SIGKILL
    async with cluster(dsn, tmp_path, 1, **settings):
        await flow.write(50)
        await flow.check(conn)


async def test_a_member_that_slept_changes_nothing_when_it_wakes(
    others: Backends, dsn: str, conn: asyncpg.Connection, tmp_path: Path
) -> None:
    """It is frozen with a batch in its hands, the group gives its partitions to the other, and then it goes on."""
    flow = Flow(others)
    settings = others.settings | {"INTAKE__SESSION_TIMEOUT_S": SESSION_S}
    async with lone_node(dsn, tmp_path / "zombie.log", **settings, FAILPOINTS="after_receipt=pause:1s") as zombie:
        await has_partitions(zombie, 6)
        await flow.write(60)
        before = await conn.fetchval("SELECT sum(next) FROM ingress_offsets")
        zombie.freeze()
        async with cluster(dsn, tmp_path, 1, **settings) as [other]:
            await flow.write(60)
            await flow.check(conn)
            outcomes = len(await others.read("outcomes", 1))
            assert await conn.fetchval("SELECT sum(next) FROM ingress_offsets") > before
            zombie.thaw()
            async with asyncio.timeout(PATIENCE_S):
                while await sample(zombie, "applause_records_given_up_total") == 0:
                    await asyncio.sleep(0.05)
            await flow.check(conn)
            assert len(await others.read("outcomes", 1)) == outcomes
            await flow.write(60)
            await flow.check(conn)
            assert await sample(other, "applause_records_given_up_total") == 0


async def test_the_database_and_kafka_die_and_freeze_under_load(tmp_path: Path) -> None:
    """Each is killed and frozen, for longer than the group waits for anybody; the node stays, and goes on by itself."""
    need_kafka()
    kafka = EmbeddedKafka(tmp_path / "kafka")
    await kafka.start()
    try:
        async with (
            backends(kafka.bootstrap, "b") as others,
            running(tmp_path / "data", **others.settings, INTAKE__SESSION_TIMEOUT_S=SESSION_S) as gateway,
        ):
            dsn = running_dsn(gateway.data_dir)
            assert dsn is not None
            conn = await db.connect(dsn)
            await users.insert_unknown_users(conn, Flow.USERS, [None] * len(Flow.USERS))
            await conn.close()

            async def database_dies() -> None:
                os.kill(postmaster_of(gateway.data_dir), signal.SIGKILL)

            async def kafka_dies() -> None:
                os.kill(kafka.pid, signal.SIGKILL)
                await asyncio.sleep(1)
                await kafka.start()

            async def database_sleeps() -> None:
                freeze(gateway.data_dir)
                await asyncio.sleep(ASLEEP_S)
                thaw(gateway.data_dir)

            async def kafka_sleeps() -> None:
                os.kill(kafka.pid, signal.SIGSTOP)
                await asyncio.sleep(ASLEEP_S)
                os.kill(kafka.pid, signal.SIGCONT)

            flow = Flow(others)
            for happen in (database_dies, kafka_dies, database_sleeps, kafka_sleeps):
                writing = asyncio.create_task(flow.write(200))
                await asyncio.sleep(0.3)
                await happen()
                await writing
            async with gateway.database() as conn:
                await flow.check(conn)
    finally:
        await kafka.stop()
