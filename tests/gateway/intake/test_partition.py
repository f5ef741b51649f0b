"""One partition by itself, on a real lane and database: where it believes to stand, and how it begins again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
import pytest

from gateway.intake import partition as partitions
from gateway.intake import records
from gateway.intake.counts import IntakeCounts
from gateway.intake.dead_letters import DeadLetters
from gateway.intake.deeds import DeedPartition, Room, Work
from gateway.intake.offsets import Offsets
from gateway.intake.partition import At, Tools
from gateway.settings import Events
from storage.ingress import Partition as Place
from tests.gateway.intake.test_commit import EVENTS, Bench, laid
from tests.gateway.intake.test_dead_letters import Post
from tests.support.intake import event


class Written(NamedTuple):
    offset: int
    value: bytes
    topic: str = EVENTS[0]
    partition: int = EVENTS[1]
    key: bytes | None = None


class Reader:
    """Hands the partition whatever it asks for, from the offset on that it seeks."""

    def __init__(self) -> None:
        self.sought: list[int] = []

    def seek(self, partition: Any, offset: int) -> None:
        self.sought.append(offset)

    def look(self) -> None: ...


class Stale(Offsets):
    """Has an old word of where the partition stands."""

    async def fetch(self, partitions: Collection[Place]) -> dict[Place, int]:
        return dict.fromkeys(partitions, 0)


@asynccontextmanager
async def partition(bench: Bench, offsets: Offsets, reader: Reader) -> AsyncIterator[DeedPartition]:
    work = Work(bench.lane, Room(1_000), records.events(Events()), None)
    tools = Tools(reader, offsets, DeadLetters(Post()), IntakeCounts(), asyncio.Lock())
    made = DeedPartition(At(*EVENTS, "events"), 0, tools, work)
    service = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        service.cancel()
        await asyncio.gather(service, return_exceptions=True)


def written(count: int) -> list[Any]:
    return [Written(number, json.dumps(event(1, id=f"{number}")).encode()) for number in range(count)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_who_lets_go_knows_how_far_it_came(dsn: str, conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    """Two of five are being carried out when it is withdrawn: these are stored, and Kafka's tools are told so."""
    async with laid(dsn, conn, batch=2) as bench:
        entered, go = asyncio.Event(), asyncio.Event()

        async def fault(*_: object) -> None:
            entered.set()
            await go.wait()

        bench.handler.fault = fault
        async with partition(bench, Offsets(pool), Reader()) as ours:
            ours.hand(written(5))
            await entered.wait()
            await until(lambda: bench.lane.depth == 5)
            ours.withdraw()
            go.set()
            await until(lambda: not ours.is_under_way)
            assert ours.stored == 2 == (await bench.stands())[EVENTS]


async def test_who_is_wrong_again_and_again_waits_longer_each_time(
    dsn: str, conn: asyncpg.Connection, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "FIRST_PAUSE_S", 0.01)
    async with laid(dsn, conn) as bench:
        await conn.execute("UPDATE ingress_offsets SET next = 3")
        reader = Reader()
        async with partition(bench, Stale(pool), reader) as ours:
            for number in range(5):
                ours.hand(written(2))
                await until(lambda number=number: len(reader.sought) > number)
            assert ours._losses.next() >= 0.01 * 2**5 / 2
            ours.lose()
            await conn.execute("UPDATE ingress_offsets SET next = 0")
            await until(lambda: len(reader.sought) == 6)
            ours.hand(written(2))
            await until(lambda: ours.stored == 2)
            assert ours._losses.next() <= 0.01, "it was right again"
        assert await bench.inbox() == [(1, "0"), (1, "1")]
