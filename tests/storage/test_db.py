"""Connections, and what their errors mean."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from storage import db
from storage.db import (
    LANE_SETTINGS,
    connect,
    connect_lane,
    create_pool,
    is_connection_lost,
    is_lock_timeout,
    is_retryable,
)

ENDS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
LOCK_INSTANCE = "SELECT 1 FROM instance FOR UPDATE"


async def test_a_lanes_connection_has_its_settings_and_others_have_not(dsn: str, conn: asyncpg.Connection) -> None:
    lane = await connect_lane(dsn)
    for name, value in LANE_SETTINGS.items():
        assert await lane.fetchval(f"SHOW {name}") == value
        if name != "jit":  # our own server has none at all
            assert await conn.fetchval(f"SHOW {name}") != value
    await lane.close()


async def test_json_stays_the_text_it_is(conn: asyncpg.Connection) -> None:
    assert await conn.fetchval("""SELECT '{"a": 1.10}'::jsonb""") == '{"a": 1.10}'
    assert await conn.fetchval("SELECT $1::jsonb ->> 'a'", '{"a": "b"}') == "b"


async def test_a_pool_shows_each_new_connection_once(dsn: str) -> None:
    seen: list[int] = []

    async def look(conn: asyncpg.Connection) -> None:
        seen.append(conn.get_server_pid())

    pool = await create_pool(dsn, size=2, on_connect=look)
    for _ in range(3):
        async with pool.acquire():
            pass
    assert len(seen) == 1
    async with pool.acquire(), pool.acquire():
        assert len(set(seen)) == 2
    await pool.close()


@pytest.mark.parametrize("kind", ["lane", "pool"])
async def test_who_freezes_with_a_statement_prepared_lets_go(
    dsn: str, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """PostgreSQL waits for the next message then, and does not take the session for idle."""
    monkeypatch.setattr(db, "TRANSACTION_TIMEOUT", "300ms")
    pool = await create_pool(dsn, size=1)
    frozen = await connect_lane(dsn) if kind == "lane" else await pool.acquire()
    await frozen.execute("SET idle_in_transaction_session_timeout = '100ms'")
    await frozen.execute("BEGIN")
    await frozen.execute(LOCK_INSTANCE)
    prepared = await frozen.prepare("SELECT 6 * 7")
    async with asyncio.timeout(10):
        await conn.execute(LOCK_INSTANCE)
    with pytest.raises(ENDS) as error:
        await prepared.fetchval()
    assert is_connection_lost(error.value) or "released" in str(error.value)  # back to the pool
    if kind == "lane":
        frozen.terminate()
    pool.terminate()


async def test_a_transaction_that_takes_too_long_has_lost_its_connection(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = await connect_lane(dsn)
    assert await lane.fetchval("SHOW transaction_timeout") == db.TRANSACTION_TIMEOUT
    await lane.close()
    monkeypatch.setattr(db, "TRANSACTION_TIMEOUT", "300ms")
    lane = await connect_lane(dsn)
    with pytest.raises(asyncpg.ConnectionDoesNotExistError, match="transaction timeout") as error:
        await lane.execute("SELECT pg_sleep(10)")
    assert is_connection_lost(error.value)
    lane.terminate()


async def test_a_lock_that_somebody_keeps_is_given_up(dsn: str, conn: asyncpg.Connection) -> None:
    lane = await connect_lane(dsn)
    async with conn.transaction():
        await conn.execute(LOCK_INSTANCE)
        with pytest.raises(asyncpg.PostgresError) as error:
            await lane.execute(LOCK_INSTANCE)
    assert is_lock_timeout(error.value)
    assert not is_connection_lost(error.value)
    await lane.close()


async def test_a_lane_that_freezes_lets_go_of_its_locks(dsn: str, conn: asyncpg.Connection) -> None:
    lane = await connect_lane(dsn)
    transaction = lane.transaction()
    await transaction.start()
    await lane.execute(LOCK_INSTANCE)
    await asyncio.wait_for(conn.execute(LOCK_INSTANCE), 5)
    # Which one depends on how much of the server's farewell asyncpg has read when it asks.
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)) as error:
        await lane.execute("SELECT 1")
    assert is_connection_lost(error.value)


async def test_a_connection_that_was_cut_is_lost(dsn: str, conn: asyncpg.Connection) -> None:
    victim = await connect(dsn)
    await conn.execute("SELECT pg_terminate_backend($1, 5000)", victim.get_server_pid())
    for _ in range(2):  # once as PostgreSQL tells it, once as asyncpg knows it
        with pytest.raises(
            (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
        ) as error:
            await victim.execute("SELECT 1")
        assert is_connection_lost(error.value), repr(error.value)


async def test_a_fault_of_ours_is_no_lost_connection(conn: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.UndefinedColumnError) as wrong:
        await conn.execute("SELECT nothing")
    assert not is_connection_lost(wrong.value)
    busy = asyncio.create_task(conn.execute("SELECT pg_sleep(0.1)"))
    await asyncio.sleep(0.02)
    with pytest.raises(asyncpg.InterfaceError) as twice:
        await conn.execute("SELECT 1")
    assert not is_connection_lost(twice.value)
    await busy


async def test_no_server_at_all_is_a_lost_connection() -> None:
    with pytest.raises(OSError) as error:  # noqa: PT011 - which one is the system's choice
        await connect("postgresql://a:b@127.0.0.1:1/a?sslmode=disable")
    assert is_connection_lost(error.value)


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (asyncpg.SerializationError(), True),
        (asyncpg.DeadlockDetectedError(), True),
        (asyncpg.UniqueViolationError(), False),
        (asyncpg.LockNotAvailableError(), False),
    ],
)
def test_what_passes_when_it_is_run_again(error: Exception, retryable: bool) -> None:
    assert is_retryable(error) is retryable
    assert not is_connection_lost(error)
