"""The contract of presence, over all of them, and what PostgreSQL's and workers' must survive. Redis': see
test_presence_redis.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from fanout.exchange import Exchange
from fanout.line import PARENT, Line, Unreachable
from fanout.presence import MemoryPresence, Presence
from fanout.presence_postgres import PostgresPresence
from fanout.presence_unix import PresenceDesk, UnixPresence
from tests.fanout.cluster import presence_of
from tests.fanout.lines import opened
from tests.fanout.sinks import Tasks, devices_of


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    owner = Tasks()
    yield owner
    await owner.end()
    assert not owner.failures


class Workers:
    """Of one parent, with its desk."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._exchange = Exchange(on_gone=self._forget)
        self._lines: list[Line] = []
        self.desk: PresenceDesk

    async def begin(self) -> None:
        self.desk = PresenceDesk(await self._line(PARENT))

    async def worker(self, number: int) -> UnixPresence:
        return UnixPresence(line=await self._line(number), node=f"a.{number}", spawn=self._tasks)

    def kill(self, number: int) -> None:
        """Its end of the socket closes, and it says no more."""
        [line] = [line for line in self._lines if line.number == number]
        line.close()

    def _forget(self, number: int) -> None:
        if number != PARENT:
            self.desk.forget(number)

    async def end(self) -> None:
        self._exchange.close()
        for line in self._lines:
            await line.ended()

    async def _line(self, number: int) -> Line:
        self._lines.append(await opened(self._exchange, number, self._tasks))
        return self._lines[-1]


@pytest.fixture
async def workers(tasks: Tasks) -> AsyncIterator[Workers]:
    workers = Workers(tasks)
    await workers.begin()
    yield workers
    await workers.end()


@pytest.fixture
async def lone_worker(workers: Workers) -> UnixPresence:
    return await workers.worker(0)


@pytest.fixture(params=["memory", "postgres", "unix", "redis"])
def made(request: pytest.FixtureRequest, tasks: Tasks) -> Presence:
    if request.param == "memory":
        return MemoryPresence("a.1")
    if request.param == "unix":
        worker: UnixPresence = request.getfixturevalue("lone_worker")
        return worker
    pool = request.getfixturevalue("pool")
    if request.param == "redis":
        return presence_of("a.1", pool, request.getfixturevalue("redis_places"), tasks)
    return PostgresPresence(pool=pool, node="a.1", spawn=tasks)


@pytest.fixture
async def presence(made: Presence, tasks: Tasks) -> AsyncIterator[Presence]:
    await made.start()
    yield made
    await made.stop()
    assert not tasks.running


@pytest.fixture
async def two_workers(workers: Workers) -> list[UnixPresence]:
    return [await workers.worker(number) for number in (1, 2)]


@pytest.fixture(params=["postgres", "unix", "redis"])
def made_two(request: pytest.FixtureRequest, tasks: Tasks) -> list[Presence]:
    if request.param == "unix":
        workers: list[Presence] = request.getfixturevalue("two_workers")
        return workers
    pool, names = request.getfixturevalue("pool"), ("a.1", "a.2")
    if request.param == "redis":
        places = request.getfixturevalue("redis_places")
        return [presence_of(name, pool, places, tasks, lease_s=60, renew_every_s=20) for name in names]
    return [PostgresPresence(pool=pool, node=name, spawn=tasks, renew_every_s=20) for name in names]


@pytest.fixture
async def two(made_two: list[Presence]) -> AsyncIterator[list[Presence]]:
    """Nodes `a.1` and `a.2`, which know each other, long before they renew their leases."""
    for each in made_two:
        await each.start()
    for each in made_two:
        await each.look()
    async with asyncio.timeout(5):  # workers are told
        while not all(each.other_nodes() for each in made_two):
            await asyncio.sleep(0.01)
    yield made_two
    for each in made_two:
        await each.stop()


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
    held = await presence.connections_of(1)
    assert [each.device_id for each in held] == ["device 1", "", ""]
    assert len({each.node for each in held}) == 1
    assert await presence.elsewhere([(1, "", second[-1])]) == [0]


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
    assert await devices_of(presence, 7) == ["phone", "tablet"]
    await presence.leave([(7, phone), (8, phone), (99, 12345), (8, other)])
    assert await devices_of(presence, 7) == ["tablet"]
    assert await devices_of(presence, 8) == []
    await presence.leave([(7, tablet), (7, tablet)])
    assert await devices_of(presence, 7) == []
    await presence.leave([])


async def test_who_looks_sees_those_that_are_there(two: list[Presence]) -> None:
    assert [each.other_nodes() for each in two] == [True, True]


async def test_connections_name_the_node_that_holds_them(two: list[Presence]) -> None:
    a, b = two
    (phone,) = await a.enter([(7, "phone")])
    await b.enter([(7, ""), (8, "phone")])
    for each in two:
        assert await each.connections_of(7) == [("phone", "a.1"), ("", "a.2")]
    await a.leave([(7, phone)])
    assert await b.connections_of(7) == [("", "a.2")]


async def test_older_connections_on_other_nodes_are_counted(two: list[Presence]) -> None:
    a, b = two
    await a.enter([(7, "phone"), (7, ""), (8, "phone")])
    phone, tablet, bare, other, nobody = await b.enter([(7, "phone"), (7, "tablet"), (7, ""), (8, "phone"), (9, "")])
    here = [(7, "phone", phone), (7, "tablet", tablet), (7, "", bare), (8, "phone", other), (9, "", nobody)]
    assert await b.elsewhere(here) == [1, 2, 2, 0, 0], "its own are not, and a device ends its older connection"
    (newer,) = await a.enter([(7, "")])
    assert await b.elsewhere(here) == [1, 2, 2, 0, 0], "and whoever came later is refused, not who was here"
    assert await a.elsewhere([(7, "", newer)]) == [3]
    assert await a.elsewhere([]) == []


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
    assert await devices_of(a, 7) == ["phone", "phone"]
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


async def test_nodes_of_the_family_are_no_strangers(pool: asyncpg.Pool, tasks: Tasks) -> None:
    a = PostgresPresence(pool=pool, node="here.0", spawn=tasks, family="here.", renew_every_s=0.05)
    b = PostgresPresence(pool=pool, node="here.1", spawn=tasks, family="here.", renew_every_s=0.05)
    await a.start()
    await b.start()
    assert (b.other_nodes(), b.strangers()) == (True, False)
    far = await started(pool, "there", tasks, lease_s=5)
    async with asyncio.timeout(5):
        while not (a.strangers() and b.strangers()):
            await asyncio.sleep(0.01)
    await far.stop()
    async with asyncio.timeout(5):
        while a.strangers():
            await asyncio.sleep(0.01)
    assert a.other_nodes()
    await a.stop()
    await b.stop()


async def test_workers_see_each_other_and_their_connections(workers: Workers) -> None:
    a, b = await workers.worker(0), await workers.worker(1)
    await a.start()
    assert not a.other_nodes()
    await b.start()
    assert b.other_nodes()
    await _until(a.other_nodes)
    (old,) = await a.enter([(7, "phone")])
    (new,) = await b.enter([(7, "phone")])
    assert await a.newer([(7, "phone", old)]) == [(7, "phone", new)]
    assert await devices_of(a, 7) == ["phone", "phone"]
    await a.leave([(7, new)])  # another's connection is not ours to take out
    assert await devices_of(b, 7) == ["phone", "phone"]
    await b.stop()
    assert await devices_of(a, 7) == ["phone"]
    await _until(lambda: not a.other_nodes())
    await a.stop()


async def test_a_worker_that_died_is_forgotten_at_once_and_its_successor_begins_anew(workers: Workers) -> None:
    a, b = await workers.worker(0), await workers.worker(1)
    await a.start()
    await b.start()
    await a.enter([(7, "phone")])
    await b.enter([(7, "tablet"), (8, "")])
    await _until(a.other_nodes)
    workers.kill(1)
    await _until(lambda: not a.other_nodes())
    assert await devices_of(a, 7) == ["phone"]
    assert await devices_of(a, 8) == []
    again = await workers.worker(1)
    await again.start()
    await _until(a.other_nodes)
    assert await devices_of(again, 7) == ["phone"]


async def test_what_a_dying_worker_asked_last_does_not_stay(workers: Workers, tasks: Tasks) -> None:
    """The parent may get to it only after it has seen the worker's end."""
    a, b = await workers.worker(0), await workers.worker(1)
    await a.start()
    await b.start()
    tasks(_entering(b))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    workers.kill(1)
    await _until(lambda: not a.other_nodes())
    await (await workers.worker(1)).start()
    assert await devices_of(a, 8) == []


async def test_who_gave_up_on_entering_is_taken_out_again(workers: Workers, tasks: Tasks) -> None:
    a = await workers.worker(0)
    await a.start()
    entering = asyncio.ensure_future(a.enter([(7, "ghost")]))
    await asyncio.sleep(0)
    entering.cancel()
    await asyncio.wait([entering])
    await _until(lambda: not tasks.running)
    assert await devices_of(a, 7) == []


async def _entering(presence: UnixPresence) -> None:
    with pytest.raises(Unreachable):
        await presence.enter([(8, "ghost")])


async def _until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.002)
