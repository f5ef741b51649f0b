"""The contract of presence, over both of them, and what PostgreSQL's must survive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from fanout.presence import MemoryPresence, Presence
from fanout.presence_postgres import PostgresPresence
from tests.fanout.sinks import Tasks


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    owner = Tasks()
    yield owner
    await owner.end()
    assert not owner.failures


@pytest.fixture(params=["memory", "postgres"])
def made(request: pytest.FixtureRequest, tasks: Tasks) -> Presence:
    if request.param == "memory":
        return MemoryPresence()
    return PostgresPresence(pool=request.getfixturevalue("pool"), node="a.1", spawn=tasks)


@pytest.fixture
async def presence(made: Presence, tasks: Tasks) -> AsyncIterator[Presence]:
    await made.start()
    yield made
    await made.stop()
    assert not tasks.running


async def started(pool: asyncpg.Pool, node: str, tasks: Tasks, *, lease_s: float = 0.6) -> PostgresPresence:
    presence = PostgresPresence(pool=pool, node=node, spawn=tasks, lease_s=lease_s, renew_every_s=0.05)
    await presence.start()
    return presence


async def rows(pool: asyncpg.Pool) -> list[tuple[int, str, str]]:
    found = await pool.fetch("SELECT user_id, device_id, node FROM connections ORDER BY generation")
    return [tuple(row) for row in found]


async def eventually(pool: asyncpg.Pool, wanted: list[tuple[int, str, str]]) -> None:
    async with asyncio.timeout(5):
        while await rows(pool) != wanted:
            await asyncio.sleep(0.01)


async def test_generations_rise_in_the_order_given(presence: Presence) -> None:
    first = await presence.enter([(user, f"device {user}") for user in range(300, 0, -1)])
    second = await presence.enter([(1, ""), (1, "")])
    assert first + second == sorted(set(first + second))
    assert len(first) == 300
    assert first[0] > 0
    assert await presence.enter([]) == []


async def test_a_devices_newer_connection_is_seen_and_no_other(presence: Presence) -> None:
    old, tablet, other, bare, bare_again, new = await presence.enter(
        [(7, "phone"), (7, "tablet"), (8, "phone"), (9, ""), (9, ""), (7, "phone")]
    )
    here = [(7, "phone", old), (7, "tablet", tablet), (8, "phone", other), (9, "", bare), (9, "", bare_again)]
    assert await presence.newer(here) == [(7, "phone", new)]
    assert await presence.newer([(7, "phone", new)]) == []
    (newest,) = await presence.enter([(7, "phone")])
    assert await presence.newer([(7, "phone", old), (7, "phone", new)]) == [(7, "phone", newest)]
    assert await presence.newer([]) == []


async def test_the_devices_of_a_user_are_counted_until_they_leave(presence: Presence) -> None:
    phone, tablet, other = await presence.enter([(7, "phone"), (7, "tablet"), (8, "phone")])
    assert await presence.devices_of(7) == ["phone", "tablet"]
    await presence.leave([(7, phone), (8, phone), (99, 12345), (8, other)])
    assert await presence.devices_of(7) == ["tablet"]
    assert await presence.devices_of(8) == []
    await presence.leave([(7, tablet), (7, tablet)])
    assert await presence.devices_of(7) == []
    await presence.leave([])


async def test_alone_there_is_no_other_node(presence: Presence) -> None:
    assert presence.other_nodes() is False


async def test_nodes_see_each_other_and_their_connections(pool: asyncpg.Pool, tasks: Tasks) -> None:
    a = await started(pool, "a.1", tasks)
    b = await started(pool, "b.1", tasks)
    assert b.other_nodes()
    async with asyncio.timeout(5):
        while not a.other_nodes():
            await asyncio.sleep(0.01)
    (old,) = await a.enter([(7, "phone")])
    (new,) = await b.enter([(7, "phone")])
    assert await a.newer([(7, "phone", old)]) == [(7, "phone", new)]
    assert await a.devices_of(7) == ["phone", "phone"]
    await a.leave([(7, new)])  # another's connection is not ours to take out
    assert await rows(pool) == [(7, "phone", "a.1"), (7, "phone", "b.1")]
    await b.stop()
    assert await rows(pool) == [(7, "phone", "a.1")]
    async with asyncio.timeout(5):
        while a.other_nodes():
            await asyncio.sleep(0.01)
    await a.stop()
    assert await pool.fetchval("SELECT count(*) FROM nodes") == 0


async def test_a_node_that_died_is_taken_out_when_its_lease_has_run_out(pool: asyncpg.Pool, tasks: Tasks) -> None:
    survivor, victims = await started(pool, "a.1", tasks), Tasks()
    victim = await started(pool, "b.1", victims)
    await survivor.enter([(7, "phone")])
    await victim.enter([(8, "phone")])
    await victims.end()  # kill -9: nobody renews, nobody says good-bye
    assert len(await rows(pool)) == 2
    await eventually(pool, [(7, "phone", "a.1")])
    async with asyncio.timeout(5):
        while survivor.other_nodes():  # known once the statement that took it out has returned
            await asyncio.sleep(0.01)
    await survivor.stop()


async def test_a_node_that_was_taken_out_while_it_froze_enters_again_with_its_generations(
    pool: asyncpg.Pool, tasks: Tasks
) -> None:
    a = await started(pool, "a.1", tasks)
    entered = await a.enter([(7, "phone"), (8, "")])
    await a.leave([(8, entered[1])])
    await pool.execute("DELETE FROM nodes")
    await pool.execute("DELETE FROM connections")
    await eventually(pool, [(7, "phone", "a.1")])
    assert await pool.fetchval("SELECT generation FROM connections") == entered[0]
    await a.stop()


async def test_what_failed_is_put_right_at_the_next_renewal(pool: asyncpg.Pool, tasks: Tasks) -> None:
    """A leave that could not be carried out, and an enter that was, though its caller was told otherwise."""
    a = await started(pool, "a.1", tasks)
    phone, _tablet = await a.enter([(7, "phone"), (7, "tablet")])
    lock = await pool.acquire()
    async with lock.transaction():
        await lock.execute("LOCK TABLE connections IN ACCESS EXCLUSIVE MODE")
        entering = asyncio.ensure_future(a.enter([(8, "ghost")]))
        await asyncio.sleep(0.05)
        entering.cancel()
        await asyncio.wait([entering])
        await lock.execute("INSERT INTO connections VALUES (8, 'ghost', 'a.1', nextval('connection_generation'))")
    await pool.release(lock)
    await eventually(pool, [(7, "phone", "a.1"), (7, "tablet", "a.1")])

    async def away(*_: object, **__: object) -> None:
        raise OSError("the database is away")

    a._delete, working = away, a._delete  # type: ignore[method-assign]
    await a.leave([(7, phone)])
    a._delete = working  # type: ignore[method-assign]
    await eventually(pool, [(7, "tablet", "a.1")])
    await a.stop()


async def test_orphans_of_an_earlier_time_are_swept_at_start(pool: asyncpg.Pool, tasks: Tasks) -> None:
    await pool.execute("INSERT INTO connections VALUES (8, 'phone', 'long gone', 1)")
    a = await started(pool, "a.1", tasks)
    assert await rows(pool) == []
    await a.stop()


async def test_a_lost_database_is_met_by_renewing_later(dsn: str, tasks: Tasks) -> None:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=2, server_settings={"application_name": "shaky"}) as pool:
        a = await started(pool, "a.1", tasks)
        await a.enter([(7, "phone")])
        other = await asyncpg.connect(dsn)
        await other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'shaky'")
        await other.execute("TRUNCATE nodes, connections")  # what a crash does to unlogged tables
        async with asyncio.timeout(5):
            while not await other.fetchval("SELECT count(*) FROM connections"):
                await asyncio.sleep(0.01)
        await other.close()
        await a.stop()


async def test_a_renewal_that_hangs_is_given_up_and_tried_again(pool: asyncpg.Pool, tasks: Tasks) -> None:
    a = await started(pool, "a.1", tasks, lease_s=0.2)
    await a.enter([(7, "phone")])
    async with pool.acquire() as frozen, frozen.transaction():
        await frozen.execute("LOCK TABLE nodes IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(0.4)
    async with asyncio.timeout(5):
        while not await pool.fetchval("SELECT lease_until > clock_timestamp() FROM nodes WHERE node = 'a.1'"):
            await asyncio.sleep(0.01)
    await eventually(pool, [(7, "phone", "a.1")])
    await a.stop()
