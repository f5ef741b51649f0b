"""What is earned over real sockets is what stands on the topic of the ledger, whichever node publishes it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path
from typing import Final

import asyncpg

from tests.gateway.test_metrics import DASHBOARD
from tests.journeys.conftest import through_kafka
from tests.journeys.test_cluster import becomes
from tests.journeys.test_faults import FANS, Crowd, Place, check
from tests.journeys.test_intake_faults import lone_node
from tests.support.cluster import SECRET, NodeProcess, cluster
from tests.support.egress import consumer
from tests.support.engagements import seed
from tests.support.scrape import named, scrape

LEASE_S: Final = 1.5
SOME: Final = 150  # acknowledged actions that make a load


async def test_nodes_that_publish_die_and_freeze_and_a_consumer_has_the_ledger(
    dsn: str, conn: asyncpg.Connection, tmp_path: Path, kafka: str, valkey: str
) -> None:
    """One is killed when Kafka has a page and the database does not know; the next stands still beyond its lease."""
    await seed(conn, fans=FANS)
    settings = through_kafka(kafka, valkey, tmp_path) | {"EGRESS__LEASE_S": LEASE_S}
    doom = {"FAILPOINTS": "after_egress_before_place=kill:3"}
    async with (
        consumer(kafka, str(settings["KAFKA__PREFIX"])) as reader,
        lone_node(dsn, tmp_path / "doomed.log", **settings, **doom) as doomed,
    ):
        await becomes(lambda: publishes(doomed), True)
        async with cluster(dsn, tmp_path, **settings) as nodes:
            place = Place([node.url for node in nodes], SECRET, dsn, tmp_path)
            async with Crowd(place) as crowd:
                await crowd.acknowledges(SOME)
                assert await asyncio.to_thread(doomed.process.wait) == -signal.SIGKILL
                await becomes(lambda: publishers(nodes), 1)
                frozen = nodes[0 if await publishes(nodes[0]) else 1]
                other = nodes[1 if frozen is nodes[0] else 0]
                frozen.freeze()
                await becomes(lambda: publishes(other), True)
                frozen.thaw()
                await crowd.acknowledges(SOME)
                did = await crowd.finish()
                await check(place, crowd, did)
            await reader.has_all(conn)
            await becomes(lambda: publishers(nodes), 1)
            assert len(reader.records) > len(reader.kept), "what the dead one had sent came again"
            assert len({record["epoch"] for record in reader.records}) == 1
            shown = json.loads(DASHBOARD.read_text())
            expressions = [target["expr"] for panel in shown["panels"] for target in panel["targets"]]
            wanted = {name for each in expressions for name in re.findall(r"applause_egress_\w+", each)}
            assert wanted
            assert wanted <= {name for name, _ in await scrape(other.url)}


async def publishes(node: NodeProcess) -> bool:
    return (await scrape(node.url))[named("applause_egress_publishing")] == 1


async def publishers(nodes: list[NodeProcess]) -> int:
    return sum([await publishes(node) for node in nodes])
