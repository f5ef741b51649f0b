"""What was taken in from Kafka: an offset moves from where it stands and from nowhere else; answers wait to be sent."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from storage import db, ingress
from storage.ingress import Outcome, Overtaken, Step
from storage.pool import transaction
from storage.requests import KEPT_DAYS_OF_MONEY

A, B = ("t", 0), ("t", 1)


@pytest.fixture(autouse=True)
async def _begun(conn: asyncpg.Connection) -> None:
    await ingress.begin(conn, {A: 5, B: 0})


async def offsets(conn: asyncpg.Connection) -> dict[tuple[str, int], int]:
    return await ingress.list_offsets(conn, [A, B, ("t", 2)])


async def test_each_partition_moves_by_its_step(conn: asyncpg.Connection) -> None:
    await ingress.advance(conn, [Step(*A, 5, 9), Step(*B, 0, 1)])
    assert await offsets(conn) == {A: 9, B: 1}
    await ingress.advance(conn, [Step(*A, 9, 10)])
    assert await offsets(conn) == {A: 10, B: 1}


async def test_one_that_stands_elsewhere_is_named_and_the_transaction_must_go(conn: asyncpg.Connection) -> None:
    for before in (4, 6, 0):
        with pytest.raises(Overtaken) as overtaken:
            async with conn.transaction():
                await ingress.advance(conn, [Step(*A, before, 9), Step(*B, 0, 1)])
        assert overtaken.value.partitions == {A}
    with pytest.raises(Overtaken) as overtaken:
        await ingress.advance(conn, [Step("t", 2, 0, 1)])
    assert overtaken.value.partitions == {("t", 2)}, "nobody has begun with it"
    assert await offsets(conn) == {A: 5, B: 0}


async def test_whom_somebody_else_moves_is_not_waited_for(conn: asyncpg.Connection, dsn: str) -> None:
    other = await db.connect(dsn)
    async with other.transaction():
        await ingress.advance(other, [Step(*A, 5, 6)])
        async with asyncio.timeout(5):
            with pytest.raises(Overtaken) as overtaken:
                await ingress.advance(conn, [Step(*A, 5, 9), Step(*B, 0, 1)])
        assert overtaken.value.partitions == {A}
    await other.close()


async def test_of_two_who_believe_a_partition_theirs_one_moves_it(pool: asyncpg.Pool, conn: asyncpg.Connection) -> None:
    async def move(after: int) -> bool:
        try:
            async with transaction(pool) as mine:
                await ingress.advance(mine, [Step(*A, 5, after), Step(*B, 0, after)])
                await asyncio.sleep(0.01)
        except Overtaken:
            return False
        return True

    assert sum(await asyncio.gather(*(move(after) for after in range(6, 14)))) == 1
    stands = await offsets(conn)
    assert stands[A] == stands[B]


async def test_who_begins_first_says_where(conn: asyncpg.Connection) -> None:
    await ingress.begin(conn, {A: 99, ("t", 2): 7})
    assert await offsets(conn) == {A: 5, B: 0, ("t", 2): 7}


async def test_answers_are_sent_by_one_and_in_their_order(conn: asyncpg.Connection, dsn: str) -> None:
    waiting = [Outcome("shop", b'{"n":%d}' % number) for number in range(5)]
    await ingress.insert_outcomes(conn, waiting)
    other = await db.connect(dsn)
    async with conn.transaction():
        ids, outcomes = await ingress.lock_outcomes(conn, 3)
        assert outcomes == waiting[:3]
        async with other.transaction():
            assert (await ingress.lock_outcomes(other, 9))[1] == waiting[3:]
        await ingress.delete_outcomes(conn, ids)
    async with other.transaction():
        assert (await ingress.lock_outcomes(other, 9))[1] == waiting[3:]
    await other.close()


async def test_a_record_is_noted_once(conn: asyncpg.Connection) -> None:
    one, two, three = ("crm", "1"), ("crm", "2"), ("other", "1")
    assert await ingress.insert_records(conn, [two, one, one]) == {one, two}
    assert await ingress.insert_records(conn, [one, three]) == {three}
    await conn.execute(
        "UPDATE ingested_directory SET created_at = now() - $1::interval WHERE id = '1'",
        timedelta(days=KEPT_DAYS_OF_MONEY, seconds=1),
    )
    await ingress.drop_old_records(conn)
    assert await ingress.insert_records(conn, [one, two, three]) == {one, three}
