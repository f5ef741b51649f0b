"""Nodes that publish the ledger, in this process, and a consumer that reads it all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from fanout.kafka import Kafka
from gateway import settings
from gateway.egress.publisher import EgressPublisher
from gateway.failpoints import Failpoints
from gateway.history import History
from gateway.supervisor import Supervisor
from storage import db

PATIENCE_S: Final = 60.0
EVERY_ENTRY: Final = "SELECT user_id, currency, n, id::text FROM wallet_transactions"


class Publishing:
    """A node's publisher, without the rest of it."""

    def __init__(self, dsn: str, servers: str, prefix: str, **egress: Any) -> None:
        history = History(on_change=lambda: None)

        async def connect() -> asyncpg.Connection:
            conn = await db.connect_lane(dsn)
            await history.look(conn)
            return conn

        self.supervisor = Supervisor()
        self.publisher = EgressPublisher(
            settings=settings.Settings(
                kafka=settings.Kafka(bootstrap_servers=(servers,), prefix=prefix), egress=settings.Egress(**egress)
            ),
            kafka=Kafka(servers),
            node=f"node-{id(self)}",
            connect=connect,
            epoch=lambda: history.epoch,
            failpoints=Failpoints({}),
        )
        self.counts = self.publisher.counts

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"waited in vain for {what}") from None


@asynccontextmanager
async def publishing(dsn: str, servers: str, prefix: str, **egress: Any) -> AsyncIterator[Publishing]:
    made = Publishing(dsn, servers, prefix, **egress)
    made.supervisor.keep("egress", made.publisher.run)
    try:
        yield made
    finally:
        await made.supervisor.stop()


class Consumer:
    """Whoever reads the topic for analytics. `records` is all that was read, `kept` what is left without repeats."""

    def __init__(self, servers: str, prefix: str) -> None:
        self._servers = servers
        self._topic = f"{prefix}.ledger"
        self._client = AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest")
        self._last: dict[tuple[int, str], int] = {}
        self.records: list[dict[str, Any]] = []
        self.kept: list[dict[str, Any]] = []

    async def read(self) -> None:
        """All that is there by now."""
        if not self._client.assignment():
            self._client.assign([TopicPartition(self._topic, each) for each in await self._partitions()])
        ends = await self._client.end_offsets(self._client.assignment())
        while any([await self._client.position(at) < end for at, end in ends.items()]):
            for records in (await self._client.getmany(timeout_ms=100)).values():
                for record in records:
                    self._take(record.key, json.loads(record.value))

    async def has_all(self, conn: asyncpg.Connection) -> None:
        """Return when it has every entry of the ledger; none was missing between two, and none is unknown."""
        entries: set[tuple[Any, ...]] = set()
        kept: set[tuple[Any, ...]] = set()
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not entries or entries != kept:
                    await asyncio.sleep(0.1)
                    await self.read()
                    entries = {tuple(row) for row in await conn.fetch(EVERY_ENTRY)}
                    kept = {(each["userId"], each["currency"], each["n"], each["id"]) for each in self.kept}
                    assert kept <= entries, kept - entries
        except TimeoutError:
            raise AssertionError(f"{len(entries - kept)} of {len(entries)} are missing") from None

    async def close(self) -> None:
        await self._client.stop()

    async def _partitions(self) -> list[int]:
        """Once the topic is there."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._servers)
        await admin.start()
        try:
            async with asyncio.timeout(PATIENCE_S):
                while self._topic not in await admin.list_topics():
                    await asyncio.sleep(0.1)
            [described] = await admin.describe_topics([self._topic])
            return [each["partition"] for each in described["partitions"]]
        finally:
            await admin.close()

    def _take(self, key: bytes, record: dict[str, Any]) -> None:
        self.records.append(record)
        assert key == str(record["userId"]).encode()
        account = (record["userId"], record["currency"])
        last = self._last.get(account, 0)
        assert record["n"] <= last + 1, f"{account}: {record['n']} after {last}"
        if record["n"] > last:
            self._last[account] = record["n"]
            self.kept.append(record)


@asynccontextmanager
async def consumer(servers: str, prefix: str) -> AsyncIterator[Consumer]:
    made = Consumer(servers, prefix)
    await made._client.start()
    try:
        yield made
    finally:
        await made.close()
