"""What the PostgreSQL twins of this room share: how they connect, and what it looks like when the database is away."""

from __future__ import annotations

import asyncpg

CONNECT_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 5.0

AWAY = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""What a lost, restarting, full or frozen database raises. All of it is met by trying again later."""


async def connect(dsn: str, name: str) -> asyncpg.Connection:
    """A connection of one's own, visible as `name` in pg_stat_activity. `synchronous_commit` is off: nothing that goes
    over it must survive a crash. Raises one of `AWAY`."""
    return await asyncpg.connect(
        dsn,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=COMMAND_TIMEOUT_S,
        server_settings={"application_name": name, "synchronous_commit": "off"},
    )
