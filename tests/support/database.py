"""A real PostgreSQL for the whole run, and a fresh database with the schema for each test."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from storage import db
from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate

TEMPLATE: Final = "template_applause"
# Nothing here outlives a power cut, and a database is copied in 40 ms instead of 200. Tests of durability kill
# processes, which takes nothing from the system's page cache; and tests/storage/test_embedded.py has its own servers.
QUICK: Final = {"fsync": "off", "full_page_writes": "off", "max_connections": "200"}
CREATE: Final = "CREATE DATABASE {name} TEMPLATE " + TEMPLATE + " STRATEGY file_copy"
_numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedPostgres]:
    """The run's PostgreSQL, with an empty database of the current schema to copy from."""
    async with EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), settings=QUICK) as server:
        await _execute(server.dsn, f"CREATE DATABASE {TEMPLATE}")
        conn = await asyncpg.connect(server.dsn, database=TEMPLATE)
        await migrate(conn)
        await conn.close()
        yield server


@pytest_asyncio.fixture
async def dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database of this test's own, with the schema and nothing else in it."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    await _execute(postgres.dsn, CREATE.format(name=name))
    yield named(postgres.dsn, name)
    await _execute(postgres.dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest_asyncio.fixture
async def conn(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """One connection to `dsn`."""
    connection = await db.connect(dsn)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def pool(dsn: str) -> AsyncIterator[asyncpg.Pool]:
    """A pool of up to ten connections to `dsn`, as the gateway makes it."""
    made = await db.create_pool(dsn, size=10)
    yield made
    made.terminate()


def named(dsn: str, database: str) -> str:
    """The address of another database of the same server."""
    return urlsplit(dsn)._replace(path=f"/{database}").geturl()


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
