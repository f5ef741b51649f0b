"""Presence in Redis: which nodes hold whom, and what it must survive. On a real Valkey."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from fanout import presence_redis
from fanout.presence import Peer
from fanout.presence_redis import RedisPresence
from gateway.cluster.valkey import EmbeddedValkey
from tests.fanout.cluster import Places, presence_of
from tests.fanout.sinks import Tasks, devices_of
from tests.support.services import need_valkey

EVERYBODY: list[int] = [7, 8, 9]


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    owner = Tasks()
    yield owner
    await owner.end()
    assert not owner.failures


class Nodes:
    """Of one cluster."""

    def __init__(self, pool: asyncpg.Pool, places: Places, tasks: Tasks) -> None:
        self._pool, self.places, self._tasks = pool, places, tasks
        self.redis: Redis = Redis.from_url(places.valkey, decode_responses=True)
        self._running: list[RedisPresence] = []

    async def start(self, name: str, tasks: Tasks | None = None, **settings: float) -> RedisPresence:
        """One node; it is known to those that run."""
        node = presence_of(name, self._pool, self.places, tasks or self._tasks, **settings)
        await node.start()
        for each in self._running:
            each.look_soon()
            await eventually(lambda each=each: knows(each, name))
        self._running.append(node)
        return node

    async def stop(self, node: RedisPresence) -> None:
        self._running.remove(node)
        await node.stop()

    def forget(self, node: RedisPresence) -> None:
        """It was killed."""
        self._running.remove(node)

    async def keys(self) -> set[str]:
        """All that stands in Redis."""
        found = await self.redis.keys(f"{self.places.prefix}:*")
        return {key.removeprefix(f"{self.places.prefix}:") for key in found}

    async def end(self) -> None:
        for node in self._running:
            await node.stop()
        await self.redis.aclose()


def knows(node: RedisPresence, name: str) -> bool:
    return any(member.node == name and (not member.in_doubt or node.away) for member in node._members.others)


@pytest.fixture
async def nodes(pool: asyncpg.Pool, redis_places: Places, tasks: Tasks) -> AsyncIterator[Nodes]:
    made = Nodes(pool, redis_places, tasks)
    yield made
    await made.end()


@pytest.fixture
async def own_valkey(tmp_path: Path) -> AsyncIterator[EmbeddedValkey]:
    """One that may be stopped, killed and frozen."""
    need_valkey()
    async with EmbeddedValkey(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
async def shaky(pool: asyncpg.Pool, own_valkey: EmbeddedValkey, prefix: str, tasks: Tasks) -> AsyncIterator[Nodes]:
    made = Nodes(pool, Places("", own_valkey.url, prefix), tasks)
    yield made
    await made.end()


async def eventually(true: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.005)


async def becomes(ask: Callable[[], Awaitable[object]], wanted: object, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds  # a time-out may get lost in redis-py, see `fanout.redis`
    while (found := await ask()) != wanted:
        assert time.monotonic() < deadline, f"it stays {found}, not {wanted}"
        await asyncio.sleep(0.01)


def peer(node: RedisPresence) -> Peer:
    assert node.partition is not None
    return Peer(node._members.incarnation, node.partition)


async def holders(node: RedisPresence) -> dict[int, set[Peer]] | str:
    """Who holds everybody, as that node sees it: the nodes of each, or why that is not known."""
    where = await node.nodes_of(EVERYBODY)
    if where is None:
        return "unknown"
    if where.unsure:
        return f"{len(where.unsure)} of {where.peers} unsure"
    return {user: set(found) for user, found in where.holders.items() if found}


async def test_a_node_is_told_which_others_hold_a_user(nodes: Nodes) -> None:
    a, b, c = [await nodes.start(name) for name in ("a", "b", "c")]
    await a.enter([(7, "phone")])
    (_, eight) = await b.enter([(7, "tablet"), (8, "")])
    assert await holders(a) == {7: {peer(b)}, 8: {peer(b)}}, "not itself, and nobody where nobody is"
    assert await holders(b) == {7: {peer(a)}}
    assert await holders(c) == {7: {peer(a), peer(b)}, 8: {peer(b)}}
    await b.leave([(8, eight)])
    assert await holders(c) == {7: {peer(a), peer(b)}}
    where = await c.nodes_of([])
    assert where is not None
    assert (where.holders, where.unsure, where.peers) == ({}, [], 2)
    assert sorted(node.partition or 0 for node in (a, b, c)) == [1, 2, 3], "each its own, while there are enough"
    assert (await nodes.start("d")).partition in (1, 2, 3), "and shared, when there are not"


async def test_connections_and_devices_of_all_nodes_are_seen(nodes: Nodes) -> None:
    a, b = await nodes.start("a"), await nodes.start("b")
    (old,) = await a.enter([(7, "phone")])
    (new, bare) = await b.enter([(7, "phone"), (7, "")])
    assert await a.newer([(7, "phone", old)]) == [(7, "phone", new)]
    assert await devices_of(a, 7) == ["phone", "phone", ""]
    await a.leave([(7, new), (7, bare)])  # another's connections are not ours to take out
    assert await devices_of(b, 7) == ["phone", "phone", ""]
    await nodes.stop(b)
    assert await devices_of(a, 7) == ["phone"]
    await eventually(lambda: not a.other_nodes())
    await nodes.stop(a)
    assert await nodes.keys() == set()


async def test_many_connections_are_entered_asked_for_and_compared_in_steps(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await nodes.start("a"), await nodes.start("b")
    everybody = range(1, 1_703)
    old = await a.enter([(user, f"device {user}") for user in everybody])
    where = await b.nodes_of(everybody)
    assert where is not None
    assert where.holders == {user: [peer(a)] for user in everybody}
    new = await b.enter([(user, f"device {user}") for user in everybody])
    monkeypatch.setattr(presence_redis, "LEAST_SHARE", 100)
    here = [(user, f"device {user}", generation) for user, generation in zip(everybody, old, strict=True)]
    first = await a.newer(here)
    found = dict.fromkeys(first)
    for _ in range(presence_redis.SHARE):  # within so many times, all
        found |= dict.fromkeys(await a.newer(here))
    assert len(first) < len(here)
    assert set(found) == {(user, f"device {user}", own) for user, own in zip(everybody, new, strict=True)}


async def test_workers_of_the_same_parent_are_left_out(nodes: Nodes) -> None:
    a = await nodes.start("here.0")
    a._members._family = "here."
    b, far = await nodes.start("here.1"), await nodes.start("far")
    await b.enter([(7, "")])
    await far.enter([(8, "")])
    assert await holders(a) == {8: {peer(far)}}
    assert (a.other_nodes(), a.strangers()) == (True, True)
    await nodes.stop(far)
    await eventually(lambda: not a.strangers())
    assert a.other_nodes()


async def test_a_node_that_was_killed_counts_until_its_lease_has_run_out_and_is_taken_out(nodes: Nodes) -> None:
    a, victims = await nodes.start("a"), Tasks()
    b = await nodes.start("b", victims, lease_s=0.8)
    await a.enter([(7, "phone")])
    await b.enter([(7, "tablet"), (8, "")])
    dead = peer(b)
    nodes.forget(b)
    await victims.end()  # kill -9: nobody renews, nobody says good-bye
    assert await holders(a) == {7: {dead}, 8: {dead}}
    await becomes(lambda: holders(a), {})
    assert await devices_of(a, 7) == ["phone"]
    own = a._members.incarnation
    await becomes(nodes.keys, {"u:7", f"n:{own}", "nodes", "complete"})
    await b._book.close()


async def test_a_node_that_was_taken_out_while_it_froze_comes_back_as_another(nodes: Nodes, pool: asyncpg.Pool) -> None:
    a, b = await nodes.start("a"), await nodes.start("b")
    phone, other = await b.enter([(7, "phone"), (8, "")])
    before = peer(b)
    await b.leave([(8, other)])
    await pool.execute("DELETE FROM nodes WHERE node = 'b'")
    await eventually(lambda: peer(b) != before)
    await becomes(lambda: holders(a), {7: {peer(b)}})
    assert peer(b).partition == before.partition, "it reads on where it did"
    assert b.is_own(before.incarnation), "what was said to it meanwhile is for it"
    assert b.is_own(peer(b).incarnation)
    assert not a.is_own(before.incarnation)
    assert await a.newer([(7, "phone", phone - 1)]) == [(7, "phone", phone)], "with the generation that it has"
    await becomes(lambda: nodes.redis.smembers(f"{nodes.places.prefix}:nodes"), {peer(b).incarnation})


async def test_what_a_frozen_node_still_writes_is_taken_out_as_well(nodes: Nodes) -> None:
    """It was in the middle of it when it froze."""
    a = await nodes.start("a")
    await a._book.write("long-dead", [(7, 1, "phone")])
    await becomes(lambda: nodes.redis.exists(f"{nodes.places.prefix}:u:7"), 0)
    assert await holders(a) == {}


async def test_somebody_unknown_in_redis_means_everybody_and_a_look_at_who_lives(nodes: Nodes) -> None:
    a = await nodes.start("a", lease_s=30, renew_every_s=10)
    started_at = time.monotonic()
    await eventually(lambda: a._members._renewed_at > started_at)  # the look that a start ends with
    b = presence_of("b", nodes._pool, nodes.places, nodes._tasks)
    await b.start()
    await b.enter([(7, "")])
    assert not a._members.others, "it has not looked since"
    assert await holders(a) == "unknown"
    await becomes(lambda: holders(a), {7: {peer(b)}}, seconds=3)
    await b.stop()


async def test_a_list_of_nodes_that_is_older_than_a_lease_is_not_believed(nodes: Nodes) -> None:
    victims = Tasks()
    a = await nodes.start("a", victims, lease_s=0.3)
    await nodes.start("b")
    assert await holders(a) == {}
    await victims.end()
    await asyncio.sleep(0.3)
    assert await holders(a) == "unknown"


async def test_an_emptied_redis_is_not_believed_and_filled_again(nodes: Nodes) -> None:
    a = await nodes.start("a", lease_s=30, renew_every_s=1)
    b = await nodes.start("b", lease_s=30, renew_every_s=1)
    old, _ = await b.enter([(7, "phone"), (8, "")])
    keys = [f"{nodes.places.prefix}:{key}" for key in await nodes.keys()]
    await nodes.redis.delete(*keys)
    assert await holders(a) == "1 of 1 unsure", "so it is told everything"
    await becomes(lambda: holders(a), {7: {peer(b)}, 8: {peer(b)}})
    assert await nodes.redis.hgetall(f"{nodes.places.prefix}:u:7") == {f"{peer(b).incarnation}:{old}": "phone"}


async def test_what_somebody_deletes_in_redis_is_entered_again(nodes: Nodes) -> None:
    a, b = await nodes.start("a"), await nodes.start("b")
    await b.enter([(7, "phone"), (8, "")])
    await nodes.redis.delete(f"{nodes.places.prefix}:u:7")
    await becomes(lambda: holders(a), {7: {peer(b)}, 8: {peer(b)}})


async def test_what_a_write_that_was_given_up_leaves_behind_is_taken_out(nodes: Nodes) -> None:
    """It was on its way when Redis could not be reached, and arrives when all has been entered again."""
    a, b = await nodes.start("a"), await nodes.start("b")
    await b.enter([(8, "")])
    await b._book.write(b._members.incarnation, [(7, 99, "phone")])
    await becomes(lambda: holders(a), {8: {peer(b)}})


async def test_an_emptied_database_has_all_nodes_join_and_enter_again(nodes: Nodes, pool: asyncpg.Pool) -> None:
    """What a crash does to unlogged tables."""
    a, b = await nodes.start("a"), await nodes.start("b")
    await b.enter([(7, "phone")])
    before = peer(b)
    await pool.execute("TRUNCATE nodes, connections")
    await eventually(lambda: peer(b) != before)
    await becomes(lambda: holders(a), {7: {peer(b)}})


async def test_generations_rise_though_redis_is_emptied(nodes: Nodes) -> None:
    a = await nodes.start("a")
    (first,) = await a.enter([(7, "phone")])
    await nodes.redis.delete(*[f"{nodes.places.prefix}:{key}" for key in await nodes.keys()])
    (second,) = await a.enter([(7, "phone")])
    assert second > first


async def test_a_killed_redis_means_everybody_and_nobody_waits_for_it(shaky: Nodes, own_valkey: EmbeddedValkey) -> None:
    a, b = await shaky.start("a"), await shaky.start("b")
    seven, _ = await b.enter([(7, "phone"), (8, "")])
    os.kill(own_valkey.pid, signal.SIGKILL)

    began = time.monotonic()
    assert await holders(a) == "unknown"
    await b.leave([(7, seven)])
    (nine,) = await b.enter([(9, "tablet")])
    assert nine > seven
    assert await b.newer([(9, "tablet", 1)]) == []
    with pytest.raises(ConnectionError):
        await devices_of(a, 9)
    assert time.monotonic() - began < presence_redis.LOOK_S + 1.5  # one time-out each at most; no test of speed

    await own_valkey.start()
    await becomes(lambda: holders(a), {8: {peer(b)}, 9: {peer(b)}})
    assert await devices_of(a, 9) == ["tablet"]


async def test_a_restarted_redis_is_not_believed_until_all_is_entered_again(
    shaky: Nodes, own_valkey: EmbeddedValkey
) -> None:
    """It has its data, but perhaps not what was written last."""
    a, b = await shaky.start("a"), await shaky.start("b", lease_s=60, renew_every_s=30)
    await b.enter([(7, "phone")])
    b._tasks[1].cancel()  # so that it does not heal
    await own_valkey.stop()
    await own_valkey.start()
    assert await shaky.redis.hlen(f"{shaky.places.prefix}:u:7") == 1
    await becomes(lambda: holders(a), "1 of 1 unsure")
    b._tasks[1] = shaky._tasks(b._keep_healing())
    await becomes(lambda: holders(a), {7: {peer(b)}})


async def test_a_frozen_redis_means_everybody_and_comes_back(shaky: Nodes, own_valkey: EmbeddedValkey) -> None:
    a, b = await shaky.start("a"), await shaky.start("b")
    await b.enter([(7, "phone")])
    os.kill(own_valkey.pid, signal.SIGSTOP)
    assert await holders(a) == "unknown"
    await b.enter([(8, "")])
    os.kill(own_valkey.pid, signal.SIGCONT)
    await becomes(lambda: holders(a), {7: {peer(b)}, 8: {peer(b)}})


async def test_flushall_under_way_loses_nobody(shaky: Nodes) -> None:
    """Whenever Redis is emptied, a node that asks hears of every holder, or that it does not know."""
    a, b = await shaky.start("a"), await shaky.start("b")
    await b.enter([(7, "phone"), (8, "")])
    wanted = {7: {peer(b)}, 8: {peer(b)}}
    for number in range(20):
        await shaky.redis.flushall()
        for _ in range(number):
            found = await holders(a)
            assert found == wanted or isinstance(found, str), found
    await becomes(lambda: holders(a), wanted)


async def test_nodes_start_without_redis_and_use_it_when_it_is_there(shaky: Nodes, own_valkey: EmbeddedValkey) -> None:
    await own_valkey.stop()
    a, b = await shaky.start("a"), await shaky.start("b")
    await b.enter([(7, "phone")])
    assert await holders(a) == "unknown"
    await own_valkey.start()
    await becomes(lambda: holders(a), {7: {peer(b)}})
    await own_valkey.stop()
    began = time.monotonic()
    await shaky.stop(a)
    await shaky.stop(b)
    assert time.monotonic() - began < 2 * presence_redis.STOP_S + 2


async def test_a_node_that_alone_cannot_reach_redis_is_told_everything(nodes: Nodes) -> None:
    a = await nodes.start("a")
    cut_off = presence_of("b", nodes._pool, nodes.places._replace(valkey="redis://127.0.0.1:1/0"), nodes._tasks)
    await cut_off.start()
    await cut_off.enter([(7, "phone")])
    assert cut_off.away
    await becomes(lambda: holders(a), "1 of 1 unsure")
    assert await holders(cut_off) == "unknown"
    await cut_off.stop()
    await becomes(lambda: holders(a), {})


async def test_who_loses_redis_says_so_in_the_database(nodes: Nodes) -> None:
    """Its mark is still good, but not all of its connections are there any more."""
    a, b = await nodes.start("a"), await nodes.start("b")

    async def cut(*_: object) -> None:
        raise ConnectionError("the network is cut")

    b._book.write = cut  # type: ignore[method-assign]
    b._book.look = cut  # type: ignore[method-assign, assignment]
    await b.enter([(7, "phone")])
    await becomes(lambda: holders(a), "1 of 1 unsure")
