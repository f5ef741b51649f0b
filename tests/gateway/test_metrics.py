"""What moves which metric, on a real server; and what no scrape may ever show."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import pytest
from prometheus_client import generate_latest

from gateway.counts import Histogram, Throttle
from gateway.metrics.registry import registry
from gateway.metrics.work import of_pool, of_vitals
from gateway.vitals import Vitals
from handlers.engagement.settler import Settler
from storage.pool import session
from tests.support.clients import PATIENCE_S, wire
from tests.support.engagements import CREATOR, FAN, seed
from tests.support.processes import nothing_broke
from tests.support.scrape import Sample, moves, named, read, scrape
from tests.support.server import Gateway, running
from tests.support.stage import VIEWER, Stage, action_id

DASHBOARD: Final = Path(__file__).parents[2] / "ops" / "dashboard.json"
MANY: Final = 1_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A server that bears with a lot of nonsense."""
    gateway = Gateway(tmp_path_factory.mktemp("metrics") / "data", SOCKET__BAD_REQUESTS_PER_MINUTE=10 * MANY)
    gateway.start()
    yield gateway
    assert gateway.stop() == 0
    nothing_broke(gateway.log)


@pytest.fixture
async def stage(server: Gateway) -> AsyncIterator[Stage]:
    stage = Stage(server)
    yield stage
    await stage.close()


class Scene:
    """A viewer with a phone, and a video of somebody else's."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    async def prepare(self) -> None:
        self.viewer = await self.stage.person(follows=VIEWER)
        self.video = await self.stage.video(await self.stage.person())
        self.phone = await self.stage.phone(self.viewer)

    async def like(self, action: str | None = None) -> Any:
        return await self.phone.call("video:like", {"videoId": self.video, "actionId": action or action_id()})


async def likes(scene: Scene) -> None:
    await scene.like()


async def likes_twice_with_one_action_id(scene: Scene) -> None:
    action = action_id()
    assert (await scene.like(action))["ok"]
    assert (await scene.like(action))["replayed"]


async def likes_over_http(scene: Scene) -> None:
    body = {"videoId": scene.video, "actionId": action_id()}
    token = scene.stage.server.token(scene.viewer)
    assert (await scene.stage.server.ask("POST", "/v1/actions/video:like", body, token=token)).status == 200


async def likes_what_is_not_there(scene: Scene) -> None:
    await scene.phone.fail("not_found", "video:like", {"videoId": "nowhere", "actionId": action_id()})


async def asks_for_the_wallet(scene: Scene) -> None:
    await scene.phone.do("wallet:get")


async def says_nonsense(scene: Scene) -> None:
    await scene.phone.fail("invalid_payload", "video:like", {"videoId": 5})
    await scene.phone.fail("unknown_event", "video:eat", {})
    token = scene.stage.server.token(scene.viewer)
    answer = await scene.stage.server.ask("POST", "/v1/actions/video:eat", {}, token=token)
    assert answer.status == 404


async def leaves(scene: Scene) -> None:
    await scene.phone.close()


async def breaks_the_protocol(scene: Scene) -> None:
    async with wire(scene.stage.server.url) as bare:
        await bare.enter(scene.stage.server.token(scene.viewer))
        await bare.say("49")
        await bare.rest()


async def connects_again_with_the_same_device(scene: Scene) -> None:
    for _ in range(2):
        await scene.stage.phone(scene.viewer, deviceId="phone-1")


async def knocks_with_a_bad_token(scene: Scene) -> None:
    async with wire(scene.stage.server.url) as bare:
        await bare.enter("nonsense")


async def comes_back_two_events_behind(scene: Scene) -> None:
    await scene.like()
    await scene.phone.call("video:view", {"videoId": scene.video, "actionId": action_id()})
    await scene.phone.caught_up(2)
    await scene.stage.phone(scene.viewer, lastSeq="0")


async def listens_to_a_topic(scene: Scene) -> None:
    topic = f"live:{action_id()}"
    await scene.phone.do("topic:subscribe", topic=topic)
    body = {"id": action_id(), "type": "counter", "topic": topic, "data": {}}
    assert (await scene.stage.server.ask("POST", "/v1/events", body)).status == 200


async def looks_in_vain(scene: Scene) -> None:
    assert (await scene.stage.server.ask("GET", f"/somewhere/{scene.viewer}")).status == 404


Act = Callable[[Scene], Awaitable[None]]
TABLE: Final[list[tuple[Act, dict[str, float]]]] = [
    (
        likes,
        {
            "applause_acks_total{door=socket,event=video:like,code=ok}": 1,
            "applause_acks_total{door=http,event=video:like,code=ok}": 0,
            "applause_action_duration_seconds_count": 1,
            "applause_lane_batch_actions_sum": 1,
            "applause_lane_batch_duration_seconds_count": 1,
            "applause_deliveries_total{kind=live}": 1,
            "applause_replays_total": 0,
        },
    ),
    (
        likes_twice_with_one_action_id,
        {
            "applause_acks_total{door=socket,event=video:like,code=ok}": 2,
            "applause_replays_total": 1,
            "applause_deliveries_total{kind=live}": 1,
        },
    ),
    (
        likes_over_http,
        {
            "applause_acks_total{door=http,event=video:like,code=ok}": 1,
            "applause_acks_total{door=socket,event=video:like,code=ok}": 0,
            "applause_http_requests_total{route=/v1/actions/{event},method=POST,status=200}": 1,
            "applause_http_request_duration_seconds_count{route=/v1/actions/{event},method=POST}": 1,
        },
    ),
    (likes_what_is_not_there, {"applause_acks_total{door=socket,event=video:like,code=not_found}": 1}),
    (asks_for_the_wallet, {"applause_acks_total{door=socket,event=wallet:get,code=ok}": 1}),
    (
        says_nonsense,
        {
            "applause_acks_total{door=socket,event=video:like,code=invalid_payload}": 1,
            "applause_acks_total{door=socket,event=other,code=unknown_event}": 1,
            "applause_acks_total{door=http,event=other,code=unknown_event}": 1,
            "applause_lane_batch_actions_sum": 0,
        },
    ),
    (
        leaves,
        {
            "applause_closes_total{code=client}": 1,
            "applause_connections{state=live}": -1,
            "applause_users_connected": -1,
        },
    ),
    (
        breaks_the_protocol,
        {"applause_connects_total{result=accepted}": 1, "applause_closes_total{code=protocol_error}": 1},
    ),
    (
        connects_again_with_the_same_device,
        {"applause_connects_total{result=accepted}": 2, "applause_closes_total{code=replaced}": 1},
    ),
    (
        knocks_with_a_bad_token,
        {"applause_connects_total{result=token_invalid}": 1, "applause_connects_total{result=accepted}": 0},
    ),
    (
        comes_back_two_events_behind,
        {
            "applause_connects_total{result=accepted}": 1,
            "applause_connections{state=live}": 1,
            "applause_users_connected": 0,
            "applause_resume_events_count": 1,
            "applause_resume_events_sum": 2,
            "applause_resume_events_bucket{le=1.0}": 0,
            "applause_resume_events_bucket{le=3.0}": 1,
            "applause_pump_starts_total": 1,
            "applause_deliveries_total{kind=replayed}": 2,
        },
    ),
    (listens_to_a_topic, {"applause_deliveries_total{kind=topic}": 1, "applause_topics": 1}),
    (looks_in_vain, {"applause_http_requests_total{route=other,method=GET,status=404}": 1}),
]


@pytest.mark.parametrize(("act", "expected"), TABLE, ids=[act.__name__ for act, _ in TABLE])
async def test_what_moves_which_metric(stage: Stage, act: Act, expected: dict[str, float]) -> None:
    scene = Scene(stage)
    await scene.prepare()
    await quiet(stage.server.url)
    before = await scrape(stage.server.url)
    await act(scene)
    await moves(stage.server.url, before, expected)


async def quiet(url: str) -> None:
    """Return when earlier scenes' connections are gone and all that was written is more than a moment old."""
    last: dict[Sample, float] = {}
    watched = [named("applause_connections{state=closing}"), named("applause_closes_total{code=client}")]
    async with asyncio.timeout(PATIENCE_S):
        while True:
            now = await scrape(url)
            if not now[watched[0]] and [now[each] for each in watched] == [last.get(each) for each in watched]:
                return
            last = now
            await asyncio.sleep(0.25)


async def test_a_thousand_names_make_no_series(stage: Stage) -> None:
    """Whatever a client calls things, and however many users there are: series are as many as before."""
    scene, server = Scene(stage), stage.server
    await scene.prepare()
    await says_nonsense(scene)
    await looks_in_vain(scene)
    users = [await stage.person() for _ in range(3)]
    await quiet(server.url)
    before = await scrape(server.url)
    for number in range(MANY):
        await scene.phone.send(f"evil:{number}", {"videoId": f"v{number}"})
    await scene.phone.call("evil:last", {})
    token = server.token(scene.viewer)
    for number in range(30):
        await server.ask("POST", f"/v1/actions/evil:{number}", {}, token=token)
        await server.ask("GET", f"/evil/{number}")
        await server.ask("PROPFIND", f"/evil/{number}", token=token)
        await server.ask("GET", f"/v1/videos/evil-{number}")
    for user in users:
        phone = await stage.phone(user)
        await phone.do("wallet:get")

    expected = {"applause_acks_total{door=socket,event=other,code=unknown_event}": MANY + 1.0}
    await moves(server.url, before, expected)
    after = await scrape(server.url)
    new = {name for name, _ in after.keys() - before.keys()}
    assert new <= {"applause_http_requests_total", "applause_acks_total"} | {
        f"applause_http_request_duration_seconds_{part}" for part in ("bucket", "sum", "count")
    }
    assert len(after) - len(before) < 60
    values = {value for _, labels in after for label, value in labels if label != "le"}
    assert not [value for value in values if "evil" in value.lower()]
    assert not [value for value in values for user in stage.people if str(user) in value]


async def test_every_name_says_what_and_in_which_unit(server: Gateway) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/metrics") as response:
        text = await response.text()
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    names = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    assert len(names) == len(set(names)) > 30
    assert re.findall(r"^# HELP (\S+) .*\.$", text, re.MULTILINE).__len__() >= 30
    for name, kind in names:
        assert name.startswith("applause_")
        assert not re.search(r"_(ms|millis|minutes|kb|mb|percent)(_|$)", name)
        assert kind != "counter" or name.endswith("_total"), name


async def test_openmetrics_and_a_choice_of_names_for_who_asks(server: Gateway) -> None:
    url = f"{server.url}/metrics"
    async with aiohttp.ClientSession() as http:
        async with http.get(url, headers={"Accept": "application/openmetrics-text; version=1.0.0"}) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
            assert (await response.text()).endswith("# EOF\n")
        async with http.get(url, params={"name[]": "applause_lane_depth"}) as response:
            assert set(read(await response.text())) == {named("applause_lane_depth")}
        async with http.post(url) as response:
            assert response.status == 405


async def test_the_dashboard_names_only_what_is_there(stage: Stage) -> None:
    scene = Scene(stage)
    await scene.prepare()
    await likes(scene)
    shown = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in shown["panels"] for target in panel["targets"]]
    wanted = {name for each in expressions for name in re.findall(r"applause_\w+", each)}
    there = {name for name, _ in await scrape(stage.server.url)}
    # See tests/journeys/test_cluster.py, test_intake.py and test_egress.py.
    of_clusters = (
        "applause_fanout_", "applause_bus_", "applause_presence_", "applause_intake_", "applause_egress_",
    )  # fmt: skip
    assert {name for name in wanted - there if not name.startswith(of_clusters)} == set()
    assert 12 <= len(shown["panels"]) <= 22
    assert len({panel["id"] for panel in shown["panels"]}) == len(shown["panels"])


# -- what only a trouble moves -----------------------------------------------------------------------------------------


async def test_locks_that_are_not_given_and_time_that_runs_out(tmp_path: Path) -> None:
    async with running(tmp_path / "data", LANE__DEADLINE_S=1) as server:
        stage = Stage(server)
        viewer = await stage.person(follows=VIEWER)
        video = await stage.video(await stage.person())
        phone = await stage.phone(viewer)
        before = await scrape(server.url)
        async with server.database() as conn, conn.transaction():
            await conn.execute("SELECT FROM heads WHERE user_id = $1 FOR UPDATE", viewer)
            await phone.fail("unavailable", "video:like", {"videoId": video, "actionId": action_id()})
        expected = {
            "applause_actions_expired_total": 1.0,
            "applause_acks_total{door=socket,event=video:like,code=unavailable}": 1.0,
            "applause_action_duration_seconds_count": 0.0,
        }
        await moves(server.url, before, expected)
        after = await scrape(server.url)
        assert after[named("applause_lane_repeats_total{reason=lock_timeout}")] >= 1
        await stage.close()


async def test_who_waits_for_the_pool_is_seen(pool: asyncpg.Pool) -> None:
    """The look into asyncpg's queue, which is its own affair: this is where a new version would show."""
    shown = registry([partial(of_pool, pool)])
    held = [await pool.acquire() for _ in range(10)]
    waiting = [asyncio.ensure_future(pool.acquire()) for _ in range(3)]
    await asyncio.sleep(0)
    samples = read(generate_latest(shown).decode())
    assert samples[named("applause_pool_waiting")] == 3
    assert (
        samples[named("applause_pool_connections{state=busy}")] == samples[named("applause_pool_connections_max")] == 10
    )
    for conn in held:
        await pool.release(conn)
    for conn in await asyncio.gather(*waiting):
        await pool.release(conn)


async def test_a_look_at_the_books_sees_what_is_wrong_and_forgets_what_is_right_again(pool: asyncpg.Pool) -> None:
    """Three faults that constraints let pass; the audit's own are in tests/storage/test_audit.py."""
    vitals = Vitals(pool=pool)
    shown = registry([partial(of_vitals, vitals, Settler())])

    async def seen(statement: str) -> dict[str, float]:
        async with session(pool) as conn:
            await conn.execute(statement)
        await vitals.look_once()
        samples = read(generate_latest(shown).decode())
        wanted = ["ledger_imbalance", *(f"audit_findings{{check={check}}}" for check in ("balance", "chain", "number"))]
        return {each: samples[named(f"applause_{each}")] for each in wanted if samples[named(f"applause_{each}")]}

    async with session(pool) as conn:
        await seed(conn)
        await conn.execute(
            f"""INSERT INTO wallet_transactions (user_id, seq, currency, n, id, action, points, balance_before,
                balance_after, counter_account, metadata, created_at)
            SELECT {FAN}, n, 'LYK', n, gen_random_uuid(), 'video_liked', 1, n - 1, n, 'issuance', '{{}}', now()
            FROM generate_series(1, 150) n"""
        )
    account = f"WHERE user_id = {FAN} AND currency = 'LYK'"
    assert await seen(f"UPDATE accounts SET balance = 150, n = 150 {account}") == {}
    assert await seen(f"UPDATE accounts SET balance = 155 {account}") == {
        "ledger_imbalance": 5,
        "audit_findings{check=balance}": 1,
    }
    assert await seen(f"UPDATE accounts SET balance = 150, n = 149 {account}") == {"audit_findings{check=number}": 1}
    assert await seen(f"UPDATE accounts SET n = 150 {account}") == {}
    assert await seen(f"DELETE FROM wallet_transactions {account} AND n = 120") == {
        "ledger_imbalance": 1,
        "audit_findings{check=chain}": 1,
    }
    assert (vitals.rounds, vitals.audited) == (5, 5 * 13)
    async with session(pool) as conn:
        await conn.execute(
            "INSERT INTO accruals (creator_id, video_id, kind, points, paid, change, notify, actors, created_at) "
            f"VALUES ({CREATOR}, 'a', 1, 0, 0, 0, 0, '{{}}', clock_timestamp() - interval '1 minute')"
        )
    await vitals.look_once()
    assert vitals.accruals == 1
    assert 60 <= vitals.oldest_accrual_s < 90


async def test_the_books_are_looked_at_in_turn(pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """13 accounts, five at a time: after three looks everybody was looked at, then it begins again."""
    monkeypatch.setattr("gateway.vitals.ACCOUNTS_AT_ONCE", 5)
    vitals = Vitals(pool=pool)
    async with session(pool) as conn:
        await seed(conn)
        await conn.execute("UPDATE accounts SET balance = user_id")
    looks = []
    for _ in range(4):
        await vitals.look_once()
        looks.append((vitals.audited, vitals.rounds, vitals.findings["balance"]))
    assert looks == [(5, 0, 5), (10, 0, 10), (13, 1, 13), (18, 1, 13)]


async def test_a_look_that_fails_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.vitals.LOOK_EVERY_S", 0)

    class Broken:
        tries = 0

        def acquire(self, *, timeout: float | None = None) -> Any:
            self.tries += 1
            raise ValueError

    pool = Broken()
    service = asyncio.create_task(Vitals(pool=pool).look())
    async with asyncio.timeout(PATIENCE_S):
        while pool.tries < 3:
            await asyncio.sleep(0)
    assert not service.done()
    service.cancel()


async def test_a_loop_that_is_late_is_seen(monkeypatch: pytest.MonkeyPatch, pool: asyncpg.Pool) -> None:
    monkeypatch.setattr("gateway.vitals.LAG_EVERY_S", 0.01)
    vitals = Vitals(pool=pool)
    service = asyncio.create_task(vitals.watch_loop())
    await asyncio.sleep(0)
    time.sleep(0.12)  # noqa: ASYNC251 - it is what shall be seen
    async with asyncio.timeout(PATIENCE_S):
        while vitals.lag.sum < 0.1:
            await asyncio.sleep(0.01)
    service.cancel()


def test_a_histogram_counts_a_value_at_its_bound_below_it() -> None:
    histogram = Histogram((1, 5))
    for value in (0, 1, 1.5, 5, 5.5):
        histogram.observe(value)
    assert (histogram.counts, histogram.sum) == ([2, 2, 1], 13)


def test_a_throttle_tells_how_many_it_held_back() -> None:
    now = [0.0]
    throttle = Throttle(5, clock=lambda: now[0])
    said = []
    for at in (1, 2, 3, 6, 7, 20):
        now[0] = at
        said.append(throttle.take())
    assert said == [0, None, None, 2, None, 1]
