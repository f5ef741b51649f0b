"""Retention: an inbox keeps what a naive model keeps, whatever came in between; and a pass looks at little."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.events.rows import events_for
from handlers.inbox.handler import InboxHandler
from handlers.inbox.retention import Retention
from handlers.inbox.wire import FetchRequest
from storage import db, heads, inbox, ingested, ledger, retention, users
from storage.audit import audit
from storage.broadcasts import Body
from storage.inbox import StoredEvent
from storage.ingested import Taken
from storage.ledger import ISSUANCE, Entry
from storage.retention import Horizon
from storage.statement import write_together
from tests.support.shared import SOURCE, copy, fingerprint_of, insert_body, refer

START: Final = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
DAY_S: Final = 86_400
PEOPLE: Final = 4
ON_THE_TESTS_DATABASE: Final = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
_ids = itertools.count(1)


class World:
    """People whose inboxes fill in a time of the test's own, and what a naive model makes of it."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self.conn = conn
        self.now = START
        self.users: list[int] = []
        self.dates: dict[int, list[datetime]] = {}  # user -> of each seq, from 1 on
        self.entries: dict[int, set[int]] = {}

    async def populate(self, count: int = PEOPLE) -> None:
        first = await self.conn.fetchval("SELECT coalesce(max(id), 0) + 1 FROM users")
        self.users = list(range(first, first + count))
        await users.insert_unknown_users(self.conn, self.users, [None] * count)
        self.dates = {user: [] for user in self.users}
        self.entries = {user: set() for user in self.users}

    async def horizon(self, _: asyncpg.Connection) -> Horizon:
        return Horizon(self.now, self.now)

    def retention(self, keep_events: int, keep_s: float) -> Retention:
        return Retention(keep_events=keep_events, keep_days=keep_s / DAY_S, every_s=0, horizon=self.horizon)

    async def store(self, user: int, kind: str) -> None:
        """One more event of the user, dated now."""
        async with self.conn.transaction():
            seq = (await heads.lock(self.conn, [user]))[user] + 1
            if kind == "entry":
                n = len(self.entries[user]) + 1
                entry = Entry(user, seq, "LYK", n, uuid4(), "refund", 1, n - 1, n, ISSUANCE, None, "{}", self.now)
                await write_together(self.conn, [*ledger.post([entry]), *inbox.append([], {user: seq})])
                self.entries[user].add(seq)
            elif kind == "event":
                event = StoredEvent(user, seq, uuid4(), "x", None, "{}", self.now)
                await write_together(self.conn, inbox.append([event], {user: seq}))
            else:
                await (self._share if kind == "shared" else self._copy)(user, seq - 1)
        self.dates[user].append(self.now)

    async def _share(self, user: int, seq: int) -> None:
        body = Body(f"e{next(_ids)}", "x", None, "{}", self.now)
        await ingested.insert_events(self.conn, {(SOURCE, body.id): Taken(b"", 1, 0)})
        broadcast_id = await insert_body(self.conn, body, [user], applied=1)
        await write_together(self.conn, refer(events_for(body, [user], {user: seq}), broadcast_id))
        await self._date(user, seq + 1)
        await self.conn.execute("UPDATE broadcasts SET done_at = $2 WHERE id = $1", broadcast_id, self.now)

    async def _copy(self, user: int, seq: int) -> None:
        body = Body(f"e{next(_ids)}", "x", None, "{}", self.now)
        await ingested.insert_events(self.conn, {(SOURCE, body.id): Taken(fingerprint_of(body), 1, 0)})
        await write_together(self.conn, copy(events_for(body, [user], {user: seq})))
        await self._date(user, seq + 1)

    async def _date(self, user: int, seq: int) -> None:
        await self.conn.execute("UPDATE inbox SET created_at = $3 WHERE user_id = $1 AND seq = $2", user, seq, self.now)

    async def oldest(self) -> dict[int, int]:
        return {user: oldest for user, _, oldest in await heads.list_heads(self.conn, self.users)}

    def model(self, keep_events: int, keep_s: float) -> dict[int, int]:
        """user -> where their inbox begins: with the first of the last `keep_events` that is not too old."""
        cutoff = self.now - timedelta(seconds=keep_s)
        kept = {
            user: [seq for seq, date in enumerate(dates, 1) if date >= cutoff and seq > len(dates) - keep_events]
            for user, dates in self.dates.items()
        }
        return {user: min(kept[user], default=len(dates) + 1) for user, dates in self.dates.items()}

    async def check(self) -> None:
        """What is stored is what is kept, and all of the ledger; and so it is read."""
        for user, seq, oldest in await heads.list_heads(self.conn, self.users):
            assert seq == len(self.dates[user])
            kept = set(range(oldest, seq + 1))
            rows = await self.conn.fetch("SELECT seq FROM inbox WHERE user_id = $1", user)
            assert {row["seq"] for row in rows} == kept - self.entries[user]
            rows = await self.conn.fetch("SELECT seq FROM wallet_transactions WHERE user_id = $1", user)
            assert {row["seq"] for row in rows} == self.entries[user]
            assert [event.seq for event in await inbox.list_after(self.conn, user, 0, seq, 1000)] == sorted(kept)
        assert await audit(self.conn) == []


class Mortal:
    """A connection that breaks after so many statements."""

    def __init__(self, conn: asyncpg.Connection, lives: int) -> None:
        self._conn = conn
        self._lives = lives

    def transaction(self) -> Any:
        return self._conn.transaction()

    async def _call(self, name: str, *args: Any) -> Any:
        self._lives -= 1
        if self._lives < 0:
            raise ConnectionResetError
        return await getattr(self._conn, name)(*args)

    async def fetch(self, *args: Any) -> Any:
        return await self._call("fetch", *args)

    async def fetchrow(self, *args: Any) -> Any:
        return await self._call("fetchrow", *args)

    async def fetchval(self, *args: Any) -> Any:
        return await self._call("fetchval", *args)

    async def execute(self, *args: Any) -> Any:
        return await self._call("execute", *args)


kinds = st.sampled_from(["event", "entry", "shared", "copied"])
stored = st.tuples(st.just("store"), st.integers(0, PEOPLE - 1), kinds, st.integers(1, 6))
waits = st.tuples(st.just("wait"), st.floats(0.5, 4000))
passes = st.tuples(st.just("pass"))
deaths = st.tuples(st.just("die"), st.integers(1, 25))
holds = st.tuples(st.just("held"), st.sets(st.integers(0, PEOPLE - 1)))
pairs = st.tuples(st.just("two"))
new_settings = st.tuples(st.just("set"), st.integers(1, 8), st.sampled_from([1.0, 3600.0, 20_000.0]))
scripts = st.lists(st.one_of(stored, stored, stored, waits, passes, deaths, holds, pairs, new_settings), max_size=25)


EMPTY: Final = """
TRUNCATE inbox, wallet_transactions, broadcasts, ingested_events, users, heads, accounts, retention, retention_owed;
INSERT INTO retention DEFAULT VALUES"""


@ON_THE_TESTS_DATABASE
@given(script=scripts)
async def test_whatever_happens_an_inbox_keeps_what_the_model_keeps(
    conn: asyncpg.Connection, dsn: str, script: list[Any]
) -> None:
    world = World(conn)
    await conn.execute(EMPTY)
    await world.populate()
    keep: tuple[int, float] = (5, 7200.0)
    other = await db.connect(dsn)
    for step in [*script, ("pass",)]:
        before = await world.oldest()
        world.now += timedelta(milliseconds=1)  # a pass does not end before what it looks at begins
        match step:
            case ("store", index, kind, count):
                for _ in range(count):
                    await world.store(world.users[index], kind)
            case ("wait", seconds):
                world.now += timedelta(seconds=seconds)
            case ("set", events, seconds):
                keep = (events, seconds)
            case ("pass",):
                await world.retention(*keep).run(conn)
                target = world.model(*keep)
                after = await world.oldest()
                assert after == {user: max(before[user], target[user]) for user in world.users}
            case ("die", lives):
                with contextlib.suppress(ConnectionResetError):
                    await world.retention(*keep).run(Mortal(other, lives))  # type: ignore[arg-type]
            case ("held", held):
                async with other.transaction():
                    await heads.lock(other, [world.users[index] for index in held])
                    await world.retention(*keep).run(conn)
                    after = await world.oldest()
                    assert all(after[world.users[index]] == before[world.users[index]] for index in held)
            case ("two",):
                await asyncio.gather(world.retention(*keep).run(conn), world.retention(*keep).run(other))
        target = world.model(*keep)
        for user, oldest in (await world.oldest()).items():
            assert before[user] <= oldest <= max(before[user], target[user])
    await world.check()
    await other.close()


# -- how much is looked at ---------------------------------------------------------------------------


async def test_the_first_pass_goes_through_all_and_the_next_ones_do_not(
    conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(conn)
    await world.populate(30)
    for user in world.users:
        for _ in range(3):
            await world.store(user, "event")
    trimmed: list[list[int]] = []
    trim = retention.trim

    async def watched(conn: Any, user_ids: Any, *rest: Any, **more: Any) -> set[int]:
        trimmed.append(sorted(user_ids))
        return await trim(conn, user_ids, *rest, **more)

    monkeypatch.setattr(retention, "trim", watched)
    keeping = world.retention(2, 3600)
    await keeping.run(conn)
    assert trimmed == [world.users], "after an upgrade: whatever is there"
    await keeping.run(conn)
    world.now += timedelta(seconds=10)
    await world.store(world.users[7], "entry")
    await world.store(world.users[8], "shared")
    world.now += timedelta(seconds=10)
    await keeping.run(conn)
    assert trimmed[1:] == [[world.users[7], world.users[8]]], "those of whom something was stored"
    world.now += timedelta(seconds=3585)
    await keeping.run(conn)
    assert trimmed[2:] == [world.users], "whose first events are too old now"
    await keeping.run(conn)
    assert len(trimmed) == 3
    assert await world.oldest() == world.model(2, 3600)
    await world.check()


async def test_a_window_is_found_by_the_index(conn: asyncpg.Connection) -> None:
    """On a large table neither window is read by going through it."""
    await conn.execute(
        "INSERT INTO inbox (user_id, seq, id, type, data, created_at)"
        " SELECT n % 100, n, gen_random_uuid(), 'x', '{}', $1::timestamptz + n * interval '1 second'"
        " FROM generate_series(1, 100000) n",
        START,
    )
    await conn.execute("VACUUM ANALYZE inbox")
    for query, more in ((retention.LIST_TOO_MANY, [5]), (retention.LIST_TOO_OLD, [])):
        window = [START + timedelta(seconds=50_000), START + timedelta(seconds=50_015)]
        rows = await conn.fetch("EXPLAIN (ANALYZE, TIMING OFF) " + query, *window, *more)
        plan = "\n".join(row[0] for row in rows)
        assert "inbox_age" in plan, plan
        assert "Seq Scan on inbox" not in plan, plan


async def test_a_pass_is_made_once_in_its_time_whichever_node_asks(conn: asyncpg.Connection) -> None:
    assert await retention.begin(conn, 15)
    assert not await retention.begin(conn, 15)
    await conn.execute("UPDATE retention SET begun_at = begun_at - interval '15 seconds'")
    assert await retention.begin(conn, 15)
    await conn.execute("UPDATE retention SET begun_at = clock_timestamp() + interval '1 hour'")
    assert await retention.begin(conn, 15), "a clock that was put back must not stop it for an hour"


async def test_what_is_not_committed_yet_is_not_passed_over(conn: asyncpg.Connection, dsn: str) -> None:
    """An event is dated before its commit: a pass in between must leave its window open."""
    writer = await db.connect(dsn)
    await users.insert_unknown_users(conn, [1], [None])
    keeping = Retention(keep_events=1, keep_days=30, every_s=0)
    await keeping.run(conn)
    async with writer.transaction():
        await heads.lock(writer, [1])
        now = await writer.fetchval("SELECT clock_timestamp()")
        events = [StoredEvent(1, seq, uuid4(), "x", None, "{}", now) for seq in (1, 2, 3)]
        await write_together(writer, inbox.append(events, {1: 3}))
        await keeping.run(conn)
        state = await retention.fetch_state(conn)
        assert state is not None
        assert state.counted_to < now
    await keeping.run(conn)
    assert await heads.list_heads(conn, [1]) == [(1, 3, 3)]
    assert await audit(conn) == []
    await writer.close()


async def test_who_has_very_much_to_lose_loses_it_in_steps(conn: asyncpg.Connection) -> None:
    await users.insert_unknown_users(conn, [1], [None])
    await conn.execute(
        "INSERT INTO inbox (user_id, seq, id, type, data, created_at)"
        " SELECT 1, n, gen_random_uuid(), 'x', '{}', now() FROM generate_series(1, 3333) n"
    )
    await conn.execute("UPDATE heads SET seq = 3333 WHERE user_id = 1")
    now = datetime.now(UTC)
    assert await retention.trim(conn, [1], 10, now - timedelta(days=1), step=1000) == {1}
    assert await heads.list_heads(conn, [1]) == [(1, 3333, 1001)]
    await Retention(keep_events=10, keep_days=1, every_s=0).run(conn)
    assert await heads.list_heads(conn, [1]) == [(1, 3333, 3324)]
    assert await conn.fetchval("SELECT count(*) FROM inbox") == 10
    assert await audit(conn) == []


# -- what readers see --------------------------------------------------------------------------------


async def test_a_page_has_no_hole_where_retention_comes_between_its_statements(
    conn: asyncpg.Connection, dsn: str, pool: asyncpg.Pool
) -> None:
    world = World(conn)
    await world.populate(1)
    [user] = world.users
    for number in range(60):
        await world.store(user, "entry" if number % 2 else "event")
        world.now += timedelta(seconds=1)
    other = await db.connect(dsn)
    done = asyncio.Event()

    async def trim() -> None:
        for keep in range(59, 0, -1):
            await retention.trim(other, [user], keep, START)
        done.set()

    async def nowhere(_: int) -> list[tuple[str, str]]:
        return []

    trimming = asyncio.create_task(trim())
    handler = InboxHandler(pool=pool, connections_of=nowhere)
    pages = after = 0
    while not done.is_set():
        page = await inbox.list_after(conn, user, after, 60, 500)
        assert [event.seq for event in page] == list(range(61 - len(page), 61))
        fetched = await handler.fetch(user, FetchRequest(after, 500))
        assert (len(fetched.events) == 60 - after) if fetched.complete else not fetched.events
        after = min(page[0].seq - 1, 59)
        pages += 1
    await trimming
    assert pages > 1
    assert (await handler.fetch(user, FetchRequest(10, 500))).complete is False
    await other.close()


class Overtaken:
    """A connection behind whose first page-statement retention comes; and the pool that it is taken from."""

    def __init__(self, conn: asyncpg.Connection, before: str, overtake: Callable[[], Awaitable[object]]) -> None:
        self._conn = conn
        self._before = before
        self._overtake: Callable[[], Awaitable[object]] | None = overtake

    async def fetch(self, query: str, *args: Any) -> Any:
        if query == self._before and self._overtake is not None:
            overtake, self._overtake = self._overtake, None
            await overtake()
        return await self._conn.fetch(query, *args)

    @contextlib.asynccontextmanager
    async def acquire(self, *, timeout: float | None = None) -> AsyncIterator[Overtaken]:
        yield self


@pytest.mark.parametrize(("before", "first"), [(inbox.LIST_EVENTS, 7), (inbox.LIST_ENTRIES, 7)], ids=["both", "one"])
async def test_whoever_reads_while_retention_trims_gets_no_hole(
    conn: asyncpg.Connection, dsn: str, before: str, first: int
) -> None:
    world = World(conn)
    await world.populate(1)
    [user] = world.users
    for number in range(10):
        await world.store(user, "entry" if number % 2 else "event")
    other = await db.connect(dsn)

    async def nowhere(_: int) -> list[tuple[str, str]]:
        return []

    async def trim() -> None:
        await retention.trim(other, [user], 4, START)

    page = await inbox.list_after(Overtaken(conn, before, trim), user, 0, 10, 500)  # type: ignore[arg-type]
    assert [event.seq for event in page] == list(range(first, 11))

    async def trim_more() -> None:
        await retention.trim(other, [user], 2, START)

    handler = InboxHandler(pool=Overtaken(conn, before, trim_more), connections_of=nowhere)
    fetched = await handler.fetch(user, FetchRequest(6, 500))
    assert (fetched.events, fetched.oldest_seq, fetched.complete) == ([], 9, False)
    await other.close()


async def test_an_inbox_of_entries_alone_grows_old_too(conn: asyncpg.Connection) -> None:
    world = World(conn)
    await world.populate(1)
    keeping = world.retention(10, 3600)
    await keeping.run(conn)  # the sweep
    world.now += timedelta(seconds=1)
    await world.store(world.users[0], "entry")
    for seconds, oldest in ((3599, 1), (2, 2)):
        world.now += timedelta(seconds=seconds)
        await keeping.run(conn)
        assert await world.oldest() == {world.users[0]: oldest}
    await world.check()


async def test_an_empty_inbox_begins_beyond_its_head(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    world = World(conn)
    await world.populate(2)
    one, other = world.users
    for kind in ("event", "entry", "shared", "copied"):
        await world.store(one, kind)
    world.now += timedelta(days=1)
    await world.retention(10, 3600).run(conn)
    assert await heads.list_heads(conn, [one]) == [(one, 4, 5)]
    assert await heads.list_heads(conn, [other]) == [(other, 0, 1)]
    await world.store(one, "event")
    assert [event.seq for event in await inbox.list_after(conn, one, 4, 5, 10)] == [5]
    await world.check()


# -- bodies that nobody refers to --------------------------------------------------------------------


async def test_a_body_goes_when_its_last_reader_has_lost_it(conn: asyncpg.Connection, dsn: str) -> None:
    world = World(conn)
    await world.populate(2)
    one, other = world.users
    await world.store(one, "shared")
    world.now += timedelta(seconds=100)
    await world.store(other, "shared")
    keeping = world.retention(10, 3600)
    await keeping.run(conn)

    async def bodies() -> int:
        return int(await conn.fetchval("SELECT count(*) FROM broadcasts"))

    world.now += timedelta(seconds=3550)
    holder = await db.connect(dsn)
    async with holder.transaction():
        await heads.lock(holder, [one])
        await keeping.run(conn)
        assert await bodies() == 2, "somebody who was passed over still has it"
        assert await audit(conn) == []
    await keeping.run(conn)
    assert await bodies() == 1
    world.now += timedelta(seconds=100)
    await keeping.run(conn)
    assert await bodies() == 0
    await world.check()
    await holder.close()


async def test_a_body_that_still_waits_for_recipients_stays(conn: asyncpg.Connection) -> None:
    world = World(conn)
    await world.populate(1)
    body = Body("slow", "x", None, "{}", START)
    await ingested.insert_events(conn, {(SOURCE, "slow"): Taken(b"", 1, 0)})
    await insert_body(conn, body, world.users)
    keeping = world.retention(10, 3600)
    await keeping.run(conn)
    world.now += timedelta(hours=2)
    await keeping.run(conn)
    assert await conn.fetchval("SELECT count(*) FROM broadcasts") == 1
    assert await audit(conn) == []
