"""Door 4: chores that nothing else shows."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any, cast

import asyncpg
import pytest

from gateway import clock as chores
from gateway.clock import Clock, OwnSession
from storage import ingress
from storage.db import connect_lane


async def test_old_records_of_kafka_are_forgotten(
    pool: asyncpg.Pool, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chores, "PARTITIONS_EVERY_S", 0.01)
    await ingress.insert_records(conn, [("crm", "old"), ("crm", "new")])
    await conn.execute("UPDATE ingested_directory SET created_at = now() - interval '31 days' WHERE id = 'old'")
    nobody = cast("Any", None)
    clock = Clock(
        pool=pool, connect=nobody, settler=nobody, delivery=nobody, hub=nobody, presence=nobody, deliver=nobody,
        compare_now=asyncio.Event(),
    )  # fmt: skip
    chore = asyncio.create_task(clock.keep_partitions())
    try:
        async with asyncio.timeout(20):
            while await conn.fetchval("SELECT count(*) FROM ingested_directory") > 1:
                await asyncio.sleep(0.01)
    finally:
        chore.cancel()
        await asyncio.gather(chore, return_exceptions=True)
    assert await conn.fetchval("SELECT id FROM ingested_directory") == "new"


async def test_a_session_of_ones_own_is_kept_and_replaced_when_it_has_ended(dsn: str, conn: asyncpg.Connection) -> None:
    own = OwnSession(lambda: connect_lane(dsn))
    with closing(own):
        async with own as first:
            assert await first.fetchval("SELECT 1") == 1
        async with own as second:
            assert second is first
        await conn.execute("SELECT pg_terminate_backend($1, 5000)", first.get_server_pid())
        async with asyncio.timeout(5):
            while not first.is_closed():
                await asyncio.sleep(0.01)
        async with own as third:
            assert await third.fetchval("SELECT 1") == 1
    assert third.is_closed()


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
async def test_whatever_goes_wrong_in_a_session_of_ones_own_ends_it(
    dsn: str, conn: asyncpg.Connection, error: type[BaseException]
) -> None:
    own = OwnSession(lambda: connect_lane(dsn))

    async def lock_and_fail() -> None:
        async with own as session:
            await session.execute("BEGIN")
            await session.execute("SELECT 1 FROM instance FOR UPDATE")
            raise error

    with closing(own):
        async with own as first:
            pass
        with pytest.raises(error):
            await lock_and_fail()
        assert first.is_closed()
        async with asyncio.timeout(5):
            await conn.execute("SELECT 1 FROM instance FOR UPDATE")
        async with own as fresh:
            assert not fresh.is_in_transaction()
