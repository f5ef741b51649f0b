"""A database whose clock the test moves."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncpg import Connection

# PostgreSQL looks into pg_catalog first unless the path names it, so this clock hides its own.
MOVABLE_CLOCK = """
CREATE OR REPLACE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql VOLATILE AS
    $$ BEGIN RETURN current_setting('test.now')::timestamptz; END $$;
CREATE OR REPLACE FUNCTION public.now() RETURNS timestamptz LANGUAGE plpgsql STABLE AS
    $$ BEGIN RETURN current_setting('test.now')::timestamptz; END $$;
SET search_path = public, pg_catalog
"""


async def at(conn: Connection, now: datetime) -> None:
    """It is `now` on this connection, which has a clock of its own."""
    await conn.execute("SELECT set_config('test.now', $1, false)", now.isoformat())


async def have_clock(conn: Connection, now: datetime) -> None:
    """Give the connection a clock that stands at `now` until `at` moves it."""
    await conn.execute(MOVABLE_CLOCK)
    await at(conn, now)
