"""Door 4: chores that nothing else shows."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from gateway.clock import looks
from storage import ingress


async def test_old_records_of_kafka_are_forgotten(
    pool: asyncpg.Pool, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "PARTITIONS_EVERY_S", 0.01)
    await ingress.insert_records(conn, [("crm", "old"), ("crm", "new")])
    await conn.execute("UPDATE ingested_directory SET created_at = now() - interval '31 days' WHERE id = 'old'")
    chore = asyncio.create_task(looks.keep_partitions(pool))
    try:
        async with asyncio.timeout(20):
            while await conn.fetchval("SELECT count(*) FROM ingested_directory") > 1:
                await asyncio.sleep(0.01)
    finally:
        chore.cancel()
        await asyncio.gather(chore, return_exceptions=True)
    assert await conn.fetchval("SELECT id FROM ingested_directory") == "new"
