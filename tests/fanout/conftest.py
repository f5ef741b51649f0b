from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate


@pytest.fixture(scope="session")
def dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = EmbeddedPostgres(Path(tmp_path_factory.mktemp("pg")))
    dsn = asyncio.run(server.start())

    async def prepare() -> None:
        connection = await asyncpg.connect(dsn)
        await migrate(connection)
        await connection.close()

    asyncio.run(prepare())
    yield dsn
    asyncio.run(server.stop())
