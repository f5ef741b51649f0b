"""Nodes, Kafka, Valkey and PostgreSQL die, freeze and are cut off under load: what three nodes have acknowledged is
told to all, in order, once on a connection, late at the worst; and at the end all is as before."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import ClassVar, Final, NamedTuple
from urllib.parse import urlsplit

import pytest

from gateway.cluster.kafka import EmbeddedKafka
from gateway.cluster.valkey import EmbeddedValkey
from storage.db import connect
from storage.embedded import EmbeddedPostgres
from tests.journeys.conftest import through_kafka
from tests.journeys.test_cluster import becomes
from tests.journeys.test_faults import FANS, Crowd, Place, check
from tests.support.cable import Cable
from tests.support.cluster import SECRET, NodeProcess
from tests.support.engagements import seed
from tests.support.folders import prepare
from tests.support.processes import freeze, nothing_broke, postmaster_of, processes_in, thaw
from tests.support.scrape import named, scrape
from tests.support.services import need_kafka, need_valkey

NODES: Final = 3
SOME: Final = 100  # acknowledged actions that make a load
BEYOND_A_LEASE_S: Final = float(os.environ.get("TESTS_FREEZE_S", "17"))  # and beyond every other time-out of nodes
BEYOND_AN_ANSWER_S: Final = 8.0


class KafkaOnTwoWays(EmbeddedKafka):
    """With a second listener, which it says is at the end of a cable."""

    ports_needed: ClassVar = 3

    def __init__(self, folder: Path, cable: Cable) -> None:
        super().__init__(folder)
        self._cable = cable

    async def prepare(self) -> Sequence[str | os.PathLike[str]]:
        command = await super().prepare()
        direct, _, self._cable.to = self.ports
        written = self._properties.read_text()
        for line, more in (
            (f"\nlisteners=PLAINTEXT://127.0.0.1:{direct}", f",CABLE://127.0.0.1:{self._cable.to}"),
            (f"\nadvertised.listeners=PLAINTEXT://127.0.0.1:{direct}", f",CABLE://127.0.0.1:{self._cable.port}"),
        ):
            assert line in written
            written = written.replace(line, line + more)
        names = ("CONTROLLER", "PLAINTEXT", "CABLE")
        written += f"listener.security.protocol.map={','.join(f'{name}:PLAINTEXT' for name in names)}\n"
        self._properties.write_text(written)
        return command


class Ground(NamedTuple):
    """What nodes stand on, and a cable to each that one of them uses."""

    postgres: EmbeddedPostgres
    postgres_dir: Path
    kafka: KafkaOnTwoWays
    valkey: EmbeddedValkey
    to_postgres: Cable
    to_kafka: Cable
    to_valkey: Cable

    def signal(self, number: signal.Signals) -> None:
        """To Kafka and Valkey."""
        for pid in (self.kafka.pid, self.valkey.pid):
            os.kill(pid, number)


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    """Of this test's own, to be broken. PostgreSQL comes back by itself, as under somebody's supervision."""
    need_kafka()
    need_valkey()
    async with AsyncExitStack() as stack:
        to_postgres, to_kafka, to_valkey = [await stack.enter_async_context(Cable()) for _ in range(3)]
        folder = tmp_path / "postgres"
        prepare(folder)
        postgres = await stack.enter_async_context(EmbeddedPostgres(folder))
        kafka = await stack.enter_async_context(KafkaOnTwoWays(tmp_path / "kafka", to_kafka))
        valkey = await stack.enter_async_context(EmbeddedValkey(tmp_path / "valkey"))
        to_postgres.to, to_valkey.to = urlsplit(postgres.dsn).port or 0, urlsplit(valkey.url).port or 0
        conn = await connect(postgres.dsn)
        await seed(conn, fans=FANS)
        await conn.close()
        watching = asyncio.create_task(postgres.keep_running())
        yield Ground(postgres, folder, kafka, valkey, to_postgres, to_kafka, to_valkey)
        watching.cancel()
        await asyncio.wait([watching])


class Story(NamedTuple):
    """Nodes with people on them, who act all the time."""

    nodes: list[NodeProcess]
    place: Place
    crowd: Crowd


@asynccontextmanager
async def story(nodes: list[NodeProcess], ground: Ground) -> AsyncIterator[Story]:
    """At its end all that must hold of what happened is checked, and that the nodes tell each other again."""
    try:
        await asyncio.gather(*(node.ready() for node in nodes))
        place = Place([node.url for node in nodes], SECRET, ground.postgres.dsn, ground.postgres_dir)
        async with Crowd(place) as crowd:
            await crowd.acknowledges(SOME)
            yield Story(nodes, place, crowd)
            await crowd.acknowledges(SOME)
            did = await crowd.finish()
            await check(place, crowd, did)
            for node in nodes:
                await becomes(lambda node=node: settled(node), (True, NODES - 1))
    finally:
        statuses = await asyncio.gather(*(node.stop() for node in nodes))
    assert statuses == [0] * len(nodes)
    for node in nodes:
        nothing_broke(node.log)


async def settled(node: NodeProcess) -> tuple[bool, int]:
    """Whether it hears itself on every bus, and how many others it knows to hold what they hold."""
    now = await scrape(node.url)
    ages = [age for (name, _), age in now.items() if name == "applause_bus_heartbeat_age_seconds"]
    return max(ages) < 10, round(now[named("applause_presence_nodes{trust=sure}")])


@pytest.mark.timeout(300)
async def test_everything_dies_and_freezes_under_load(ground: Ground, tmp_path: Path) -> None:
    """A node is frozen beyond its lease; meanwhile Valkey and Kafka are killed and frozen, and another node is killed.
    Then PostgreSQL is killed, and frozen."""
    bus = through_kafka(ground.kafka.bootstrap, ground.valkey.url, tmp_path)

    def node(number: int) -> NodeProcess:
        return NodeProcess(ground.postgres.dsn, tmp_path / f"node{number}.log", **bus)

    async with story([node(number) for number in range(NODES)], ground) as (nodes, place, crowd):
        nodes[2].freeze()
        frozen = asyncio.create_task(asyncio.sleep(BEYOND_A_LEASE_S))
        os.kill(ground.valkey.pid, signal.SIGKILL)
        await crowd.acknowledges(SOME)
        await ground.valkey.start()
        os.kill(ground.kafka.pid, signal.SIGKILL)
        await crowd.acknowledges(SOME)
        await ground.kafka.start()
        await crowd.acknowledges(SOME)
        ground.signal(signal.SIGSTOP)
        await crowd.acknowledges(SOME)
        ground.signal(signal.SIGCONT)

        nodes[1].process.kill()  # and another one in its place
        nodes[1].process.wait()
        nodes[1] = node(NODES)
        await nodes[1].ready()
        place.urls[1] = nodes[1].url
        await crowd.acknowledges(SOME)
        await frozen
        nodes[2].thaw()
        await crowd.acknowledges(SOME)

        for pid in (postmaster_of(ground.postgres_dir), *processes_in(ground.postgres_dir)):
            os.kill(pid, signal.SIGKILL)
        await crowd.acknowledges(SOME)
        freeze(ground.postgres_dir)
        await asyncio.sleep(BEYOND_AN_ANSWER_S)
        thaw(ground.postgres_dir)


@pytest.mark.timeout(300)
async def test_each_node_is_cut_off_from_another_service_under_load(ground: Ground, tmp_path: Path) -> None:
    """The first from PostgreSQL, the second from Valkey, the third from Kafka, for longer than a lease: each serves
    whom it can, and tells and hears what it can."""
    direct = through_kafka(ground.kafka.bootstrap, ground.valkey.url, tmp_path)

    def through(cable: Cable) -> Callable[[str], str]:
        return lambda address: address.replace(f":{cable.to}", f":{cable.port}")

    cut_dsn = through(ground.to_postgres)(ground.postgres.dsn)
    cut_valkey = direct | {"REDIS__URL": through(ground.to_valkey)(ground.valkey.url)}
    cut_kafka = direct | {"KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{ground.to_kafka.port}"}
    places = [(cut_dsn, direct), (ground.postgres.dsn, cut_valkey), (ground.postgres.dsn, cut_kafka)]
    nodes = [NodeProcess(dsn, tmp_path / f"node{number}.log", **bus) for number, (dsn, bus) in enumerate(places)]
    cables = (ground.to_postgres, ground.to_valkey, ground.to_kafka)
    async with story(nodes, ground) as (_, _, crowd):
        for cable in cables:
            cable.pull()
        cut = asyncio.create_task(asyncio.sleep(BEYOND_A_LEASE_S))
        for _ in range(3):
            await crowd.acknowledges(SOME)
        for noticed, node in (("can't listen", nodes[2]), ("Redis is away", nodes[1]), ("renew its lease", nodes[0])):
            await becomes(lambda noticed=noticed, node=node: says(node, noticed), True)
        await cut
        await crowd.acknowledges(SOME)
        for cable in cables:
            cable.plug_in()


async def says(node: NodeProcess, words: str) -> bool:
    return words in node.log
