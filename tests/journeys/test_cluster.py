"""Three real nodes on real Kafka and Valkey: they behave as one, and go on as one whatever is killed or frozen."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from gateway.cluster.kafka import EmbeddedKafka
from gateway.cluster.valkey import EmbeddedValkey
from storage.audit import audit
from tests.gateway.test_metrics import DASHBOARD
from tests.journeys.conftest import through_kafka
from tests.journeys.test_faults import FANS, Crowd, Place, check
from tests.support.clients import JsPhone
from tests.support.cluster import SECRET, NodeProcess, cluster
from tests.support.engagements import seed
from tests.support.pair import Pair, pair
from tests.support.scrape import Sample, moves, named, scrape
from tests.support.services import need_kafka, need_valkey

EVENTS: Final = 20
BEYOND_ITS_LEASE_S: Final = 17.0
RIGHT_WITHIN_S: Final = 30.0
SOME: Final = 150  # acknowledged actions that make a load


async def publish(nodes: Pair, *recipients: int, node: int = 0, **fields: Any) -> None:
    body = {"type": "news", "data": {}, "recipientIds": recipients, **fields}
    answer = await nodes.ask("POST", "/v1/events", body, node=node)
    assert answer.status == 200, answer


async def devices(nodes: Pair, user: int, node: int) -> set[str]:
    """Which of a user's devices are connected, as that node sees it; `?` while it does not know."""
    answer = await nodes.ask("GET", f"/v1/users/{user}/inbox", node=node)
    if answer.status == 503:
        return {"?"}
    return {device["deviceId"] for device in answer.body["devices"] if device["connected"]}


async def becomes(ask: Callable[[], Awaitable[object]], wanted: object, seconds: float = RIGHT_WITHIN_S) -> None:
    found: object = None
    try:
        async with asyncio.timeout(seconds):
            while (found := await ask()) != wanted:
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"it stays {found}, not {wanted}") from None


async def hear_all(phones: list[JsPhone], ids: list[str]) -> None:
    """All of these in this order and nothing twice, with `seq`s without a hole."""
    for phone in phones:
        await phone.until(lambda phone=phone: len(phone.events("news")) >= len(ids), str(ids))
        assert [event["id"] for event in phone.events("news")] == ids
        assert [event["seq"] for event in phone.events("news")] == list(range(1, len(ids) + 1))


async def test_three_nodes_are_one(dsn: str, conn: asyncpg.Connection, tmp_path: Path, kafka: str, valkey: str) -> None:
    """Events reach a user on every node without those nodes reading the inbox; presence follows nodes that die."""
    bus = through_kafka(kafka, valkey, tmp_path)
    # The comparison of heads may find an event that is just on its way, and have it read.
    async with pair(dsn, tmp_path, nodes=3, INBOX__COMPARE_EVERY_S=300, **bus) as nodes:
        phones = [await nodes.phone(7, node=node, deviceId=f"device-{node}") for node in range(3)]
        ids = [f"n{number}" for number in range(EVENTS)]
        before = [await scrape(node.url) for node in nodes.nodes]
        for event_id in ids:
            await publish(nodes, 7, id=event_id)
        await hear_all(phones, ids)
        for node in range(3):
            now = await scrape(nodes.nodes[node].url)
            assert moved(before[node], now, "applause_deliveries_total{kind=live}") == EVENTS
            assert moved(before[node], now, "applause_deliveries_total{kind=replayed}") == 0
            assert moved(before[node], now, "applause_pump_starts_total") == 0
            one = moved(before[node], now, "applause_fanout_records_total{direction=said,kind=one}")
            assert one == 0, "who is on most nodes is told to all at once"
            assert await devices(nodes, 7, node) == {"device-0", "device-1", "device-2"}
            shown = json.loads(DASHBOARD.read_text())
            wanted = {
                name
                for panel in shown["panels"]
                for target in panel["targets"]
                for name in re.findall(r"applause_(?:fanout|bus|presence)_\w+", target["expr"])
            }
            assert wanted <= {name for name, _ in now}
            ages = {
                dict(labels)["bus"]: age
                for (name, labels), age in now.items()
                if name.endswith("heartbeat_age_seconds")
            }
            assert set(ages) == {"kafka_all", "kafka_own", "redis"}
            assert max(ages.values()) < 15

        for number in range(EVENTS):  # from all of them in turn: what comes out of order is read
            ids.append(f"m{number}")
            await publish(nodes, 7, node=number % 3, id=ids[-1])
        await hear_all(phones, ids)

        # Not three records for who is on one other node, and none for who is on none.
        before_said = await scrape(nodes.nodes[0].url)
        eight = await nodes.phone(8, node=1)
        await publish(nodes, 8, 9, id="to one")
        await eight.told("news")
        await moves(nodes.nodes[0].url, before_said, {"applause_fanout_records_total{direction=said,kind=one}": 1})

        nodes.nodes[2].process.kill()
        assert await nodes.nodes[1].stop() == 0
        await becomes(lambda: devices(nodes, 7, 0), {"device-0"})
        nodes.nodes[1:] = []
        await publish(nodes, 7, id="last")
        await hear_all(phones[:1], [*ids, "last"])
    assert await audit(conn) == []


def moved(before: dict[Sample, float], now: dict[Sample, float], what: str) -> float:
    return now[named(what)] - before[named(what)]


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[tuple[EmbeddedKafka, EmbeddedValkey]]:
    """Of this test's own, to be broken."""
    need_kafka()
    need_valkey()
    async with EmbeddedKafka(tmp_path / "kafka") as kafka, EmbeddedValkey(tmp_path / "valkey") as valkey:
        yield kafka, valkey


async def test_kafka_valkey_and_nodes_die_and_freeze_under_load(
    dsn: str, conn: asyncpg.Connection, tmp_path: Path, services: tuple[EmbeddedKafka, EmbeddedValkey]
) -> None:
    """Late, never lost, never out of order, never twice; and at the end all is as before."""
    kafka, valkey = services
    await seed(conn, fans=FANS)
    bus = through_kafka(kafka.bootstrap, valkey.url, tmp_path)
    async with cluster(dsn, tmp_path, 3, **bus) as nodes:
        place = Place([node.url for node in nodes], SECRET, dsn, tmp_path)
        async with Crowd(place) as crowd:
            await crowd.acknowledges(SOME)
            nodes[2].freeze()  # beyond its lease
            frozen = asyncio.create_task(asyncio.sleep(BEYOND_ITS_LEASE_S))

            os.kill(valkey.pid, signal.SIGKILL)
            await crowd.acknowledges(SOME)
            await valkey.start()
            os.kill(kafka.pid, signal.SIGKILL)
            await crowd.acknowledges(SOME)
            await kafka.start()
            await crowd.acknowledges(SOME)
            for pid in (kafka.pid, valkey.pid):
                os.kill(pid, signal.SIGSTOP)
            await crowd.acknowledges(SOME)
            for pid in (kafka.pid, valkey.pid):
                os.kill(pid, signal.SIGCONT)

            nodes[1].process.kill()  # and another one in its place
            nodes[1].process.wait()
            nodes[1] = NodeProcess(dsn, tmp_path / "another.log", **bus)
            await nodes[1].ready()
            place.urls[1] = nodes[1].url
            await crowd.acknowledges(SOME)

            await frozen
            nodes[2].thaw()
            await crowd.acknowledges(SOME)
            did = await crowd.finish()
            await check(place, crowd, did)
            for node in nodes:
                await becomes(lambda node=node: settled(node), (True, 2), RIGHT_WITHIN_S)


async def settled(node: NodeProcess) -> tuple[bool, int]:
    """Whether it hears itself on every bus, and how many others it knows to hold what they hold."""
    now = await scrape(node.url)
    ages = [age for (name, _), age in now.items() if name == "applause_bus_heartbeat_age_seconds"]
    return max(ages) < 10, round(now[named("applause_presence_nodes{trust=sure}")])
