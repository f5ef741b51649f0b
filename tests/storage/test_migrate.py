"""Migrations: applied in order, once, by one at a time; a program refuses a schema that is behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from storage.db import connect
from storage.embedded import EmbeddedPostgres
from storage.epoch import fetch_epoch, renew_epoch
from storage.migrate import Migration, SchemaBehind, ensure_current, load_migrations, migrate, parse, pending
from tests.support.database import named

ONE = Migration("0001", "0001_one.sql", "CREATE TABLE one (a int); INSERT INTO one VALUES (1)", "DROP TABLE one")
TWO = Migration("0002", "0002_two.sql", "ALTER TABLE one ADD b int", "ALTER TABLE one DROP b")
BROKEN = Migration("0003", "0003_broken.sql", "CREATE TABLE three (); SELECT 1 / 0", "")
OUTSIDE = Migration("0004", "0004_outside.sql", "CREATE INDEX CONCURRENTLY ON one (a)", "", in_transaction=False)


@pytest.fixture
async def empty(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database without anything in it."""
    admin = await asyncpg.connect(postgres.dsn)
    await admin.execute("CREATE DATABASE empty STRATEGY file_copy")
    yield named(postgres.dsn, "empty")
    await admin.execute("DROP DATABASE empty WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def bare(empty: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(empty)
    yield connection
    await connection.close()


async def test_pending_migrations_are_applied_in_order_and_once(bare: asyncpg.Connection) -> None:
    assert await migrate(bare, [ONE]) == ["0001_one.sql"]
    assert [each.name for each in await pending(bare, [ONE, TWO])] == ["0002_two.sql"]
    assert await migrate(bare, [ONE, TWO]) == ["0002_two.sql"]
    assert await migrate(bare, [ONE, TWO]) == []
    assert await bare.fetch("SELECT a, b FROM one") == [(1, None)]


async def test_looking_for_pending_migrations_changes_nothing(bare: asyncpg.Connection) -> None:
    assert await pending(bare, [ONE]) == [ONE]
    assert await bare.fetchval("SELECT to_regclass('schema_migrations')") is None


async def test_a_failing_migration_leaves_no_trace_and_those_before_it_stay(bare: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(bare, [ONE, BROKEN])
    assert await bare.fetchval("SELECT to_regclass('three')") is None
    assert await bare.fetch("SELECT version FROM schema_migrations") == [("0001",)]
    assert await migrate(bare, [ONE, TWO]) == ["0002_two.sql"]


async def test_a_migration_may_ask_for_no_transaction(bare: asyncpg.Connection) -> None:
    assert await migrate(bare, [ONE, OUTSIDE]) == ["0001_one.sql", "0004_outside.sql"]


async def test_two_at_the_same_time_apply_each_migration_once(empty: str) -> None:
    connections = [await connect(empty) for _ in range(4)]
    applied = await asyncio.gather(*(migrate(each, [ONE, TWO]) for each in connections))
    assert sorted(applied) == [[], [], [], ["0001_one.sql", "0002_two.sql"]]
    await asyncio.gather(*(each.close() for each in connections))


async def test_a_database_that_is_behind_is_refused_and_a_current_one_is_not(bare: asyncpg.Connection) -> None:
    with pytest.raises(SchemaBehind, match=r"applause migrate.*0001_foundation\.sql"):
        await ensure_current(bare)
    await migrate(bare)
    await ensure_current(bare)


async def test_a_database_that_is_ahead_is_served(conn: asyncpg.Connection) -> None:
    await conn.execute("INSERT INTO schema_migrations VALUES ('9999')")
    await ensure_current(conn)


async def test_every_migration_can_be_taken_back_and_applied_again(conn: asyncpg.Connection) -> None:
    for migration in reversed(load_migrations()):
        await conn.execute(migration.down)
    leftovers = (
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'S')"
    )
    assert await conn.fetch(leftovers) == [("schema_migrations",)]
    await conn.execute("DELETE FROM schema_migrations")
    assert await migrate(conn) == [each.name for each in load_migrations()]


def test_our_migrations_are_numbered_without_a_gap() -> None:
    assert [int(each.version) for each in load_migrations()] == list(range(1, len(load_migrations()) + 1))


def test_a_file_is_read_as_dbmate_reads_it() -> None:
    text = "-- about\n-- migrate:up transaction:false\nSELECT 1;\n\n-- migrate:down\nSELECT 2;\n"
    assert parse("0007_seven.sql", text) == Migration("0007", "0007_seven.sql", "SELECT 1;", "SELECT 2;", False)
    assert parse("0008_eight.sql", "-- migrate:up\nSELECT 1;").down == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [("noun.sql", "-- migrate:up\n"), ("0001_a.sql", "SELECT 1"), ("0001_a.sql", "-- migrate:down\n-- migrate:up\n")],
)
def test_what_is_no_migration_is_refused(name: str, text: str) -> None:
    with pytest.raises(ValueError, match="is no migration"):
        parse(name, text)


async def test_the_epoch_stays_until_the_history_is_another(dsn: str, conn: asyncpg.Connection) -> None:
    first = await fetch_epoch(conn)
    other = await connect(dsn)
    assert len(first) == 16
    assert await fetch_epoch(other) == first
    await other.close()
    await renew_epoch(conn)
    second = await fetch_epoch(conn)
    # What a restore into the same cluster does: the same rows in a new table.
    await conn.execute("ALTER TABLE heads RENAME TO old; CREATE TABLE heads (LIKE old); DROP TABLE old")
    assert len({first, second, await fetch_epoch(conn)}) == 3


async def test_a_copy_of_the_database_in_the_same_cluster_has_another_epoch(
    postgres: EmbeddedPostgres, dsn: str
) -> None:
    original = await connect(dsn)
    name = await original.fetchval("SELECT current_database()")
    epoch = await fetch_epoch(original)
    await original.close()
    admin = await asyncpg.connect(postgres.dsn)
    await admin.execute(f"CREATE DATABASE {name}_copy TEMPLATE {name} STRATEGY file_copy")
    copy = await connect(named(dsn, f"{name}_copy"))
    assert await fetch_epoch(copy) != epoch
    await copy.close()
    await admin.execute(f"DROP DATABASE {name}_copy")
    await admin.close()
