"""`applause serve --workers 2`: two nodes on one port and their parent, to clients and operators as one server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from storage.audit import audit
from storage.db import connect
from storage.embedded import running_dsn
from tests.journeys.conftest import checked
from tests.support.books import Did, all_is_told, expected_balances, expected_totals, faults, totals
from tests.support.clients import PATIENCE_S, Client
from tests.support.crowd import Action, CheapPhone
from tests.support.engagements import CREATOR, FAN, OTHER_CREATOR, balances, seed
from tests.support.pair import Pair, pair
from tests.support.processes import none_is_left, nothing_broke, runs, workers_of
from tests.support.scrape import Sample, named, scrape
from tests.support.server import Gateway, running
from tests.support.stage import CREATOR as EARNS
from tests.support.stage import VIEWER, Stage, action_id

TRIES: Final = 40  # connects until one lands where it should: the kernel chooses
EXIT_S: Final = 15
FANS: Final = 40
PACE_S: Final = 0.1  # of thinking between two actions at most
SOME: Final = 200  # acknowledged actions that make a load
SETTINGS: Final = {"SERVER__WORKERS": 2, "DRAIN__RECONNECT_SPREAD_S": 1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two workers that nobody kills."""
    gateway = Gateway(tmp_path_factory.mktemp("workers") / "data", **SETTINGS)
    gateway.start()
    yield gateway
    assert gateway.stop() == 0, gateway.log[-4000:]
    nothing_broke(gateway.log)
    assert gateway.log.count("Applause is ready") == 1


@pytest.fixture
async def stage(server: Gateway) -> AsyncIterator[Stage]:
    async with checked(Stage(server)) as stage:
        yield stage


def worker_of(phone: Client) -> int:
    """The number of the worker that a phone is connected to: nodes are named team.number.run."""
    return int(phone.welcome["node"].split(".")[-2])


async def phone_on(worker: int, connect: Callable[[], Any]) -> Any:
    """A phone that the kernel gave to this worker."""
    for _ in range(TRIES):
        phone = await connect()
        if worker_of(phone) == worker:
            return phone
        await phone.close()
    raise AssertionError(f"{TRIES} connects, and none to worker {worker}")


async def until(true: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not true():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"waited in vain for {what}") from None


def of(samples: dict[Sample, float], written: str) -> float:
    return samples.get(named(written), 0)


# -- one server to its clients ---------------------------------------------------------------------------------------


async def test_an_action_on_one_worker_is_told_on_the_other_at_once(stage: Stage) -> None:
    viewer, creator = await stage.person(follows=VIEWER), await stage.person(followers=EARNS)
    video = await stage.video(creator)
    acting = await phone_on(0, lambda: stage.js_phone(viewer, follow=True))
    second = await phone_on(1, lambda: stage.phone(viewer))
    owner = await phone_on(1, lambda: stage.phone(creator))
    before = await scrape(stage.server.url)

    like = {"videoId": video, "actionId": action_id()}
    data = await acting.do("video:like", **like)

    assert data["award"] == {"points": 1, "newBalance": 1}
    for phone in (acting, second):
        [earned] = await phone.told("points_earned")
        assert earned["data"]["newBalance"] == 1
    await owner.told("video_like")
    await owner.told("points_earned")
    assert await second.call("video:like", like) == {"ok": True, "data": data, "replayed": True}
    heard = "applause_broker_announcements_total{direction=heard,kind=heads,worker=1}"
    async with asyncio.timeout(PATIENCE_S):  # else they were found by comparing heads
        while of(await scrape(stage.server.url), heard) < of(before, heard) + 2:
            await asyncio.sleep(0.05)


async def test_likes_of_one_video_on_both_workers_are_paid_once_each(stage: Stage) -> None:
    creator = await stage.person(followers=EARNS)
    video = await stage.video(creator)
    phones = [
        await phone_on(number % 2, lambda viewer=viewer: stage.phone(viewer))
        for number, viewer in enumerate([await stage.person(follows=VIEWER) for _ in range(6)])
    ]
    likes = {"videoId": video, "actionId": action_id()}
    answers = await asyncio.gather(*(phone.do("video:like", **likes) for phone in phones for _ in range(3)))
    assert all(answer["award"]["points"] == 1 for answer in answers)
    await stage.settled(creator)
    assert (await stage.balance(creator))[0] == 6


async def test_live_topics_and_ephemeral_events_reach_both_workers_once(stage: Stage) -> None:
    topic, users = f"live:{action_id()}", [await stage.person() for _ in range(2)]
    phones = [await phone_on(number, lambda user=user: stage.phone(user)) for number, user in enumerate(users)]
    for phone in phones:
        await phone.do("topic:subscribe", topic=topic)
    for number in range(8):  # the kernel gives these requests to either worker
        body = {"id": f"{topic}-{number}", "type": "live_counter", "data": {"n": number}}
        assert (await stage.server.ask("POST", "/v1/events", {**body, "topic": topic})).status == 200
        told = {**body, "id": f"{topic}-e{number}", "recipientIds": users, "ephemeral": True}
        assert (await stage.server.ask("POST", "/v1/events", told)).status == 200
    for phone in phones:
        await phone.until(lambda phone=phone: len(phone.events()) >= 16, "16 events")
    await asyncio.sleep(0.1)
    for phone in phones:
        assert sorted(event["id"] for event in phone.events()) == sorted(
            f"{topic}-{kind}{number}" for kind in ("", "e") for number in range(8)
        )


async def test_a_device_that_connects_to_the_other_worker_replaces_itself(stage: Stage) -> None:
    user = await stage.person()
    old = await phone_on(0, lambda: stage.js_phone(user, deviceId="phone"))
    tablet = await stage.phone(user, deviceId="tablet")
    await phone_on(1, lambda: stage.phone(user, deviceId="phone"))
    [closing] = await old.hear("closing")
    assert closing["code"] == "replaced"
    assert (await old.hear("disconnect")) == ["io server disconnect"]
    assert tablet.of("closing") == []


async def test_presence_is_one_over_both_workers(stage: Stage) -> None:
    user = await stage.person()
    phones = [
        await phone_on(number, lambda number=number: stage.phone(user, deviceId=f"d{number}")) for number in (0, 1)
    ]
    for _ in range(4):
        inbox = await stage.inbox(user)
        assert inbox["connected"]
        assert {device["deviceId"] for device in inbox["devices"] if device["connected"]} == {"d0", "d1"}
    for phone in phones:
        await phone.close()
    await stage.gone(user)


# -- one server to its operators -------------------------------------------------------------------------------------


async def test_metrics_of_all_workers_at_any_of_them(stage: Stage) -> None:
    for _ in range(6):
        samples = await scrape(stage.server.url)
        assert of(samples, "applause_workers{state=answering}") == 2
        for worker in ("0", "1", "parent"):
            assert of(samples, f"applause_process_resident_memory_bytes{{worker={worker}}}") > 0
        for worker in ("0", "1"):
            assert of(samples, f"applause_lane_available{{worker={worker}}}") == 1
        assert len({dict(labels)["worker"] for name, labels in samples if name == "applause_acks_total"}) == 2
    for _ in range(4):
        assert (await stage.server.ask("GET", "/readyz", token="")).status == 200


async def test_a_worker_that_does_not_answer_is_left_out_of_the_metrics_and_counted(server: Gateway) -> None:
    frozen = workers_of(server.pid)[1]
    os.kill(frozen, signal.SIGSTOP)
    try:
        samples = await scrape_of_who_answers(server)
    finally:
        os.kill(frozen, signal.SIGCONT)
    assert of(samples, "applause_workers{state=answering}") == 1
    assert of(samples, "applause_workers{state=missing}") == 1
    assert of(samples, "applause_process_resident_memory_bytes{worker=0}") > 0
    assert named("applause_process_resident_memory_bytes{worker=1}") not in samples


async def scrape_of_who_answers(server: Gateway) -> dict[Sample, float]:
    """One that does not hang: the kernel gives some to the worker that is frozen."""
    for _ in range(TRIES):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(4):
                samples = await scrape(server.url)
            if of(samples, "applause_workers{state=missing}"):  # it may have been written before
                return samples
    raise AssertionError(f"{TRIES} scrapes, and none was answered as it should be")


async def test_commands_work_on_the_folder_while_workers_run(server: Gateway) -> None:
    assert server.run("audit").stdout == "the audit found no fault\n"
    assert server.run("awards", "list").returncode == 0
    assert server.run("token", "--user", "7").stdout.count(".") == 2


def test_a_second_server_is_told_who_has_the_folder_or_the_port(server: Gateway, tmp_path: Path) -> None:
    second = server.run("serve", "--port", "0", "--workers", "2")
    assert second.returncode == 1
    assert f"in use by process {server.pid}" in second.stderr
    other = Gateway(tmp_path / "data")
    for workers in ("1", "2"):
        refused = other.run("serve", "--port", str(server.port), "--workers", workers)
        assert refused.returncode == 1, "a shared port is shared with nobody else"
        assert "address already in use" in refused.stderr.lower()


@pytest.mark.parametrize(("value", "status"), [("0", 78), ("-1", 78), ("65", 78), ("two", 2)])
def test_bad_numbers_of_workers_are_told(tmp_path: Path, value: str, status: int) -> None:
    assert Gateway(tmp_path / "data").run("serve", f"--workers={value}").returncode == status
    assert Gateway(tmp_path / "data", SERVER__WORKERS=value).run("check-config").returncode == 78


# -- faults ----------------------------------------------------------------------------------------------------------


class Crowd:
    """Fans who act without end over whichever worker they get, and creators who listen."""

    def __init__(self, gateway: Gateway) -> None:
        secret = (gateway.data_dir / "secret").read_text()
        self.fans = [CheapPhone(FAN + number, secret, lambda: gateway.url) for number in range(FANS)]
        self.phones = [*self.fans, *(CheapPhone(who, secret, lambda: gateway.url) for who in (CREATOR, OTHER_CREATOR))]
        self._enough = asyncio.Event()
        self._acting: list[asyncio.Task[list[tuple[str, str]]]] = []

    async def __aenter__(self) -> Crowd:
        for phone in self.phones:
            phone.start()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(phone.online.wait() for phone in self.phones))
        self._acting = [asyncio.create_task(self._live(random.Random(fan.user_id), fan)) for fan in self.fans]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._acting:
            task.cancel()
        await asyncio.gather(*(phone.stop() for phone in self.phones))

    def acknowledged(self) -> list[Action]:
        return [action for fan in self.fans for action in fan.actions.values() if action.done.is_set()]

    async def acknowledges(self, count: int) -> None:
        """Return when so many more are."""
        before = len(self.acknowledged())
        await until(lambda: len(self.acknowledged()) >= before + count, f"{count} more acknowledged actions")

    async def finish(self) -> Did:
        """What all of them did."""
        self._enough.set()
        async with asyncio.timeout(PATIENCE_S):
            done = await asyncio.gather(*self._acting)
        return {fan.user_id: did for fan, did in zip(self.fans, done, strict=True)}

    async def _live(self, chance: random.Random, fan: CheapPhone) -> list[tuple[str, str]]:
        did: list[tuple[str, str]] = []
        for number in itertools.count():
            if self._enough.is_set():
                break
            event, video = (
                chance.choice(["video:like", "video:unlike", "video:view", "video:share"]),
                chance.choice("aabc"),
            )
            await fan.act(event, video, f"fan-{fan.user_id}-{number}")
            did.append((event, video))
            await asyncio.sleep(chance.uniform(0, PACE_S))
        return did


async def holds(conn: asyncpg.Connection, crowd: Crowd, did: Did) -> None:
    """Each action was paid and told exactly once."""
    await all_is_told(conn, crowd.phones)
    assert faults(crowd.phones) == []
    assert await audit(conn) == []
    assert await balances(conn) == expected_balances(did)
    assert await totals(conn) == expected_totals(did)


async def test_a_worker_killed_under_load_loses_nothing_and_comes_again(tmp_path: Path) -> None:
    async with running(tmp_path / "data", **SETTINGS) as gateway:
        dsn = running_dsn(gateway.data_dir)
        assert dsn is not None
        conn = await connect(dsn)
        await seed(conn, fans=FANS)
        async with Crowd(gateway) as crowd:
            await crowd.acknowledges(SOME)
            for victim in (1, 0):
                before = workers_of(gateway.pid)
                os.kill(before[victim], signal.SIGKILL)
                await until(lambda before=before: _replaced(before, workers_of(gateway.pid)), "another worker")
                await crowd.acknowledges(SOME)
            assert any(phone.connects > 1 for phone in crowd.phones)
            did = await crowd.finish()
            await holds(conn, crowd, did)
        async with asyncio.timeout(PATIENCE_S):
            while of(samples := await scrape(gateway.url), "applause_workers{state=answering}") != 2:
                await asyncio.sleep(0.05)
        assert of(samples, "applause_worker_restarts_total{worker=parent}") == 2
        await conn.close()
        assert gateway.stop() == 0
    nothing_broke(gateway.log)


def _replaced(before: dict[int, int], after: dict[int, int]) -> bool:
    return len(after) == len(before) and len(before.items() - after.items()) == 1


async def test_sigterm_drains_both_workers_together(tmp_path: Path) -> None:
    async with running(tmp_path / "data", **SETTINGS) as gateway:
        stage = Stage(gateway)
        viewers = [await stage.person(follows=VIEWER) for _ in range(2)]
        video = await stage.video(await stage.person())
        phones = [await phone_on(number, lambda user=user: stage.phone(user)) for number, user in enumerate(viewers)]
        browser = await stage.js_phone(viewers[0], follow=True)
        children = workers_of(gateway.pid)
        async with gateway.database() as conn, conn.transaction():
            await conn.execute("SELECT FROM heads WHERE user_id = ANY($1) ORDER BY user_id FOR UPDATE", viewers)
            likes = [
                asyncio.create_task(phone.call("video:like", {"videoId": video, "actionId": action_id()}))
                for phone in phones
            ]
            while await conn.fetchval("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted") < 2:
                await asyncio.sleep(0.01)
            began = time.monotonic()
            gateway.terminate()
            while (await gateway.ask("GET", "/readyz", token="")).status != 503:
                await asyncio.sleep(0.02)
        for like in likes:
            assert (await like)["data"]["award"]["points"] == 1, "what ran was finished and acknowledged"
        assert await asyncio.to_thread(gateway.wait) == 0
        assert time.monotonic() - began < EXIT_S
        for phone in (*phones, browser):
            [closing] = await phone.hear("closing")
            assert (closing["code"], closing["retryable"]) == ("draining", True)
        assert not any(map(runs, children.values()))
        await asyncio.to_thread(gateway.start)
        await browser.until(lambda: len(browser.of("resumed")) >= 2, "coming back")
        assert await stage.balance(viewers[0]) == (1, 1)
        await stage.check()
        await stage.close()


async def test_kill_9_of_the_parent_leaves_no_orphan_and_the_port_free(tmp_path: Path) -> None:
    async with running(tmp_path / "data", **SETTINGS) as gateway:
        stage = Stage(gateway)
        viewer, video = await stage.person(follows=VIEWER), await stage.video(await stage.person())
        phone = await stage.phone(viewer)
        await phone.do("video:like", videoId=video, actionId=action_id())
        children = workers_of(gateway.pid)
        assert len(children) == 2
        gateway.kill()
        await until(lambda: not any(map(runs, children.values())), "the workers' end")
        await none_is_left(gateway.data_dir)
        await asyncio.to_thread(gateway.start)
        assert await stage.balance(viewer) == (1, 1)
        await stage.check()
        await stage.close()


# -- with other machines' nodes --------------------------------------------------------------------------------------


async def test_workers_and_nodes_elsewhere_hear_each_other_once(
    dsn: str, tmp_path: Path, bus: dict[str, object]
) -> None:
    """Two parents on one database, as on two machines."""
    async with pair(dsn, tmp_path, SERVER__WORKERS=2, **bus) as made:
        phones = [
            await phone_on(worker, lambda node=node, user=user: made.phone(user, node))
            for user, (node, worker) in enumerate(itertools.product((0, 1), (0, 1)), start=1)
        ]
        for phone in phones:
            await phone.do("topic:subscribe", topic="live:a")
        for number, node in enumerate([0, 1] * 4):
            body = {"type": "live_counter", "data": {"n": number}}
            await _post(made, node, {**body, "id": f"t{number}", "topic": "live:a"})
            await _post(made, node, {**body, "id": f"d{number}", "recipientIds": [1, 2, 3, 4]})
        for phone in phones:
            await phone.until(lambda phone=phone: len(phone.events()) >= 16, "16 events")
        await asyncio.sleep(0.2)
        for phone in phones:
            durable = [event["id"] for event in phone.events() if event["seq"] is not None]
            live = [event["id"] for event in phone.events() if event["seq"] is None]
            assert len(durable) == 8
            assert sorted(live) == [f"t{number}" for number in range(8)]


async def _post(made: Pair, node: int, body: dict[str, Any]) -> None:
    answer = await made.ask("POST", "/v1/events", body, node=node)
    assert answer.status == 200, answer


async def test_workers_alone_on_a_database_do_not_notify(dsn: str, conn: asyncpg.Connection, tmp_path: Path) -> None:
    heard: list[str] = []
    await conn.add_listener("applause_fanout", lambda *said: heard.append(str(said[-1])))
    async with pair(dsn, tmp_path, nodes=1, SERVER__WORKERS=2) as made:
        phones = [await phone_on(worker, lambda user=worker + 1: made.phone(user)) for worker in (0, 1)]
        for number in range(4):
            body = {"id": f"d{number}", "type": "news", "data": {}, "recipientIds": [1, 2]}
            await _post(made, 0, body)
        for phone in phones:
            await phone.told("news", 4)
    assert [notice for notice in heard if '"compare"' not in notice] == []
