"""Heads: locked in ascending order by everybody, read as of the lock, compared without one."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from storage import db, heads
from storage.db import is_lock_timeout
from storage.inbox import append
from storage.statement import write_together
from storage.users import insert_unknown_users

USERS: Final = range(1, 21)
ROOT: Final = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
async def _users(conn: asyncpg.Connection) -> None:
    """Inserted in any order, so that where a row lies says nothing."""
    for user_id in random.Random(7).sample(USERS, len(USERS)):
        await insert_unknown_users(conn, [user_id], [None])


@asynccontextmanager
async def node(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """One more connection, inside a transaction that is rolled back."""
    connection = await db.connect(dsn)
    held = connection.transaction()
    await held.start()
    yield connection
    await held.rollback()
    await connection.close()


async def advance(conn: asyncpg.Connection, **seqs: int) -> None:
    await write_together(conn, append([], {int(name.removeprefix("user")): seq for name, seq in seqs.items()}))


WAITERS: Final = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


async def somebody_waits(conn: asyncpg.Connection) -> None:
    async with asyncio.timeout(10):
        while not await conn.fetchval(WAITERS):
            await asyncio.sleep(0.01)


# -- lock --------------------------------------------------------------------------------------------


async def test_each_is_told_with_its_seq_and_who_is_unknown_is_missing(conn: asyncpg.Connection) -> None:
    await advance(conn, user3=7, user1=2)
    async with conn.transaction():
        assert await heads.lock(conn, {3, 404, 1, 2}) == {1: 2, 2: 0, 3: 7}
        assert await heads.lock(conn, [3]) == {3: 7}, "it is ours"
        assert await heads.lock(conn, []) == {}


async def test_a_wait_ends_with_the_newest_seq(conn: asyncpg.Connection, dsn: str) -> None:
    """The seq of the statement's own snapshot, taken before the wait, would be given out twice."""
    async with node(dsn) as waiting:
        holding = conn.transaction()
        await holding.start()
        await heads.lock(conn, [5])
        asked = asyncio.create_task(heads.lock(waiting, [4, 5, 6]))
        await somebody_waits(conn)
        await advance(conn, user5=42)
        await holding.commit()
        assert await asked == {4: 0, 5: 42, 6: 0}


@pytest.mark.parametrize("given", [[7, 8, 9], [9, 8, 7], [8, 9, 7]])
async def test_they_are_taken_in_ascending_order(conn: asyncpg.Connection, dsn: str, given: list[int]) -> None:
    async with node(dsn) as holding, node(dsn) as waiting, node(dsn) as looking:
        await heads.lock(holding, [8])
        asked = asyncio.create_task(heads.lock(waiting, given))
        await somebody_waits(conn)
        assert await heads.lock(looking, USERS, skip_locked=True) == dict.fromkeys(set(USERS) - {7, 8}, 0)
        await looking.execute("ROLLBACK")
        await holding.execute("ROLLBACK")
        assert await asked == {7: 0, 8: 0, 9: 0}


async def test_opposite_orders_do_not_deadlock(dsn: str) -> None:
    nodes = [await db.connect(dsn) for _ in range(4)]

    async def contend(number: int) -> None:
        given = list(USERS) if number % 2 else list(reversed(USERS))
        await nodes[number].execute("SET deadlock_timeout = '5ms'")
        for _ in range(40):
            async with nodes[number].transaction():
                seqs = await heads.lock(nodes[number], given)
                await write_together(nodes[number], append([], {user: seq + 1 for user, seq in seqs.items()}))

    await asyncio.gather(*(contend(number) for number in range(4)))
    assert {seq for _, seq, _ in await heads.list_heads(nodes[0], USERS)} == {160}, "nobody's number was lost"
    for each in nodes:
        await each.close()


@pytest.mark.parametrize("skip_locked", [False, True])
async def test_overlapping_batches_lose_no_number(dsn: str, skip_locked: bool) -> None:
    """Whoever skips must have taken what they were told they have."""
    nodes = [await db.connect(dsn) for _ in range(4)]
    given: dict[int, list[int]] = {user: [] for user in USERS}

    async def contend(number: int) -> None:
        dice = random.Random(number)
        for _ in range(40):
            async with nodes[number].transaction():
                wanted = dice.sample(USERS, 8)
                seqs = await heads.lock(nodes[number], wanted, skip_locked=skip_locked)
                assert set(seqs) <= set(wanted)
                await write_together(nodes[number], append([], {user: seq + 1 for user, seq in seqs.items()}))
            for user, seq in seqs.items():
                given[user].append(seq + 1)

    await asyncio.gather(*(contend(number) for number in range(4)))
    for user, seq, _ in await heads.list_heads(nodes[0], USERS):
        assert sorted(given[user]) == list(range(1, seq + 1))
    for each in nodes:
        await each.close()


async def test_what_somebody_holds_can_be_skipped_without_a_wait(conn: asyncpg.Connection, dsn: str) -> None:
    async with node(dsn) as holding, conn.transaction():
        await heads.lock(holding, [2, 4])
        async with asyncio.timeout(10):
            assert set(await heads.lock(conn, [1, 2, 3, 4, 404], skip_locked=True)) == {1, 3}
            assert await heads.lock(conn, [2, 4], skip_locked=True) == {}
        await holding.execute("ROLLBACK")
        assert set(await heads.lock(conn, [2, 4], skip_locked=True)) == {2, 4}


async def test_a_lane_waits_no_longer_than_it_may_and_can_then_skip(conn: asyncpg.Connection, dsn: str) -> None:
    lane = await db.connect_lane(dsn)
    async with conn.transaction():
        await heads.lock(conn, [2])
        with pytest.raises(asyncpg.LockNotAvailableError) as error:
            async with lane.transaction():
                await heads.lock(lane, [1, 2, 3])
        assert is_lock_timeout(error.value)
        async with lane.transaction():
            assert set(await heads.lock(lane, [1, 2, 3], skip_locked=True)) == {1, 3}
    await lane.close()


async def test_a_lock_stops_no_reader(conn: asyncpg.Connection, dsn: str) -> None:
    async with node(dsn) as holding:
        await heads.lock(holding, USERS)
        await advance(holding, user1=5)
        async with asyncio.timeout(10):
            assert await heads.list_heads(conn, [1]) == [(1, 0, 1)], "nor shows what is not committed"
            assert await heads.list_ahead(conn, {1: 0}) == []


def test_every_lock_of_a_head_is_here() -> None:
    locks = re.compile(r"FROM\s+heads\b(?:(?!\"\"\").)*?\bFOR\s+(?:NO KEY UPDATE|UPDATE|SHARE|KEY SHARE)", re.S)
    rooms = ("storage", "handlers", "fanout", "gateway")
    found = [path.name for room in rooms for path in (ROOT / room).rglob("*.py") if locks.search(path.read_text())]
    assert found == ["heads.py"]


# -- read --------------------------------------------------------------------------------------------


async def test_heads_are_listed_with_where_they_begin(conn: asyncpg.Connection) -> None:
    await advance(conn, user1=9)
    await conn.execute("UPDATE heads SET oldest_seq = 4 WHERE user_id = 1")
    assert sorted(await heads.list_heads(conn, {1, 2, 404})) == [(1, 9, 4), (2, 0, 1)]
    assert await heads.list_heads(conn, []) == []


async def test_only_those_beyond_what_is_known_are_ahead(conn: asyncpg.Connection) -> None:
    await advance(conn, user1=5, user2=5, user3=5)
    assert sorted(await heads.list_ahead(conn, {1: 4, 2: 5, 3: 6, 4: 0, 5: -1, 404: 0})) == [(1, 5), (5, 0)]
    assert await heads.list_ahead(conn, {}) == []
