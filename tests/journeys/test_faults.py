"""Processes are killed and frozen under load: nothing acknowledged is lost, nothing is paid twice, all are told the
truth in time, and service returns by itself."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import jwt
import pytest
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response

from storage.audit import audit
from storage.db import connect
from storage.embedded import EmbeddedPostgres, running_dsn
from tests.support.books import Did, all_is_told, expected_balances, expected_totals, faults, totals
from tests.support.clients import Phone
from tests.support.cluster import SECRET, cluster
from tests.support.crowd import Action, CheapPhone, token_for
from tests.support.engagements import CREATOR, FAN, OTHER_CREATOR, balances, seed
from tests.support.folders import prepare
from tests.support.processes import freeze, none_is_left, nothing_broke, postmaster_of, processes_in, thaw
from tests.support.server import Gateway, running
from tests.support.stage import VIEWER, Stage, action_id

FANS: Final = 50
READER: Final = FAN + FANS  # who has an official client, and acts only where a test says so
PACE_S: Final = 0.1  # of thinking between two actions at most
REPEATED: Final = 30  # actions of each fan that are sent again after a fault
SOME: Final = 300  # acknowledged actions that make a load
ANSWER_S: Final = 5.0
# A second less than the default: a machine that does four tests at once may let a server or a client wait for as long.
PROMPT: Final = {"LANE__DEADLINE_S": 3.3}
# Most of a batch's time is its COMMIT, so that faults come in the midst of one.
SLOW_COMMIT: Final = {"commit_delay": "20000", "commit_siblings": "0"}
AWAY_S: Final = 6.0  # longer than an answer may take
FROZEN_S: Final = 8.0
PATIENCE_S: Final = 20.0


Request = tuple[str, dict[str, Any]]


class Place:
    """Where a journey happens: nodes, and the PostgreSQL under them."""

    def __init__(self, urls: list[str], secret: str, dsn: str, data_dir: Path) -> None:
        self.urls = urls
        self.secret = secret
        self.dsn = dsn
        self.data_dir = data_dir  # of PostgreSQL

    def phone(self, user_id: int, node: int = 0) -> CheapPhone:
        return CheapPhone(user_id, self.secret, lambda: self.urls[node % len(self.urls)])

    @asynccontextmanager
    async def readers(self) -> AsyncIterator[list[Phone]]:
        """Two official clients of one user."""
        phones = [Phone(), Phone()]
        for phone in phones:
            await phone.connect(self.urls[0], {"token": token_for(READER, self.secret)})
            await phone.hear("resumed")
        yield phones
        for phone in phones:
            await phone.close()


@asynccontextmanager
async def one_server(folder: Path) -> AsyncIterator[tuple[Place, Gateway]]:
    """A server with its embedded PostgreSQL, and people on it."""
    async with running(folder / "data") as gateway:
        dsn = running_dsn(gateway.data_dir)
        assert dsn is not None
        place = Place([gateway.url], (gateway.data_dir / "secret").read_text(), dsn, gateway.data_dir)
        async with gateway.database() as conn:
            await seed(conn, fans=FANS + 1)
        yield place, gateway
        assert gateway.stop() == 0
    is_brief(gateway.log)


@asynccontextmanager
async def two_nodes(folder: Path) -> AsyncIterator[tuple[Place, Callable[[], None]]]:
    """Two nodes on a PostgreSQL that is not theirs, with people on it; and what starts it again after its end."""
    watching: list[asyncio.Task[None]] = []
    prepare(folder / "postgres")
    async with EmbeddedPostgres(folder / "postgres", settings=SLOW_COMMIT) as postgres:
        conn = await connect(postgres.dsn)
        await seed(conn, fans=FANS + 1)
        await conn.close()
        async with cluster(postgres.dsn, folder, **PROMPT) as nodes:
            place = Place([node.url for node in nodes], SECRET, postgres.dsn, folder / "postgres")
            yield place, lambda: watching.append(asyncio.create_task(postgres.keep_running()))
        for node in nodes:
            is_brief(node.log)
    await asyncio.gather(*watching)


class Crowd:
    """Fans who act without end, one action after the other whatever happens, and creators who listen."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._enough = False
        self.fans = [place.phone(FAN + number, number) for number in range(FANS)]
        self.creators = [place.phone(who, node) for who in (CREATOR, OTHER_CREATOR) for node in range(len(place.urls))]
        self.everybody = [*self.fans, *self.creators]
        self._acting: list[asyncio.Task[list[tuple[str, str]]]] = []

    async def __aenter__(self) -> Crowd:
        await self.come()
        self._acting = [asyncio.create_task(self._live(random.Random(fan.user_id), fan)) for fan in self.fans]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._acting:
            task.cancel()
        await self.go()

    async def come(self) -> None:
        """All connect."""
        for phone in self.everybody:
            phone.online.clear()
            phone.start()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(phone.online.wait() for phone in self.everybody))

    async def go(self) -> None:
        """All away; what is not acknowledged stays in the outbox."""
        await asyncio.gather(*(phone.stop() for phone in self.everybody))

    async def acknowledges(self, count: int) -> None:
        """Return when so many more actions are acknowledged."""
        before = len(self.acknowledged())
        await until(lambda: len(self.acknowledged()) >= before + count, f"{count} more acknowledged actions")

    def acknowledged(self) -> list[Action]:
        return [action for action in self.actions() if action.done.is_set()]

    def waiting(self) -> list[Action]:
        return [action for action in self.actions() if not action.done.is_set()]

    def actions(self) -> list[Action]:
        return [action for fan in self.fans for action in fan.actions.values()]

    async def finish(self) -> Did:
        """Each ends with what it is about; what all of them did."""
        self._enough = True
        async with asyncio.timeout(PATIENCE_S):
            done = await asyncio.gather(*self._acting)
        return {fan.user_id: did for fan, did in zip(self.fans, done, strict=True)}

    async def repeat(self, actions: list[Action]) -> None:
        """Some of these are sent again by each: the same answer, `replayed`. (A phone notes one that differs.)"""
        chosen = {action.action_id for action in actions}
        repeated: list[Action] = []
        for fan in self.fans:
            own = [action for action in fan.actions.values() if action.action_id in chosen][-REPEATED:]
            repeated += own
            for action in own:
                await fan.send_soon(action)
        await answered(repeated, 2)
        assert all(action.answers[-1].get("replayed") for action in repeated)

    async def _live(self, chance: random.Random, fan: CheapPhone) -> list[tuple[str, str]]:
        did: list[tuple[str, str]] = []
        for number in itertools.count():
            if self._enough:
                break
            event = chance.choice(["video:like", "video:like", "video:unlike", "video:view", "video:share"])
            video = chance.choice("aaaaabc")
            await fan.act(event, video, f"fan-{fan.user_id}-{number}")
            did.append((event, video))
            await asyncio.sleep(chance.uniform(0, PACE_S))
        return did


async def check(place: Place, crowd: Crowd, did: Did) -> None:
    """What must hold of whatever happened: each action paid and told exactly once."""
    conn = await connect(place.dsn)
    try:
        await all_is_told(conn, crowd.everybody)
        assert faults(crowd.everybody) == []
        assert await audit(conn) == []
        assert await balances(conn) == expected_balances(did)
        earned = {user: points for user, points in expected_balances(did).items() if user != READER}
        assert {phone.user_id: phone.points for phone in crowd.everybody if phone.points} == earned
        assert await totals(conn) == expected_totals(did)
        assert await conn.fetchval("SELECT count(*) FROM requests") == sum(map(len, did.values()))
    finally:
        await conn.close()


async def test_a_killed_server_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    """Twice, under load. What was stored and what wasn't is read from the database before any phone is back."""
    async with one_server(tmp_path) as (place, gateway), Crowd(place) as crowd:
        for _ in range(2):
            await crowd.acknowledges(SOME)
            await asyncio.to_thread(gateway.kill)
            await crowd.go()
            acknowledged, in_doubt = crowd.acknowledged(), crowd.waiting()
            assert in_doubt, "somebody was waiting for an answer"
            await none_is_left(place.data_dir)

            await asyncio.to_thread(gateway.start)
            dsn = running_dsn(gateway.data_dir)
            assert dsn is not None
            place.dsn = dsn
            conn = await connect(dsn)
            stored = {row["action_id"] for row in await conn.fetch("SELECT action_id FROM requests")}
            assert {action.action_id for action in acknowledged} <= stored
            await something_was_missed(conn, crowd)
            await conn.close()
            await crowd.come()
            await crowd.acknowledges(SOME)
            await answered(in_doubt, 1)
            for action in in_doubt:
                assert action.answers[0].get("replayed", False) == (action.action_id in stored)
            await crowd.repeat(acknowledged)

        did = await crowd.finish()
        assert [phone.connects for phone in crowd.everybody] == [3] * len(crowd.everybody)
        await check(place, crowd, did)
        audited = await asyncio.to_thread(gateway.run, "audit")
        assert (audited.returncode, audited.stdout) == (0, "the audit found no fault\n")


async def test_a_killed_embedded_postgres_is_started_again_and_hardly_noticed(tmp_path: Path) -> None:
    async with one_server(tmp_path) as (place, gateway), Crowd(place) as crowd, place.readers() as readers:
        for _ in range(2):
            await crowd.acknowledges(SOME)
            acknowledged, killed = crowd.acknowledged(), postmaster_of(place.data_dir)
            os.kill(killed, signal.SIGKILL)  # the others end when they notice
            await crowd.acknowledges(SOME)
            assert postmaster_of(place.data_dir) != killed
            await crowd.repeat(acknowledged)

        assert (await gateway.ask("GET", "/readyz", token="")).status == 200
        assert (await readers[0].do("wallet:get"))["balances"]
        did = await crowd.finish()
        all_have_stayed_and_were_told_the_truth(crowd, readers)
        await check(place, crowd, did)


async def test_a_killed_postgres_is_unavailable_until_somebody_starts_it(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (place, start_again), Crowd(place) as crowd, place.readers() as readers:
        await crowd.acknowledges(SOME)
        acknowledged = crowd.acknowledged()
        for pid in (postmaster_of(place.data_dir), *processes_in(place.data_dir)):
            os.kill(pid, signal.SIGKILL)
        asked = await endure(place, readers, AWAY_S)
        start_again()
        await comes_back(place, crowd)

        await crowd.repeat(acknowledged)
        did = await crowd.finish() | {READER: await repeat(readers[0], asked)}
        all_have_stayed_and_were_told_the_truth(crowd, readers)
        assert all(fan.refused for fan in crowd.fans), "each was waiting"
        await check(place, crowd, did)


async def test_a_frozen_postgres_is_unavailable_until_it_thaws(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (place, _), Crowd(place) as crowd, place.readers() as readers:
        await crowd.acknowledges(SOME)
        acknowledged = crowd.acknowledged()
        freeze(place.data_dir)
        try:
            asked = await endure(place, readers, FROZEN_S)
        finally:
            thaw(place.data_dir)
        await comes_back(place, crowd)

        await crowd.repeat(acknowledged)
        did = await crowd.finish() | {READER: await repeat(readers[0], asked)}
        all_have_stayed_and_were_told_the_truth(crowd, readers)
        assert all(fan.refused for fan in crowd.fans), "each was waiting"
        await check(place, crowd, did)


async def test_the_official_client_comes_back_from_a_killed_server_by_itself(hasty_stage: Stage) -> None:
    """What it missed happened meanwhile, while the server ran on another port."""
    stage, gateway = hasty_stage, hasty_stage.server
    viewer, creator = await stage.person(follows=VIEWER), await stage.person()
    videos = [await stage.video(creator) for _ in range(6)]
    browser = await stage.js_phone(viewer, follow=True)

    async def like(*chosen: str) -> None:
        phone = await stage.phone(viewer)
        for video in chosen:
            await phone.do("video:like", videoId=video, actionId=action_id())

    await like(*videos[:2])
    await browser.caught_up(2)
    port, epoch = gateway.port, browser.welcome["epoch"]
    await asyncio.to_thread(gateway.kill)
    gateway.port = 0
    await asyncio.to_thread(gateway.start)
    await like(*videos[2:5])
    await asyncio.to_thread(gateway.kill)
    gateway.port = port
    await asyncio.to_thread(gateway.start)

    await browser.hear("resumed", 2)
    assert (browser.welcome["complete"], browser.welcome["epoch"], browser.welcome["seq"]) == (True, epoch, 5)
    assert browser.of("resumed")[-1] == {"seq": 5}
    await like(videos[5])
    await browser.caught_up(6)
    assert [event["seq"] for event in browser.events()] == [1, 2, 3, 4, 5, 6]
    assert browser.of("disconnect")[0] in ("transport close", "transport error")


# -- what happens to them ----------------------------------------------------------------------------------------------


async def something_was_missed(conn: asyncpg.Connection, crowd: Crowd) -> None:
    """Return when the restarted server has told creators, who are away, of what it found to settle."""
    async with asyncio.timeout(PATIENCE_S):
        while await conn.fetchval("SELECT count(*) FROM accruals"):
            await asyncio.sleep(0.02)
    heads = dict(await conn.fetch("SELECT user_id, seq FROM heads"))
    assert any(phone.last_seq < heads[phone.user_id] for phone in crowd.everybody)


async def endure(place: Place, readers: list[Phone], seconds: float) -> list[Request]:
    """What official clients, newcomers and backends meet while PostgreSQL is away for so long; actions to repeat.

    Of the requests on one connection each waits for those before it, and each has 5 s nevertheless.
    """
    until_s = time.monotonic() + seconds
    actions = [
        (event, {"videoId": video, "actionId": f"reader-{event}-{video}"})
        for event in ("video:like", "video:view")
        for video in "abc"
    ]
    reads: list[Request] = [("wallet:get", {}), ("wallet:history", {})] * 3
    mixed = [request for pair in zip(actions, reads, strict=True) for request in pair]
    await asyncio.gather(
        all_are_unavailable(readers[0], mixed),
        all_are_unavailable(readers[1], reads),
        *(is_known_to_be_away(url) for url in place.urls),
    )
    await asyncio.sleep(until_s - time.monotonic())
    return actions


async def all_are_unavailable(reader: Phone, requests: list[Request]) -> None:
    """Sent within a second and a half, so that some come to their turn when little of their time is left."""

    async def call(number: int, event: str, payload: dict[str, Any]) -> tuple[str, float, Any]:
        await asyncio.sleep(number * 1.5 / len(requests))
        began = time.monotonic()
        answer = await reader.call(event, payload)
        return event, time.monotonic() - began, answer

    answers = await asyncio.gather(*(call(number, *request) for number, request in enumerate(requests)))
    assert {answer["error"]["code"] for _, _, answer in answers} == {"unavailable"}
    assert max(took for _, took, _ in answers) < ANSWER_S, [(event, round(took, 2)) for event, took, _ in answers]


async def is_known_to_be_away(url: str) -> None:
    """Within 5 s nobody is let in, with a word on when to come back; the process lives, and is not ready."""
    began = time.monotonic()
    while (refused := await knock(url)) is None:
        assert time.monotonic() - began < ANSWER_S
        await asyncio.sleep(0.05)
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert b'"code":"unavailable"' in (refused.body or b"")
    paths = ("GET", "/livez"), ("GET", "/readyz"), ("GET", "/v1/users/1"), ("PUT", "/v1/users/1")
    answers = await asyncio.gather(*(ask(url, method, path) for method, path in paths))
    assert [status for status, _, _ in answers] == [200, 503, 503, 503]
    assert [body.get("code") for _, body, _ in answers[2:]] == ["unavailable"] * 2
    assert max(took for _, _, took in answers) < ANSWER_S, answers


async def comes_back(place: Place, crowd: Crowd) -> None:
    """Nobody but PostgreSQL has to do anything for it."""
    await crowd.acknowledges(SOME)
    for url in place.urls:
        assert await knock(url) is None, "new ones are let in"
        assert (await ask(url, "GET", "/readyz"))[0] == 200


async def repeat(reader: Phone, actions: list[Request]) -> list[tuple[str, str]]:
    """The same actions again, twice; what the reader has done then."""
    for event, payload in actions:
        first = await reader.do(event, **payload)
        assert await reader.call(event, payload) == {"ok": True, "data": first, "replayed": True}
    return [(event, payload["videoId"]) for event, payload in actions]


def all_have_stayed_and_were_told_the_truth(crowd: Crowd, readers: list[Phone]) -> None:
    """Nobody was cut off, each was answered in time, and what was refused for certain had not happened."""
    assert [phone.connects for phone in crowd.everybody] == [1] * len(crowd.everybody)
    assert [reader.of("disconnect") for reader in readers] == [[], []]
    refused = [refusal for fan in crowd.fans for refusal in fan.refused]
    assert {error["code"] for _, error in refused} <= {"unavailable"}
    assert max((took for took, _ in refused), default=0) < ANSWER_S
    for action in crowd.acknowledged():
        unknown = any(error.get("outcome") == "unknown" for error in action.refusals)
        assert unknown or not action.answers[0].get("replayed"), "a refusal without `unknown` was not carried out"


def is_brief(log: str) -> None:
    """Each outage is a few lines, however long it was, and nothing went wrong that nobody foresaw."""
    nothing_broke(log)
    assert log.count("\n") < 40, log[-8000:]


async def knock(url: str) -> Response | None:
    """A handshake: None, or how it was refused."""
    address = url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
    try:
        async with connect_websocket(address, compression=None, proxy=None, ping_interval=None):
            return None
    except InvalidStatus as refused:
        return refused.response


async def ask(url: str, method: str, path: str) -> tuple[int, Any, float]:
    """One request of a backend to a node of the cluster: (status, body, seconds)."""
    claims = {"sub": "backend", "roles": ["service"], "exp": time.time() + 60}
    headers = {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}
    body = {"displayName": "Jo"} if method == "PUT" else None
    began = time.monotonic()
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, url + path, headers=headers, json=body) as response,
    ):
        return response.status, await response.json(content_type=None), time.monotonic() - began


async def answered(actions: list[Action], times: int) -> None:
    await until(lambda: all(len(action.answers) >= times for action in actions), f"{times} answers to each action")


async def until(condition: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"waited in vain for {what}")
