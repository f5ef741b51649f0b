"""The lane when deeds are bad, heads are held and the database goes away: each deed answered once, in order."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import pytest

from gateway.lane import Lane
from gateway.routes import ENGAGEMENT
from gateway.settings import Lane as Limits
from handlers.deed import BatchResult, Deed, Delivered
from handlers.engagement.handler import EngagementHandler
from handlers.errors import Refusal
from storage import db, heads
from storage.audit import audit
from tests.support.engagements import CREATOR, FAN, Asked, asked, awards_of, balances, seed

POISON = "b"  # a video that makes its batch fail, where a test wants one


class Holds:
    """Counts what delivery would hold back: never negative, and nothing left at the end."""

    def __init__(self) -> None:
        self.held: Counter[Any] = Counter()

    def hold(self, order_key: Any) -> None:
        self.held[order_key] += 1

    def release(self, order_key: Any) -> None:
        self.held[order_key] -= 1
        assert self.held[order_key] >= 0


class Handler(EngagementHandler):
    """The real one, with faults where a test asks for them."""

    fault: Callable[[asyncpg.Connection, Sequence[Deed]], Awaitable[None]] | None = None
    batches: list[int]

    async def run(self, conn: Any, deeds: Sequence[Deed], concern: Any, heads: dict[int, int]) -> BatchResult:
        result = await super().run(conn, deeds, concern, heads)
        self.batches.append(len(deeds))
        if self.fault is not None:
            await self.fault(conn, deeds)
        return result


class Bench:
    """A lane on a real database, with what its tests look at."""

    def __init__(self, dsn: str, conn: asyncpg.Connection, handler: Handler, limits: Limits) -> None:
        self.dsn = dsn
        self.conn = conn
        self.handler = handler
        self.holds = Holds()
        self.delivered: list[Delivered] = []
        self.caught_up = 0
        self.connect: Callable[[], Awaitable[Any]] = lambda: db.connect_lane(dsn)
        self.lane = Lane(
            handlers=dict.fromkeys(ENGAGEMENT, handler),
            connect=self._connect,
            orders=self.holds,
            deliver=self.delivered.extend,
            catch_up=self._catch_up,
            limits=limits,
        )

    async def _connect(self) -> Any:
        return await self.connect()

    def _catch_up(self) -> None:
        self.caught_up += 1

    def submit(self, *batch: Asked) -> None:
        for each in batch:
            self.lane.submit(each.deed)

    async def answers(self, *batch: Asked, within_s: float = 15.0) -> list[Any]:
        """Submit all at once and return their answers."""
        self.submit(*batch)
        return await self.all_of(*batch, within_s=within_s)

    async def all_of(self, *batch: Asked, within_s: float = 15.0) -> list[Any]:
        async with asyncio.timeout(within_s):
            for each in batch:
                await each.done.wait()
        return [each.answer for each in batch]

    @contextlib.asynccontextmanager
    async def somebody_holds(self, *user_ids: int) -> AsyncIterator[asyncpg.Connection]:
        """Another node that has locked these heads and does not let go."""
        other = await db.connect(self.dsn)
        try:
            async with other.transaction():
                await heads.lock(other, user_ids)
                yield other
        finally:
            await other.close()


@contextlib.asynccontextmanager
async def laid(dsn: str, conn: asyncpg.Connection, **limits: Any) -> AsyncIterator[Bench]:
    awards = await awards_of(conn)
    handler = Handler(awards=lambda: awards)
    handler.batches = []
    bench = Bench(dsn, conn, handler, Limits(**limits))
    service = asyncio.create_task(bench.lane.run())
    try:
        yield bench
        async with asyncio.timeout(5):
            await bench.lane.drained()
        await asyncio.sleep(0)
        assert not +bench.holds.held
        assert not service.done(), service.exception()
        assert await audit(conn) == []
    finally:
        service.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await service


@pytest.fixture
async def bench(dsn: str, conn: asyncpg.Connection) -> AsyncIterator[Bench]:
    await seed(conn, fans=30)
    async with laid(dsn, conn) as bench:
        yield bench


def once(fault: Callable[[asyncpg.Connection, Sequence[Deed]], Awaitable[None]]) -> Any:
    """The fault at its first occasion only."""
    left = [fault]

    async def maybe(conn: asyncpg.Connection, deeds: Sequence[Deed]) -> None:
        if left:
            await left.pop()(conn, deeds)

    return maybe


# -- batches -----------------------------------------------------------------------------------------


async def test_what_gathers_while_a_batch_runs_is_one_batch(bench: Bench) -> None:
    likes = [asked(FAN + each, "video:like") for each in range(30)]
    answers = await bench.answers(*likes)
    assert all(answer["ok"] for answer in answers)
    assert bench.handler.batches == [30]
    assert len(bench.delivered) == 30 + 2


async def test_heavy_deeds_fill_a_batch(dsn: str, conn: asyncpg.Connection) -> None:
    await seed(conn)
    async with laid(dsn, conn, batch=10) as bench:
        deeds = [asked(FAN + number, "video:like", "a") for number in range(6)]
        for each, weight in zip(deeds, (1, 9, 1, 10, 500, 1), strict=True):
            each.deed.weight = weight
        await bench.answers(*deeds)
        assert bench.handler.batches == [2, 2, 1, 1]


async def test_batches_are_bounded_and_keep_the_order(dsn: str, conn: asyncpg.Connection) -> None:
    await seed(conn)
    async with laid(dsn, conn, batch=4) as bench:
        shares = [asked(FAN, "video:share") for _ in range(10)]
        answers = await bench.answers(*shares)
        assert [answer["data"]["total"] for answer in answers] == list(range(1, 11))
        assert max(bench.handler.batches) == 4


async def test_more_than_may_wait_is_overloaded(dsn: str, conn: asyncpg.Connection) -> None:
    await seed(conn)
    async with laid(dsn, conn, batch=2, queue=5) as bench:
        likes = [asked(FAN + each, "video:like") for each in range(6)]
        bench.submit(*likes[:5])
        with pytest.raises(Refusal) as refused:
            bench.submit(likes[5])
        assert (refused.value.code, refused.value.retry_after_ms, refused.value.outcome) == ("overloaded", 1000, None)
        assert all(answer["ok"] for answer in await bench.all_of(*likes[:5]))
        assert (await bench.answers(likes[5]))[0]["ok"], "it goes on when there is room"


# -- bad deeds ---------------------------------------------------------------------------------------


async def divide(conn: asyncpg.Connection) -> None:
    await conn.execute("SELECT 1 / 0")


async def stumble(_: asyncpg.Connection) -> None:
    raise KeyError("a fault of ours")


@pytest.mark.parametrize("fail", [divide, stumble])
@pytest.mark.parametrize("place", [0, 6, 12])
async def test_a_bad_deed_is_found_and_the_others_don_t_suffer(bench: Bench, fail: Any, place: int) -> None:
    async def fault(conn: asyncpg.Connection, deeds: Sequence[Deed]) -> None:
        if any(deed.request.video_id == POISON for deed in deeds):
            await fail(conn)

    bench.handler.fault = fault
    deeds = [asked(FAN + each, "video:like") for each in range(12)]
    deeds.insert(place, bad := asked(FAN, "video:like", POISON))
    await bench.answers(*deeds)
    error = bad.answer["error"]
    assert (error["code"], error.get("outcome")) == ("internal", None)
    assert [each.answer["ok"] for each in deeds if each is not bad] == [True] * 12
    assert {user: points for user, points in (await balances(bench.conn)).items() if user != CREATOR} == {
        FAN + each: 100 for each in range(12)
    }
    assert len(bench.handler.batches) < 13, "halved, not one by one"


async def test_a_deadlock_is_tried_again(bench: Bench) -> None:
    async def fault(conn: asyncpg.Connection, _: Sequence[Deed]) -> None:
        await conn.execute("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40P01'; END $$")

    bench.handler.fault = once(fault)
    [answer] = await bench.answers(asked(FAN, "video:like"))
    assert answer["ok"]
    assert bench.handler.batches == [1, 1]


# -- held heads --------------------------------------------------------------------------------------


async def test_a_head_that_somebody_holds_stops_only_its_own(bench: Bench) -> None:
    held = [asked(FAN, event) for event in ("video:like", "video:unlike", "video:like")]
    free = [asked(FAN + 1, "video:like"), asked(FAN + 2, "video:view")]
    async with bench.somebody_holds(FAN):
        bench.submit(held[0], free[0], held[1], free[1], held[2])
        assert all(answer["ok"] for answer in await bench.all_of(*free, within_s=2))
        assert not any(each.answers for each in held)
    answers = await bench.all_of(*held, within_s=2)
    assert [(a["data"]["already"], a["data"].get("reason")) for a in answers] == [
        (False, None), (False, None), (False, "already_paid"),
    ]  # fmt: skip


async def test_a_creator_whom_somebody_holds_is_paid_later(bench: Bench) -> None:
    async with bench.somebody_holds(CREATOR):
        [answer] = await bench.answers(asked(FAN, "video:like"), within_s=2)
        assert answer["ok"]
    assert await bench.conn.fetchval("SELECT sum(points) FROM accruals") == 100


async def test_who_waits_for_ever_is_told_in_time_and_nothing_is_stored(dsn: str, conn: asyncpg.Connection) -> None:
    await seed(conn)
    async with laid(dsn, conn, deadline_s=1) as bench:
        async with bench.somebody_holds(FAN):
            [answer] = await bench.answers(asked(FAN, "video:like"), within_s=2)
        assert (answer["error"]["code"], answer["error"].get("outcome")) == ("unavailable", None)
        assert await conn.fetchval("SELECT count(*) FROM engagements") == 0


async def test_a_batch_in_halves_keeps_the_order_of_a_connection_that_waits(bench: Bench) -> None:
    """The first half finds a head held, which is free again when the second half comes."""
    first, bad, last = asked(FAN, "video:like"), asked(FAN + 1, "video:like", POISON), asked(FAN, "video:unlike")
    holding = bench.somebody_holds(FAN)
    await holding.__aenter__()
    seen: list[str] = []

    async def fault(conn: asyncpg.Connection, deeds: Sequence[Deed]) -> None:
        names = [deed.event for deed in deeds if deed.user_id == FAN]
        seen.append("+".join(names))
        if any(deed.request.video_id == POISON for deed in deeds):
            if len(deeds) < 4:
                await _let_go(holding)
            await divide(conn)

    bench.handler.fault = fault
    others = [asked(FAN + 2, "video:like")]
    await bench.answers(first, *others, bad, last, within_s=5)
    assert (first.answer["data"]["already"], last.answer["data"]["already"]) == (False, False), seen
    assert bad.answer["error"]["code"] == "internal"


async def _let_go(holding: Any) -> None:
    with contextlib.suppress(Exception):
        await holding.__aexit__(None, None, None)


async def test_a_deed_that_waits_while_the_other_half_is_lost_runs_once(bench: Bench) -> None:
    first, bad = asked(FAN, "video:like"), asked(FAN + 1, "video:like", POISON)
    holding = bench.somebody_holds(FAN)
    await holding.__aenter__()

    async def fault(conn: asyncpg.Connection, deeds: Sequence[Deed]) -> None:
        if all(deed.request.video_id == POISON for deed in deeds):
            await _let_go(holding)
            bench.handler.fault = None
            raise ConnectionResetError
        if any(deed.request.video_id == POISON for deed in deeds):
            await divide(conn)

    bench.handler.fault = fault
    answers = await bench.answers(first, bad, within_s=5)
    assert [answer["ok"] for answer in answers] == [True, True]
    await asyncio.sleep(0.3)  # long enough for a second answer, which would end the lane
    assert len(first.answers) == len(bad.answers) == 1


# -- a database that goes away -----------------------------------------------------------------------


async def kill(bench: Bench, conn: asyncpg.Connection) -> None:
    """End the session of `conn` from outside, and wait until it is gone."""
    pid = conn.get_server_pid()
    await bench.conn.execute("SELECT pg_terminate_backend($1, 5000)", pid)


async def test_a_session_lost_before_commit_runs_again(bench: Bench) -> None:
    async def fault(conn: asyncpg.Connection, _: Sequence[Deed]) -> None:
        await kill(bench, conn)

    bench.handler.fault = once(fault)
    likes = [asked(FAN + each, "video:like") for each in range(5)]
    answers = await bench.answers(*likes, within_s=4)
    assert all(answer["ok"] for answer in answers)
    assert not any("replayed" in answer for answer in answers)
    assert (await balances(bench.conn))[FAN] == 100


async def test_a_session_lost_while_idle_is_not_noticed_by_anybody(bench: Bench) -> None:
    await bench.answers(asked(FAN, "video:like"))
    await bench.conn.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'applause lane'"
        " AND datname = current_database()"
    )
    [answer] = await bench.answers(asked(FAN, "video:view"), within_s=4)
    assert answer["ok"]
    assert "replayed" not in answer


class CutAtCommit:
    """A session that breaks around its first COMMIT, which the server has carried out or not."""

    def __init__(self, conn: asyncpg.Connection, *, stored: bool, then: Callable[[], None] = lambda: None) -> None:
        self._conn = conn
        self._stored = stored
        self._then = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    async def execute(self, query: str, *args: Any) -> Any:
        if query != "COMMIT":
            return await self._conn.execute(query, *args)
        if self._stored:
            await self._conn.execute("COMMIT")
        self._conn.terminate()
        self._then()
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")


def cut_first(bench: Bench, *, stored: bool) -> None:
    """The lane's next session breaks around its COMMIT; those after it are sound."""
    sound = bench.connect

    async def connect() -> Any:
        bench.connect = sound
        return CutAtCommit(await db.connect_lane(bench.dsn), stored=stored)

    bench.connect = connect


@pytest.mark.parametrize("stored", [True, False])
async def test_a_commit_without_an_answer_runs_again_under_the_same_keys(
    dsn: str, conn: asyncpg.Connection, stored: bool
) -> None:
    await seed(conn)
    async with laid(dsn, conn) as bench:
        cut_first(bench, stored=stored)
        deeds = [asked(FAN, "video:share"), asked(FAN + 1, "video:like"), asked(FAN, "video:share")]
        answers = await bench.answers(*deeds, within_s=4)
        assert [answer["data"]["total"] for answer in answers] == [1, 1, 2]
        assert not any("replayed" in answer for answer in answers), "to the caller it is the first time"
        assert (await balances(conn))[FAN] == 200
        assert await conn.fetchval("SELECT sum(count) FROM engagements") == 3
        assert bench.caught_up, "what the first run stored has to be looked for"


@pytest.mark.parametrize("stored", [True, False])
async def test_an_unknown_outcome_is_never_called_a_failure(dsn: str, conn: asyncpg.Connection, stored: bool) -> None:
    await seed(conn)
    async with laid(dsn, conn, deadline_s=1) as bench:
        sound = bench.connect
        away = asyncio.Event()

        async def gone() -> Any:
            raise ConnectionRefusedError

        def go_away() -> None:
            bench.connect = gone
            away.set()

        async def connect() -> Any:
            return CutAtCommit(await db.connect_lane(dsn), stored=stored, then=go_away)

        bench.connect = connect
        first = asked(FAN, "video:like", action_id="the-key-1")
        bench.submit(first)
        await away.wait()
        later = asked(FAN + 1, "video:like")
        bench.submit(later)
        await bench.all_of(first, later, within_s=2.5)
        assert first.answer["error"]["code"] == later.answer["error"]["code"] == "unavailable"
        assert first.answer["error"]["outcome"] == "unknown"
        assert "outcome" not in later.answer["error"], "this one certainly did not happen"
        assert later.answer["error"]["retryable"]
        assert later.answer["error"]["retryAfterMs"] > 0
        assert not bench.lane.available

        bench.connect = sound
        again = asked(FAN, "video:like", action_id="the-key-1")
        [answer] = await bench.answers(again, within_s=4)
        assert answer["data"]["award"] == {"points": 1, "newBalance": 1}
        assert answer.get("replayed", False) is stored
        assert bench.lane.available


@pytest.mark.parametrize("answers", ["refused", "never"])
async def test_every_deed_is_told_in_time_that_the_database_is_away(
    dsn: str, conn: asyncpg.Connection, answers: str
) -> None:
    """Within 5 s of each receipt, at the default settings; service returns by itself."""
    await seed(conn)
    async with laid(dsn, conn) as bench:
        await bench.answers(asked(FAN, "video:like"))
        sound = bench.connect

        async def away() -> Any:
            if answers == "refused":
                raise ConnectionRefusedError
            await asyncio.sleep(60)

        bench.connect = away
        await bench.conn.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'applause lane'"
            " AND datname = current_database()"
        )
        likes = []
        for _ in range(8):
            likes.append(asked(FAN + 1, "video:like"))
            bench.submit(likes[-1])
            await asyncio.sleep(0.25)
        got = await bench.all_of(*likes, within_s=6)
        assert {answer["error"]["code"] for answer in got} == {"unavailable"}
        waits = [like.answered_at - like.deed.received_at for like in likes]
        assert max(waits) < 5, waits
        assert await conn.fetchval("SELECT count(*) FROM engagements") == 1
        bench.connect = sound
        async with asyncio.timeout(5):
            while not bench.lane.available:
                await asyncio.sleep(0.05)
        assert (await bench.answers(asked(FAN + 1, "video:like")))[0]["ok"]


async def test_under_every_fault_at_once_each_deed_is_answered_once_and_in_order(
    dsn: str, conn: asyncpg.Connection
) -> None:
    """Sessions ended at random, heads held at random, bad deeds: and the books are right. Nothing expires meanwhile,
    however busy the machine, so all but the bad ones are carried out."""
    await seed(conn, fans=12)
    chance = random.Random(7)
    async with laid(dsn, conn, batch=20, deadline_s=100.0) as bench:
        deeds: list[Asked] = []
        order: list[Asked] = []

        async def fault(lane_conn: asyncpg.Connection, batch: Sequence[Deed]) -> None:
            if any(deed.request.video_id == POISON for deed in batch):
                await divide(lane_conn)

        async def trouble() -> None:
            for _ in range(40):
                await asyncio.sleep(chance.uniform(0, 0.08))
                if chance.random() < 0.6:
                    await conn.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE application_name = 'applause lane' AND datname = current_database()"
                    )
                else:
                    async with bench.somebody_holds(FAN + chance.randrange(12), CREATOR):
                        await asyncio.sleep(chance.uniform(0, 0.5))

        bench.handler.fault = fault
        troubled = asyncio.create_task(trouble())
        for number in range(240):
            video = POISON if number % 60 == 30 else "a"
            each = asked(FAN + number % 12, chance.choice(["video:share", "video:view"]), video)
            each.deed.answer = _noting(each, order)
            deeds.append(each)
            bench.submit(each)
            await asyncio.sleep(0.008)
        await troubled
        await bench.all_of(*deeds, within_s=100)
        bad = [each for each in deeds if each.deed.request.video_id == POISON]
        assert {each.answer["error"]["code"] for each in bad} == {"internal"}
        assert [each for each in deeds if not each.answer["ok"]] == bad
        for user in range(FAN, FAN + 12):
            assert [each for each in order if each.deed.user_id == user] == [
                each for each in deeds if each.deed.user_id == user
            ]
        assert await conn.fetchval("SELECT sum(count) FROM engagements") == len(deeds) - len(bad)


def _noting(each: Asked, order: list[Asked]) -> Callable[[bytes], None]:
    answer = each.deed.answer

    def note(body: bytes) -> None:
        order.append(each)
        answer(body)

    return note
