"""Request keys and the weekly partitions that hold them, on a clock of the test's own."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import db
from storage.audit import audit
from storage.requests import KEPT_DAYS, StoredRequest, insert_requests, maintain_partitions
from storage.statement import micros, write_together
from tests.support.clock import at, have_clock
from tests.support.engagements import CREATOR, FAN, STRANGER, Batches, asked, awards_of, seed

KEY: Final = "the-key-1"
TICK: Final = timedelta(microseconds=1)
DAY: Final = timedelta(days=1)
WEEK: Final = timedelta(days=7)
KEPT: Final = timedelta(days=KEPT_DAYS)
MONDAY: Final = datetime(2026, 3, 2, tzinfo=UTC)

PARTITIONS = """
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'requests'::regclass ORDER BY c.relname
"""


async def partitions(conn: asyncpg.Connection) -> list[str]:
    return [row[0].removeprefix("requests_") for row in await conn.fetch(PARTITIONS)]


async def keep(conn: asyncpg.Connection, *taken_at: datetime) -> None:
    await write_together(
        conn, insert_requests([StoredRequest(FAN, f"{each}", b"f", b"{}", micros(each)) for each in taken_at])
    )


@pytest.fixture
async def batches(conn: asyncpg.Connection) -> Batches:
    """Runs batches on `conn`, whose clock stands at MONDAY."""
    await have_clock(conn, MONDAY)
    await seed(conn)
    return Batches(conn, await awards_of(conn))


# -- partitions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "weeks"),
    [
        (MONDAY, ["20260223", "20260302", "20260309", "20260316"]),
        (MONDAY + 2 * DAY, ["20260223", "20260302", "20260309", "20260316"]),
        (MONDAY + WEEK - TICK, ["20260223", "20260302", "20260309", "20260316"]),
        (MONDAY + WEEK, ["20260302", "20260309", "20260316", "20260323"]),
        (datetime(2026, 12, 31, 23, 59, tzinfo=UTC), ["20261221", "20261228", "20270104", "20270111"]),
        (datetime(2024, 2, 29, tzinfo=UTC), ["20240219", "20240226", "20240304", "20240311"]),
        (datetime(2023, 12, 31, tzinfo=UTC), ["20231218", "20231225", "20240101", "20240108"]),
    ],
)
async def test_they_are_made_ahead_from_last_week_on(conn: asyncpg.Connection, now: datetime, weeks: list[str]) -> None:
    await have_clock(conn, now)
    await maintain_partitions(conn)
    assert await partitions(conn) == weeks
    await keep(conn, now - KEPT, now, now + TICK, now + 2 * WEEK)
    await maintain_partitions(conn)
    assert await partitions(conn) == weeks
    assert await conn.fetchval("SELECT count(*) FROM requests") == 4


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/New_York"])
async def test_they_begin_on_monday_in_utc_wherever_the_server_stands(conn: asyncpg.Connection, zone: str) -> None:
    await have_clock(conn, datetime(2026, 3, 10, tzinfo=UTC))  # New York changed its clocks on the 8th
    await conn.execute(f"SET timezone = '{zone}'")
    await maintain_partitions(conn)
    await conn.execute("SET timezone = 'UTC'")
    bounds = [row[1] for row in await conn.fetch(PARTITIONS)]
    days = [MONDAY + number * WEEK for number in range(5)]
    assert bounds == [
        f"FOR VALUES FROM ('{day:%Y-%m-%d} 00:00:00+00') TO ('{day + WEEK:%Y-%m-%d} 00:00:00+00')" for day in days[:4]
    ]


async def test_each_key_lies_in_its_week(conn: asyncpg.Connection) -> None:
    await have_clock(conn, MONDAY)
    await maintain_partitions(conn)
    await keep(conn, MONDAY - TICK, MONDAY, MONDAY + WEEK - TICK, MONDAY + WEEK)
    rows = await conn.fetch("SELECT tableoid::regclass::text FROM requests ORDER BY created_at")
    assert [row[0].removeprefix("requests_") for row in rows] == ["20260223", "20260302", "20260302", "20260309"]


async def test_a_partition_goes_when_its_last_key_has_expired_and_not_before(conn: asyncpg.Connection) -> None:
    await have_clock(conn, MONDAY)
    await maintain_partitions(conn)
    await keep(conn, MONDAY, MONDAY + WEEK - TICK)
    for now in (MONDAY + WEEK, MONDAY + WEEK - TICK + KEPT):
        await at(conn, now)
        await maintain_partitions(conn)
        assert await conn.fetchval("SELECT count(*) FROM requests") == 2
    await at(conn, MONDAY + WEEK + KEPT)
    await maintain_partitions(conn)
    assert await conn.fetchval("SELECT count(*) FROM requests") == 0
    assert await partitions(conn) == ["20260309", "20260316", "20260323", "20260330"]


async def test_after_a_long_silence_all_that_is_old_goes_and_the_next_weeks_come(conn: asyncpg.Connection) -> None:
    await have_clock(conn, MONDAY)
    await maintain_partitions(conn)
    await at(conn, MONDAY + 52 * WEEK)
    with pytest.raises(asyncpg.CheckViolationError):
        await keep(conn, MONDAY + 52 * WEEK)
    await maintain_partitions(conn)
    assert await partitions(conn) == ["20270222", "20270301", "20270308", "20270315"]
    await keep(conn, MONDAY + 52 * WEEK)


async def test_a_clock_that_goes_back_loses_nothing(conn: asyncpg.Connection) -> None:
    await have_clock(conn, MONDAY + 2 * WEEK)
    await maintain_partitions(conn)
    await keep(conn, MONDAY + 2 * WEEK)
    await at(conn, MONDAY)
    await maintain_partitions(conn)
    await keep(conn, MONDAY)
    assert len(await partitions(conn)) == 6
    assert await conn.fetchval("SELECT count(*) FROM requests") == 2


async def test_several_nodes_at_once(dsn: str) -> None:
    nodes = [await db.connect(dsn) for _ in range(4)]
    await have_clock(nodes[0], MONDAY)
    for node in nodes[1:]:
        await node.execute("SET search_path = public, pg_catalog")
    for week in range(3):
        for node in nodes:
            await at(node, MONDAY + week * WEEK)
        await asyncio.gather(*(maintain_partitions(node) for node in nodes))
        assert len(await partitions(nodes[0])) == 4
    for node in nodes:
        await node.close()


async def test_they_change_under_batches_at_work(conn: asyncpg.Connection, dsn: str) -> None:
    await seed(conn, fans=50)
    clock = await db.connect(dsn)
    await have_clock(clock, await conn.fetchval("SELECT clock_timestamp() - interval '35 days'"))
    acting_on = await db.connect(dsn)
    node = Batches(acting_on, await awards_of(conn))
    changes = 0

    async def act() -> None:
        for each in range(50):
            await node.data(asked(FAN + each, "video:like"), asked(FAN + each, "video:view", "c"))

    acting = asyncio.create_task(act())
    while not acting.done():
        await maintain_partitions(clock)
        assert len(await partitions(conn)) == 8
        await maintain_partitions(conn)
        assert len(await partitions(conn)) == 4
        changes += 1
    await acting
    assert changes
    assert await conn.fetchval("SELECT count(*) FROM requests") == 100
    for each in (clock, acting_on):
        await each.close()


# -- keys --------------------------------------------------------------------------------------------


def test_no_keys_are_no_write() -> None:
    assert insert_requests([]) == []


@pytest.mark.parametrize("taken_at", [MONDAY, MONDAY + 3 * DAY, MONDAY + WEEK - TICK])
async def test_a_key_is_answered_across_partitions_for_seven_days(
    batches: Batches, conn: asyncpg.Connection, taken_at: datetime
) -> None:
    await at(conn, taken_at)
    [first] = await batches.run(asked(FAN, "video:share", action_id=KEY))
    for age in (TICK, DAY, 4 * DAY, 6 * DAY, KEPT - TICK):
        await at(conn, taken_at + age)
        await maintain_partitions(conn)
        assert await batches.run(asked(FAN, "video:share", action_id=KEY)) == [{**first, "replayed": True}], age
        assert await batches.run(asked(FAN, "video:view", action_id=KEY)) == ["idempotency_conflict"], age
    await at(conn, taken_at + KEPT)
    await maintain_partitions(conn)
    [again] = await batches.run(asked(FAN, "video:share", action_id=KEY))
    assert ("replayed" in again, again["data"]["total"], again["data"]["reason"]) == (False, 2, "already_paid")


async def test_a_key_is_its_user_s_own(batches: Batches, conn: asyncpg.Connection) -> None:
    [share] = await batches.run(asked(FAN, "video:share", action_id=KEY))
    [view] = await batches.run(asked(FAN + 1, "video:view", action_id=KEY))
    assert share["ok"]
    assert view["ok"]
    await at(conn, MONDAY + 6 * DAY)
    assert await batches.run(
        asked(FAN, "video:share", action_id=KEY), asked(FAN + 1, "video:view", action_id=KEY),
        asked(FAN, "video:view", action_id=KEY),
    ) == [{**share, "replayed": True}, {**view, "replayed": True}, "idempotency_conflict"]  # fmt: skip


async def test_where_no_partition_is_nothing_is_stored_and_the_same_key_can_come_again(
    batches: Batches, conn: asyncpg.Connection
) -> None:
    await at(conn, MONDAY + 3 * WEEK)
    with pytest.raises(asyncpg.CheckViolationError):
        await batches.run(asked(FAN, "video:like", action_id=KEY))
    assert await conn.fetchval("SELECT count(*) FROM engagements") == 0
    assert await audit(conn) == []
    await maintain_partitions(conn)
    [like] = await batches.run(asked(FAN, "video:like", action_id=KEY))
    assert "replayed" not in like


async def test_what_a_key_that_came_free_creates_is_new(batches: Batches, conn: asyncpg.Connection) -> None:
    """Ids derive from the request key; a stranger's own head doesn't move, so it can't tell two apart."""
    for now in (MONDAY, MONDAY + WEEK + DAY):
        await at(conn, now)
        await maintain_partitions(conn)
        await batches.data(asked(STRANGER, "video:unlike"), asked(STRANGER, "video:like", action_id=KEY))
    ids = [row[0] for row in await conn.fetch("SELECT id FROM inbox WHERE user_id = $1", CREATOR)]
    assert len(ids) == 2
    assert len(set(ids)) == 2
    assert await audit(conn) == []


moves = st.lists(
    st.tuples(
        st.one_of(st.timedeltas(timedelta(0), timedelta(hours=30)), st.sampled_from([KEPT - TICK, KEPT, WEEK + DAY])),
        st.sampled_from([FAN, FAN + 1]),
        st.sampled_from(["key-0001", "key-0002"]),
    ),
    max_size=12,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.timedeltas(timedelta(0), WEEK), moves=moves)
async def test_whatever_the_days_a_key_holds_exactly_its_time(
    batches: Batches, conn: asyncpg.Connection, start: timedelta, moves: list[tuple[timedelta, int, str]]
) -> None:
    """Against a model: a dictionary of when each key was taken."""
    story = conn.transaction()
    await story.start()
    try:
        now, taken = MONDAY + start, dict[tuple[int, str], tuple[datetime, Any]]()
        for step, user_id, key in moves:
            now += step
            await at(conn, now)
            await maintain_partitions(conn)
            [answer] = await batches.run(asked(user_id, "video:view", action_id=key))
            taken_at, first = taken.get((user_id, key), (now - KEPT, None))
            if now - taken_at < KEPT:
                assert answer == {**first, "replayed": True}
            else:
                assert "replayed" not in answer
                taken[user_id, key] = (now, answer)
    finally:
        await story.rollback()
