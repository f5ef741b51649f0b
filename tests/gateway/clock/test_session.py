"""The session that a chore keeps."""

from __future__ import annotations

import asyncio
from contextlib import closing

import asyncpg
import pytest

from gateway.clock.session import OwnSession
from storage.db import connect_lane


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
