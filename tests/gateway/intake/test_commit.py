"""Deeds with a place in Kafka, through a real lane: their partition moves with them, or they are given up."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

import asyncpg
import pytest

from gateway.intake import records
from gateway.lane import Lane
from gateway.routes import AWARD, FOR_BACKENDS, PUBLISH
from gateway.settings import Events
from gateway.settings import Lane as Limits
from handlers.deed import GIVEN_UP, BatchResult, Deed, Delivered, Place
from handlers.events.handler import EventsHandler
from handlers.wallet.spending import SpendingHandler
from storage import db, heads, ingress, users
from storage.audit import audit
from tests.gateway.test_lane import CutAtCommit
from tests.support.intake import command, event

EVENTS: Final = ("t.events", 0)
MORE_EVENTS: Final = ("t.events", 1)
COMMANDS: Final = ("t.commands", 0)
POISON: Final = "poison"


class Handler(EventsHandler):
    """The real one, with a fault where a test asks for it."""

    fault: Callable[[asyncpg.Connection, Sequence[Deed]], Awaitable[None]] | None = None

    async def run(self, conn: Any, deeds: Sequence[Deed], concern: Any, heads: dict[int, int]) -> BatchResult:
        if any(deed.action_id == POISON for deed in deeds):
            await conn.execute("SELECT 1 / 0")
        if self.fault is not None:
            fault, self.fault = self.fault, None
            await fault(conn, deeds)
        return await super().run(conn, deeds, concern, heads)


class Nobody:
    """Hears nothing, and holds nothing back: what has a place is no connection's."""

    def topic(self, *_: object) -> None: ...

    def users(self, *_: object) -> None: ...

    def hold(self, order_key: object) -> None:
        assert order_key is None

    def release(self, order_key: object) -> None:
        assert order_key is None


class Bench:
    """A lane on a real database, and partitions whose records go through it."""

    def __init__(self, dsn: str, conn: asyncpg.Connection, **limits: Any) -> None:
        self.dsn = dsn
        self.conn = conn
        self.handler = Handler(publisher=Nobody(), wake_applier=lambda: None)
        self.delivered: list[Delivered] = []
        self.caught_up = 0
        self.connect: Callable[[], Awaitable[Any]] = lambda: db.connect_lane(dsn)
        spending = SpendingHandler(max_amount=1000)
        self.lane = Lane(
            handlers={PUBLISH: self.handler, **dict.fromkeys((*FOR_BACKENDS, AWARD), spending)},
            connect=self._connect,
            orders=Nobody(),
            deliver=self.delivered.extend,
            catch_up=self._catch_up,
            limits=Limits(**limits),
        )
        self.answers: dict[tuple[str, int], list[bytes]] = {}
        self._offsets: dict[tuple[str, int], itertools.count[int]] = {}

    async def _connect(self) -> Any:
        return await self.connect()

    def _catch_up(self) -> None:
        self.caught_up += 1

    def submit(self, at: tuple[str, int], *given: dict[str, Any], first: int | None = None) -> list[Deed]:
        """The next records of a partition, or those from an offset on."""
        deed_of = records.command if at == COMMANDS else records.events(Events())
        if first is not None or at not in self._offsets:
            self._offsets[at] = itertools.count(first or 0)
        deeds = []
        for record in given:
            deed = deed_of(json.dumps(record).encode(), order_key=at)
            deed.answer = self.answers.setdefault(at, []).append
            offset = next(self._offsets[at])
            deed.place = Place(*at, offset, offset + 1, at == COMMANDS)
            deed.received_at = asyncio.get_running_loop().time()
            self.lane.submit(deed)
            deeds.append(deed)
        return deeds

    async def answered(self, at: tuple[str, int], count: int) -> list[str]:
        """Each of the partition's answers in a word, once there are so many."""
        async with asyncio.timeout(20):
            while len(self.answers.get(at, ())) < count:
                await asyncio.sleep(0.01)
        return [_word(answer) for answer in self.answers[at]]

    async def stands(self) -> dict[tuple[str, int], int]:
        return await ingress.list_offsets(self.conn, [EVENTS, MORE_EVENTS, COMMANDS])

    async def inbox(self) -> list[tuple[int, str]]:
        rows = await self.conn.fetch("SELECT user_id, event_id FROM inbox ORDER BY user_id, seq")
        return [(row[0], row[1]) for row in rows]

    async def outcomes(self) -> list[Any]:
        return [json.loads(row[0]) for row in await self.conn.fetch("SELECT body FROM ingress_outcomes ORDER BY id")]


def _word(answer: bytes) -> str:
    if answer == GIVEN_UP:
        return "given up"
    said = json.loads(answer)
    return "ok" if said["ok"] else str(said["error"]["code"])


@contextlib.asynccontextmanager
async def laid(dsn: str, conn: asyncpg.Connection, **limits: Any) -> AsyncIterator[Bench]:
    await users.insert_unknown_users(conn, range(1, 10), [None] * 9)
    await ingress.begin(conn, {EVENTS: 0, MORE_EVENTS: 0, COMMANDS: 0})
    bench = Bench(dsn, conn, **limits)
    service = asyncio.create_task(bench.lane.run())
    try:
        yield bench
        assert not service.done(), service.exception()
        assert await audit(conn) == []
    finally:
        service.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await service


@pytest.fixture
async def bench(dsn: str, conn: asyncpg.Connection) -> AsyncIterator[Bench]:
    async with laid(dsn, conn) as made:
        yield made


async def test_a_partition_moves_with_what_its_records_came_to(bench: Bench) -> None:
    bench.submit(EVENTS, event(1, id="a"), event(2, id="b"))
    bench.submit(MORE_EVENTS, event(1, id="c"))
    bench.submit(
        COMMANDS, command("award", 1, 5, id="x"), command("deduct", 1, 9, id="y"), command("award", 99, 1, id="z")
    )
    assert await bench.answered(COMMANDS, 3) == ["ok", "insufficient_funds", "not_found"]
    assert await bench.stands() == {EVENTS: 2, MORE_EVENTS: 1, COMMANDS: 3}
    assert await bench.inbox() == [(1, "a"), (1, "c"), (2, "b")]
    given = {each["id"]: each for each in await bench.outcomes()}
    assert {name: each["ok"] for name, each in given.items()} == {"x": True, "y": False, "z": False}
    assert given["x"].keys() == {"source", "id", "ok", "data"}
    assert (given["x"]["source"], given["x"]["data"]["newBalance"]) == ("shop", 5)
    assert (given["y"]["error"]["code"], given["y"]["error"]["have"]) == ("insufficient_funds", 5)
    assert (given["z"]["error"]["code"], given["z"]["error"]["field"]) == ("not_found", "userId")
    assert len(bench.delivered) == 4


async def test_what_does_not_begin_where_the_partition_stands_is_given_up_and_nothing_else(bench: Bench) -> None:
    """So it is with a member that takes a partition for its own when it is another's by now."""
    await ingress.advance(bench.conn, [ingress.Step(*EVENTS, 0, 2)])
    bench.submit(EVENTS, event(1, id="a"), event(2, id="b"), event(2, id="c"))
    bench.submit(MORE_EVENTS, event(1, id="d"))
    bench.submit(COMMANDS, command("award", 1, 1))
    assert await bench.answered(EVENTS, 3) == ["given up"] * 3
    assert (await bench.answered(MORE_EVENTS, 1), await bench.answered(COMMANDS, 1)) == (["ok"], ["ok"])
    assert await bench.stands() == {EVENTS: 2, MORE_EVENTS: 1, COMMANDS: 1}
    assert await bench.inbox() == [(1, "d")]
    assert bench.lane.counts.given_up == 3
    bench.submit(EVENTS, event(2, id="c"), first=2)
    assert (await bench.answered(EVENTS, 4))[3] == "ok"


async def test_a_command_that_is_given_up_is_not_answered(bench: Bench) -> None:
    bench.submit(COMMANDS, command("award", 1, 1), first=7)
    assert await bench.answered(COMMANDS, 1) == ["given up"]
    assert await bench.outcomes() == []
    assert await bench.conn.fetchval("SELECT count(*) FROM backend_requests") == 0


async def test_a_repetition_is_answered_as_the_first_was_and_changes_nothing(bench: Bench) -> None:
    award = command("award", 1, 5, id="once")
    bench.submit(COMMANDS, award, award, award | {"amount": 6})
    bench.submit(COMMANDS, award)
    assert await bench.answered(COMMANDS, 4) == ["ok", "ok", "idempotency_conflict", "ok"]
    first, again, other, last = await bench.outcomes()
    assert first == again == last
    assert other["error"]["code"] == "idempotency_conflict"
    assert await bench.conn.fetchval("SELECT balance FROM accounts WHERE user_id = 1") == 500
    same = event(1, 2, id="same")
    bench.submit(EVENTS, same, same)
    bench.submit(MORE_EVENTS, same, same | {"data": {}})
    assert await bench.answered(EVENTS, 2) == ["ok", "ok"]
    assert await bench.answered(MORE_EVENTS, 2) == ["ok", "idempotency_conflict"]
    assert await bench.inbox() == [(1, "same"), (2, "same")]


async def test_one_at_fault_is_answered_and_those_behind_it_are_given_up(bench: Bench) -> None:
    """Their partition can't pass over it by itself: whoever reads them puts it aside and begins again."""
    bench.submit(EVENTS, event(1, id="a"), event(1, id=POISON), event(1, id="b"), event(2, id="c"))
    bench.submit(MORE_EVENTS, event(3, id="d"))
    assert await bench.answered(EVENTS, 4) == ["ok", "internal", "given up", "given up"]
    assert await bench.answered(MORE_EVENTS, 1) == ["ok"]
    assert await bench.stands() == {EVENTS: 1, MORE_EVENTS: 1, COMMANDS: 0}
    assert await bench.inbox() == [(1, "a"), (3, "d")]


async def test_a_partition_keeps_its_order_behind_one_who_is_held(bench: Bench) -> None:
    other = await db.connect(bench.dsn)
    async with other.transaction():
        await heads.lock(other, [1])
        bench.submit(EVENTS, event(2, id="a"), event(1, id="b"), event(2, id="c"), event(3, id="d"))
        bench.submit(MORE_EVENTS, event(2, id="e"))
        bench.submit(COMMANDS, command("award", 2, 1), command("award", 1, 1), command("award", 2, 1))
        assert await bench.answered(MORE_EVENTS, 1) == ["ok"]
        assert await bench.answered(COMMANDS, 1) == await bench.answered(EVENTS, 1) == ["ok"]
        await asyncio.sleep(0.5)
        assert await bench.stands() == {EVENTS: 1, MORE_EVENTS: 1, COMMANDS: 1}
    await other.close()
    assert await bench.answered(EVENTS, 4) == ["ok"] * 4
    assert await bench.answered(COMMANDS, 3) == ["ok"] * 3
    assert [name for user, name in await bench.inbox() if user == 2 and name in "ac"] == ["a", "c"]
    assert await bench.stands() == {EVENTS: 4, MORE_EVENTS: 1, COMMANDS: 3}


async def test_large_and_small_events_of_a_user_keep_their_order(bench: Bench) -> None:
    for number in range(6):
        bench.submit(EVENTS, event(1, id=f"{number}", data={"text": "x" * (2000 * (number % 2))}))
    await bench.answered(EVENTS, 6)
    assert [each.row.body.id for each in bench.delivered] == list("012345")
    assert [each.seq for each in bench.delivered] == [1, 2, 3, 4, 5, 6]


async def test_what_has_a_place_waits_as_long_as_it_takes(dsn: str, conn: asyncpg.Connection) -> None:
    async with laid(dsn, conn, deadline_s=0.3) as bench:
        sound = bench.connect

        async def away() -> Any:
            raise ConnectionRefusedError

        bench.connect = away
        bench.submit(EVENTS, event(1, id="a"))
        await asyncio.sleep(1.5)
        assert bench.answers[EVENTS] == []
        bench.connect = sound
        assert await bench.answered(EVENTS, 1) == ["ok"]
        assert bench.lane.counts.expired == bench.lane.counts.late == 0


async def test_what_is_withdrawn_is_given_up_and_the_rest_goes_on(dsn: str, conn: asyncpg.Connection) -> None:
    async with laid(dsn, conn, batch=2) as bench:
        entered, go = asyncio.Event(), asyncio.Event()

        async def fault(*_: object) -> None:
            entered.set()
            await go.wait()

        bench.handler.fault = fault
        bench.submit(EVENTS, *(event(1) for _ in range(5)))
        bench.submit(MORE_EVENTS, event(2))
        await entered.wait()
        bench.lane.withdraw(EVENTS)
        assert await bench.answered(EVENTS, 3) == ["given up"] * 3, "the two that run may end"
        go.set()
        assert (await bench.answered(EVENTS, 5))[3:] == ["ok", "ok"]
        assert await bench.answered(MORE_EVENTS, 1) == ["ok"]
        async with asyncio.timeout(5):
            await bench.lane.drained()
        assert await bench.stands() == {EVENTS: 2, MORE_EVENTS: 1, COMMANDS: 0}


@pytest.mark.parametrize("stored", [True, False])
async def test_after_a_commit_without_an_answer_nothing_is_done_twice(
    dsn: str, conn: asyncpg.Connection, stored: bool
) -> None:
    async with laid(dsn, conn) as bench:
        sound = bench.connect

        async def connect() -> Any:
            bench.connect = sound
            return CutAtCommit(await db.connect_lane(dsn), stored=stored)

        bench.connect = connect
        bench.submit(EVENTS, event(1, id="a"), event(2, id="b"))
        bench.submit(COMMANDS, command("award", 1, 5))
        said = "given up" if stored else "ok"
        assert await bench.answered(EVENTS, 2) == [said] * 2
        assert await bench.answered(COMMANDS, 1) == [said]
        assert await bench.stands() == {EVENTS: 2, MORE_EVENTS: 0, COMMANDS: 1}
        assert await bench.inbox() == [(1, "a"), (2, "b")]
        assert len(await bench.outcomes()) == 1
        assert bench.caught_up, "what the first run has stored has to be looked for"
