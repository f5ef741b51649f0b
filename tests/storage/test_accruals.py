"""Accruals: whatever was written is taken once, summed up, by whoever holds the creator's head."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count, groupby
from operator import attrgetter
from random import Random
from typing import Any, Final

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import accruals, db, heads, users
from storage.accruals import Accrual, Place, Settlement
from storage.engagement import CounterChange, add_to_counters
from storage.statement import write_together
from tests.support.videos import upsert_video

CURRENCY: Final = "LYK"
START: Final = datetime(2026, 3, 4, tzinfo=UTC)
OWNERS: Final = {"a": 1, "b": 1, "c": 2, "d": 3}
by_place = attrgetter("creator_id", "video_id", "kind")


@pytest.fixture(autouse=True)
async def _videos(conn: asyncpg.Connection) -> None:
    await users.insert_unknown_users(conn, sorted(set(OWNERS.values())), [None] * 3)
    for video_id, owner in OWNERS.items():
        await upsert_video(conn, video_id, owner, video_id.upper())


_seconds: Iterator[int] = count()


def accrual(video_id: str = "a", kind: int = 1, **fields: Any) -> Accrual:
    """A like that pays and tells, newer than all before."""
    like = Accrual(
        OWNERS[video_id], video_id, kind, 100, 1, 1, 1, [10], "user_10", None, START + timedelta(seconds=next(_seconds))
    )
    return like._replace(**fields)


async def insert(conn: asyncpg.Connection, *rows: Accrual) -> None:
    await write_together(conn, accruals.insert_accruals(rows))


async def heard(conn: asyncpg.Connection, video_id: str, kind: int, seconds_ago: float) -> None:
    """The creator has heard of it so long ago."""
    now = await conn.fetchval("SELECT clock_timestamp()")
    change = CounterChange(video_id, kind, 0, now - timedelta(seconds=seconds_ago))
    await write_together(conn, add_to_counters([change]))


PLACES: Final = sorted(Place(owner, video_id, kind) for video_id, owner in OWNERS.items() for kind in (1, 2, 3))


async def take(conn: asyncpg.Connection, *creators: int) -> list[Settlement]:
    """What waits for these creators, wherever it does."""
    async with conn.transaction():
        await heads.lock(conn, creators)
        return await accruals.take(conn, [place for place in PLACES if place.creator_id in creators], CURRENCY)


async def waiting(conn: asyncpg.Connection) -> int:
    return int(await conn.fetchval("SELECT count(*) FROM accruals"))


# -- insert and take ---------------------------------------------------------------------------------


def test_nothing_to_insert_is_no_write() -> None:
    assert accruals.insert_accruals([]) == []


def summed(rows: Sequence[Accrual]) -> list[tuple[object, ...]]:
    """The model: what must be taken of these rows, newest first."""
    settlements = []
    for place, group in groupby(sorted(rows, key=by_place), key=by_place):
        newest_first = sorted(group, key=attrgetter("created_at"), reverse=True)
        telling = [row for row in newest_first if row.notify]
        settlements.append(
            (
                *place,
                *(sum(getattr(row, name) for row in newest_first) for name in ("points", "paid", "change", "notify")),
                [actor for row in telling for actor in row.actors],
                telling[0].username if telling else None,
                telling[0].channel if telling else None,
                place[1].upper(), 0, 0, 0,
            )
        )  # fmt: skip
    return settlements


names = st.one_of(st.none(), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5))
rows = st.builds(
    lambda video_id, kind, points, change, actors, username, channel: accrual(
        video_id, kind, points=points, paid=int(points > 0), change=change, notify=len(actors), actors=actors,
        username=username if actors else None, channel=channel if actors else None,
    ),
    st.sampled_from("abcd"), st.integers(1, 3), st.integers(0, 2**40), st.integers(-3, 3),
    st.lists(st.integers(1, 2**53 - 1), max_size=10), names, names,
)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    given_rows=st.lists(rows, max_size=25), asked=st.sets(st.integers(1, 4)), batch=st.integers(1, 5), dice=st.randoms()
)
async def test_whatever_waits_is_taken_summed_up(
    conn: asyncpg.Connection, given_rows: list[Accrual], asked: set[int], batch: int, dice: Random
) -> None:
    dice.shuffle(given_rows)
    story = conn.transaction()
    await story.start()
    try:
        for start in range(0, len(given_rows), batch):
            await insert(conn, *given_rows[start : start + batch])
        assert sorted(await accruals.list_due(conn, 20)) == sorted({by_place(row) for row in given_rows})
        taken = await take(conn, *asked)
        assert [each[1:] for each in taken] == summed([row for row in given_rows if row.creator_id in asked])
        assert await waiting(conn) == sum(row.creator_id not in asked for row in given_rows)
        assert await take(conn, *asked) == []
    finally:
        await story.rollback()


async def test_it_comes_with_what_is_needed_to_pay(conn: asyncpg.Connection) -> None:
    await conn.execute("UPDATE accounts SET balance = 700, n = 3 WHERE user_id = 1")
    await write_together(conn, add_to_counters([CounterChange("a", 1, 41, None)]))
    await insert(conn, accrual())
    [settlement] = await take(conn, 1)
    assert (settlement.total, settlement.balance, settlement.n, settlement.title) == (41, 700, 3, "A")
    assert abs(settlement.now - await conn.fetchval("SELECT clock_timestamp()")) < timedelta(minutes=1)


async def test_what_was_taken_and_not_committed_waits_on(conn: asyncpg.Connection) -> None:
    await insert(conn, accrual(), accrual("b"))
    attempt = conn.transaction()
    await attempt.start()
    await heads.lock(conn, [1])
    assert len(await accruals.take(conn, PLACES, CURRENCY)) == 2
    await attempt.rollback()
    assert await waiting(conn) == 2
    assert len(await take(conn, 1)) == 2


# -- due ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds_ago", "is_due"), [(-60, False), (1.01, True), (3600, True)])
async def test_who_heard_of_it_a_moment_ago_waits_for_their_second(
    conn: asyncpg.Connection, seconds_ago: float, is_due: bool
) -> None:
    await insert(conn, accrual())
    await heard(conn, "a", 1, seconds_ago)
    assert await accruals.list_due(conn, 10) == [(1, "a", 1)] * is_due
    assert len(await take(conn, 1)) == is_due
    assert await waiting(conn) == (not is_due)


async def test_each_video_and_kind_is_due_by_itself(conn: asyncpg.Connection) -> None:
    await insert(conn, accrual("a", 1), accrual("a", 2), accrual("b", 1), accrual("c", 1))
    await heard(conn, "a", 1, -60)
    await heard(conn, "c", 1, -60)
    assert sorted(await accruals.list_due(conn, 10)) == [(1, "a", 2), (1, "b", 1)]
    assert [(each.video_id, each.kind) for each in await take(conn, 1, 2, 3)] == [("a", 2), ("b", 1)]
    assert await waiting(conn) == 2


async def test_as_many_places_as_asked_for_each_once(conn: asyncpg.Connection) -> None:
    await insert(conn, *(accrual(video) for video in "aabbccdd"))
    assert sorted(await accruals.list_due(conn, 10)) == [(1, "a", 1), (1, "b", 1), (2, "c", 1), (3, "d", 1)]
    assert len(await accruals.list_due(conn, 2)) == 2
    assert await take(conn) == []


# -- several at once ---------------------------------------------------------------------------------


async def test_two_settlers_take_it_once(conn: asyncpg.Connection, dsn: str) -> None:
    nodes = [await db.connect(dsn) for _ in range(2)]
    for _ in range(10):
        await insert(conn, *(accrual(video) for video in "abcd" for _ in range(5)))
        first, second = await asyncio.gather(take(nodes[0], 1, 2, 3), take(nodes[1], 3, 2, 1))
        assert sorted((len(first), len(second))) == [0, 4], "the second to come finds nothing, and pays nothing"
        assert [each.paid for each in first + second] == [5] * 4
        assert await waiting(conn) == 0
    for node in nodes:
        await node.close()


async def test_settlers_that_skip_each_other_take_all_of_it_once(conn: asyncpg.Connection, dsn: str) -> None:
    """While more is coming in, from where no lock is held."""
    nodes = [await db.connect(dsn) for _ in range(3)]
    done = asyncio.Event()

    async def settle(node: asyncpg.Connection) -> list[Settlement]:
        taken: list[Settlement] = []
        while not (done.is_set() and await waiting(node) == 0):
            due = await accruals.list_due(node, 10)
            async with node.transaction():
                locked = await heads.lock(node, {place.creator_id for place in due}, skip_locked=True)
                taken += await accruals.take(node, [place for place in due if place.creator_id in locked], CURRENCY)
        return taken

    async def act() -> None:
        for number in range(150):
            await insert(nodes[0], *(accrual(video, actors=[number + 1]) for video in "abcd"))
        done.set()

    _, *taken = await asyncio.gather(act(), settle(nodes[1]), settle(nodes[2]))
    for node in nodes:
        await node.close()
    assert all(taken), "both had a part in it"
    for video_id in "abcd":
        parts = [each for settled in taken for each in settled if each.video_id == video_id]
        assert sum(each.points for each in parts) == 150 * 100
        assert sum(each.paid for each in parts) == 150
        assert sorted(actor for each in parts for actor in each.actors) == list(range(1, 151))
