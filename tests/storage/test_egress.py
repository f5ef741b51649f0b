"""Egress reads the ledger as it was committed: nothing is passed over, and each user's entries come in their order."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import db, egress
from storage.egress import Page, Place
from storage.embedded import EmbeddedPostgres
from storage.ledger import Entry
from storage.users import insert_unknown_users
from tests.support.database import QUICK
from tests.support.dumps import run_tool
from tests.support.writers import Writer, deduplicated, ledger_of, writers

TOPIC: Final = "test.ledger"
NODE: Final = "node-1"
LEASE_S: Final = 30.0
ANN, BEN, CLEO = 1, 2, 3
_users = itertools.count(1000)


class Reader:
    """What a node publishes, as it would."""

    def __init__(self, conn: asyncpg.Connection, *, limit: int = 100, node: str = NODE) -> None:
        self.conn = conn
        self.limit = limit
        self.node = node
        self.place: Place
        self.told: list[Entry] = []
        self.pages: list[int] = []

    async def claim(self) -> bool:
        place = await egress.claim(self.conn, TOPIC, self.node, LEASE_S)
        if place is not None:
            self.place = place
        return place is not None

    async def read(self) -> Page:
        """One page, published and noted."""
        page = await egress.next_page(self.conn, self.place, self.limit)
        self.told += [entry for entry, _ in page.rows]
        self.pages.append(len(page.rows))
        assert await egress.advance(self.conn, TOPIC, self.node, page.then, LEASE_S)
        self.place = page.then
        return page

    async def read_all(self) -> None:
        while (await self.read()).is_full:
            pass

    @property
    def ns(self) -> list[tuple[int, int]]:
        """(user, n) of what was told."""
        return [(entry.user_id, entry.n) for entry in self.told]


@pytest.fixture
async def reader(dsn: str, conn: asyncpg.Connection) -> AsyncIterator[Reader]:
    """One that has swept an empty ledger."""
    await insert_unknown_users(conn, (ANN, BEN, CLEO), [None] * 3)
    session = await db.connect_lane(dsn)
    made = Reader(session)
    assert await made.claim()
    await made.read_all()
    assert made.place.swept is None
    yield made
    await session.close()


@pytest.fixture
async def three(crew: list[Writer]) -> list[Writer]:
    return crew[:3]


@pytest.fixture
async def crew(dsn: str) -> AsyncIterator[list[Writer]]:
    """Connections that write."""
    made = await writers(dsn, 4)
    yield made
    for each in made:
        await each.conn.close()


async def test_who_commits_late_is_not_passed_over(reader: Reader, three: list[Writer]) -> None:
    """Ann's transaction is older than Ben's, and is still open when Ben's is committed and read."""
    late, other, _ = three
    await late.begin()
    await late.post(ANN)
    await other.begin()
    await other.post(BEN)
    await other.end()
    await reader.read_all()
    assert reader.ns == [], "an older one may still come, and might be of the same user"
    await late.end()
    await other.begin()
    await other.post(ANN)
    await other.end()
    await reader.read_all()
    assert reader.ns == [(ANN, 1), (ANN, 2), (BEN, 1)]


async def test_what_is_rolled_back_is_no_gap(reader: Reader, three: list[Writer]) -> None:
    for how in ("COMMIT", "ROLLBACK", "COMMIT"):
        await three[0].begin()
        await three[0].post(ANN)
        await three[0].end(how)
    await reader.read_all()
    assert reader.ns == [(ANN, 1), (ANN, 2)]


async def test_an_entry_of_an_older_transaction_than_the_one_before_it(reader: Reader, three: list[Writer]) -> None:
    """n=2 is of the oldest transaction, n=1 of the newest, and one between them still runs: of what is certain to be
    over, only n=2 is a part. It does not go without n=1."""
    oldest, between, newest = three
    numbers = [await each.begin() for each in three]
    assert numbers == sorted(numbers)
    await newest.post(ANN)
    await newest.end()
    await oldest.post(ANN)
    await oldest.end()
    await reader.read_all()
    assert reader.ns == [(ANN, 1), (ANN, 2)]
    await between.post(ANN)
    await between.end()
    await reader.read_all()
    assert deduplicated(reader.told) == {ANN: [1, 2, 3]}


Step = tuple[str, int, int]
# Whoever has begun first may end last: the more are open, the more their orders differ.
STEPS = st.tuples(
    st.sampled_from(("begin", "begin", "post", "post", "post", "commit", "rollback", "read")),
    st.integers(0, 3),
    st.integers(0, 1),
)


@given(steps=st.lists(STEPS, min_size=20, max_size=60), limit=st.integers(1, 4))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_transactions_overlap_a_consumer_has_the_ledger(
    reader: Reader, crew: list[Writer], steps: list[Step], limit: int
) -> None:
    reader.limit, reader.told = limit, []
    users = [next(_users) for _ in range(3)]
    await insert_unknown_users(reader.conn, users, [None] * 3)
    for writer in crew:
        if writer.is_open:  # of an example that failed
            await writer.end("ROLLBACK")
    for deed, who, whom in steps:
        writer = crew[who]
        if deed == "read":
            await reader.read()
        elif deed == "begin" and not writer.is_open:
            await writer.begin()
        elif deed == "post" and writer.is_open:
            if not any(users[whom] in each.held for each in crew if each is not writer):
                await writer.post(users[whom])
        elif deed in ("commit", "rollback") and writer.is_open:
            await writer.end(deed)
    for writer in crew:
        if writer.is_open:
            await writer.end()
    await reader.read_all()
    in_ledger = {user: ns for user, ns in (await ledger_of(reader.conn)).items() if user in users}
    assert deduplicated(reader.told) == in_ledger
    assert all(ns == list(range(1, len(ns) + 1)) for ns in in_ledger.values())


async def test_a_long_backlog_comes_in_small_pages(reader: Reader, three: list[Writer]) -> None:
    """But for a transaction that is larger than a page: it comes whole."""
    reader.limit = 5
    for _ in range(40):
        await three[0].begin()
        await three[0].post(ANN)
        await three[0].end()
    await three[0].begin()
    for _ in range(12):
        await three[0].post(BEN)
    await three[0].end()
    reader.pages.clear()
    await reader.read_all()
    assert reader.ns == [(ANN, n) for n in range(1, 41)] + [(BEN, n) for n in range(1, 13)]
    assert reader.pages == [5] * 8 + [12, 0]


async def test_a_page_costs_the_same_however_long_the_ledger_and_the_backlog_are(
    reader: Reader, three: list[Writer], conn: asyncpg.Connection
) -> None:
    """In blocks that are looked at, by the plan that a session keeps: not what a user ever had, nor what else waits."""
    writer = three[0]
    numbers = []
    for _ in range(3):
        numbers.append(await writer.begin())
        for _ in range(150):
            await writer.post(ANN, BEN)
        await writer.end()
    numbers.append(await writer.begin())
    await writer.post(ANN)
    await writer.end()
    await conn.execute("ANALYZE wallet_transactions")
    await reader.conn.execute("SET plan_cache_mode = force_generic_plan")
    await reader.conn.execute(f"PREPARE page (xid8, xid8, xid8) AS {egress.WINDOW}")

    async def blocks(first: int, end: int) -> tuple[int, int]:
        plan = await reader.conn.fetchval(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE page ('{first}', '{end}', '3')"
        )
        [whole] = json.loads(plan)
        return whole["Plan"]["Actual Rows"], whole["Plan"]["Shared Hit Blocks"]

    rows, hit = await blocks(numbers[3], numbers[3] + 1)
    assert rows == 1
    assert hit < 20
    rows, hit = await blocks(numbers[1], numbers[2])
    assert rows == 300
    assert hit < 100


async def test_it_begins_with_all_there_is(conn: asyncpg.Connection, dsn: str, three: list[Writer]) -> None:
    """Also with what is committed while it goes through it, whoever it is of."""
    await insert_unknown_users(conn, (ANN, BEN, CLEO), [None] * 3)
    first, late, _ = three
    for _ in range(7):
        await first.begin()
        await first.post(ANN, BEN)
        await first.end()
    await late.begin()
    await late.post(ANN)
    reader = Reader(conn, limit=3)
    assert await reader.claim()
    for _ in range(4):
        await reader.read()
    await late.end()
    await first.begin()
    await first.post(ANN, CLEO)
    await first.end()
    again = Reader(conn, limit=3)
    assert await again.claim()
    assert again.place == reader.place, "another life goes on in the middle"
    again.told = reader.told
    await again.read_all()
    assert deduplicated(again.told) == await ledger_of(conn)
    assert len(again.told) <= 17 + 2, "only what was committed meanwhile may come twice"


async def test_one_node_at_a_time(reader: Reader, three: list[Writer], conn: asyncpg.Connection) -> None:
    other = Reader(conn, node="node-2")
    assert not await other.claim()
    await three[0].begin()
    await three[0].post(ANN)
    await three[0].end()
    page = await egress.next_page(reader.conn, reader.place, 10)
    await conn.execute("UPDATE egress SET lease_until = clock_timestamp(), xact = pg_current_xact_id()")
    assert await other.claim()
    await other.read_all()
    assert other.ns == [(ANN, 1)]
    assert not await egress.advance(reader.conn, TOPIC, NODE, page.then, LEASE_S), "it woke up too late"
    assert not await reader.claim()
    await egress.release(reader.conn, TOPIC, NODE)
    assert not await reader.claim(), "that was not its own to give away"
    await egress.release(conn, TOPIC, "node-2")
    assert await reader.claim()
    assert reader.place == other.place


async def test_a_lease_from_before_the_clock_was_put_back_is_none(reader: Reader, conn: asyncpg.Connection) -> None:
    await conn.execute(
        "UPDATE egress SET lease_until = clock_timestamp() + interval '1 hour', xact = pg_current_xact_id()"
    )
    assert await Reader(conn, node="node-2").claim()


async def test_how_far_it_is_behind(reader: Reader, three: list[Writer], conn: asyncpg.Connection) -> None:
    assert await egress.fetch_lag(conn, "nowhere") is None
    open_one, other, _ = three
    await open_one.begin()
    for _ in range(3):
        await other.begin()
        await other.post(ANN)
        await other.end()
    await reader.read_all()
    lag = await egress.fetch_lag(conn, TOPIC)
    assert lag is not None
    assert (lag.entries, lag.is_sweeping) == (3, False)
    assert 0 < lag.oldest_s < lag.transaction_s, "which is what they wait for"
    await open_one.end()
    await reader.read_all()
    lag = await egress.fetch_lag(conn, TOPIC)
    assert lag is not None
    assert lag[:2] == (0, 0.0)


async def pass_transactions(conn: asyncpg.Connection, count: int) -> None:
    """So many, of others."""
    await conn.execute(
        f"DO $$ BEGIN FOR i IN 1..{count} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$", timeout=60
    )


async def test_a_dump_that_is_restored_into_a_younger_cluster(
    reader: Reader, three: list[Writer], conn: asyncpg.Connection, dsn: str, tmp_path: Path
) -> None:
    """Its entries are of transactions that this cluster has yet to come to, and what is posted now of earlier ones."""
    await pass_transactions(conn, 3_000)
    writer = three[0]
    for _ in range(5):
        await writer.begin()
        await writer.post(ANN, BEN)
        await writer.end()
    await reader.read_all()
    await writer.begin()
    await writer.post(ANN)
    await writer.end()
    dump = tmp_path / "applause.dump"
    await run_tool("pg_dump", "--format=custom", f"--file={dump}", f"--dbname={dsn}")
    async with EmbeddedPostgres(tmp_path / "younger", settings=QUICK) as younger:
        await run_tool("pg_restore", f"--dbname={younger.dsn}", "--exit-on-error", dump)
        restored = await db.connect_lane(younger.dsn)
        assert await restored.fetchval(
            "SELECT pg_snapshot_xmax(pg_current_snapshot()) < min(xact) FROM wallet_transactions"
        )
        again = Reader(restored, limit=4)
        assert await again.claim(), "the lease was another cluster's"
        assert again.place.swept == (0, 0)
        newer = Writer(restored)
        await again.read()
        await newer.begin()
        await newer.post(ANN, CLEO)
        await newer.end()
        await again.read_all()
        assert again.ns[-2:] == [(ANN, 7), (CLEO, 1)]
        assert deduplicated(again.told) == await ledger_of(restored)
        swept = len(again.told)
        brought = await conn.fetchval("SELECT max(xact) FROM wallet_transactions")
        await pass_transactions(restored, brought - await restored.fetchval("SELECT pg_current_xact_id()"))
        await newer.begin()
        await newer.post(ANN, BEN)
        await newer.end()
        await again.read_all()
        assert again.ns[swept:] == [(ANN, 8), (BEN, 6)], "and nothing of the dump once more"
        await restored.close()
