"""Spec 7 over real sockets: a phone that is away is told by a push, once; one that is there is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.sessions import KEEPERS
from storage.audit import audit
from tests.journeys.conftest import checked
from tests.support.clients import PATIENCE_S, Client
from tests.support.pair import pair
from tests.support.processes import nothing_broke
from tests.support.scrape import named, scrape
from tests.support.server import Gateway, running
from tests.support.stage import Stage, action_id

SETTINGS = {"PUSH__PROVIDER": "recording", "PUSH__AFTER_S": 0.5}
KEPT = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'applause lane'"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("push") / "data", **SETTINGS)
    gateway.start()
    yield gateway
    assert gateway.stop() == 0
    nothing_broke(gateway.log)
    for secret in ("the-token", "psst"):
        assert secret not in gateway.log


@pytest.fixture
async def stage(server: Gateway) -> AsyncIterator[Stage]:
    async with checked(Stage(server)) as stage:
        yield stage


def pushes(at: Gateway | Path, token: str) -> list[Any]:
    """What was brought to a device so far, by a server or into a file."""
    file = at if isinstance(at, Path) else at.data_dir / "pushes.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    told = [json.loads(line)["message"] for line in lines]
    return [message for message in told if message["token"] == token]


async def register(stage: Stage, user: int, device: str = "phone-1") -> str:
    token = f"the-token-{user}-{device}"
    body = {"deviceId": device, "token": token, "platform": "android"}
    answer = await stage.server.ask("POST", "/v1/devices", body, token=stage.server.token(user))
    assert answer.status == 204, answer
    return token


async def say(phone: Client, conversation: str, **message: str) -> None:
    await phone.do("message:send", conversationId=conversation, actionId=action_id(), **message)


async def looked_at(stage: Stage) -> None:
    """Nobody is due any more."""
    async with stage.server.database() as conn:
        await nobody_is_due(conn)


async def nobody_is_due(conn: asyncpg.Connection) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await conn.fetchval("SELECT EXISTS (SELECT FROM push_due)"):
            await asyncio.sleep(0.05)


async def test_a_phone_that_is_away_is_told_once_and_one_that_is_there_is_not(stage: Stage) -> None:
    ana, away, there = [await stage.person() for _ in range(3)]
    tokens = {user: await register(stage, user) for user in (away, there)}
    phone = await stage.phone(ana)
    listening = await stage.js_phone(there, deviceId="phone-1")
    ids = {}
    for user in (away, there):
        answer = await stage.server.ask(
            "POST", "/v1/conversations", {"participantIds": [user]}, token=stage.server.token(ana)
        )
        ids[user] = answer.body["conversationId"]
        await say(phone, ids[user], messageType="text", content="psst")
    await listening.told("message_preview")
    await looked_at(stage)
    [message] = pushes(stage.server, tokens[away])
    assert message["notification"] == {"title": f"user_{ana}", "body": "psst"}
    assert message["data"]["conversationId"] == ids[away]
    assert pushes(stage.server, tokens[there]) == []
    async with stage.server.database() as conn:
        await conn.execute("INSERT INTO push_due SELECT user_id FROM push_devices ON CONFLICT DO NOTHING")
    await looked_at(stage)
    assert len(pushes(stage.server, tokens[away])) == 1
    await listening.close()
    await stage.gone(there)
    await say(phone, ids[there], messageType="image", mediaUrl="https://x/y")
    await looked_at(stage)
    [message] = pushes(stage.server, tokens[there])
    assert (message["notification"]["body"], message["data"]["unreadCount"]) == ("📷 Photo", "2")


async def test_somebody_whose_phone_comes_back_in_time_is_not_pushed(stage: Stage) -> None:
    user = await stage.person()
    token = await register(stage, user)
    phone = await stage.phone(user, deviceId="phone-1")
    await phone.close()
    await stage.gone(user)
    body = {"id": action_id(), "type": "follow_request", "recipientIds": [user], "data": {"actorUsername": "ana"}}
    assert (await stage.server.ask("POST", "/v1/events", body)).status == 200
    await stage.phone(user, deviceId="phone-1", lastSeq="0")
    await looked_at(stage)
    assert pushes(stage.server, token) == []


async def test_who_logs_out_is_told_nothing(stage: Stage) -> None:
    user = await stage.person()
    token, kept = await register(stage, user), await register(stage, user, "tablet")
    answer = await stage.server.ask("DELETE", "/v1/devices/phone-1", token=stage.server.token(user))
    assert answer.status == 204
    body = {"id": action_id(), "type": "follow_request", "recipientIds": [user], "data": {"actorUsername": "ana"}}
    assert (await stage.server.ask("POST", "/v1/events", body)).status == 200
    await looked_at(stage)
    assert pushes(stage.server, token) == []
    assert [message["notification"]["body"] for message in pushes(stage.server, kept)] == [
        "ana would like to follow you"
    ]


async def test_who_is_due_when_a_node_dies_is_told_by_the_next(tmp_path: Path) -> None:
    async with running(tmp_path / "data", PUSH__PROVIDER="recording", PUSH__AFTER_S=2) as server:
        stage = Stage(server)
        user = await stage.person()
        token = await register(stage, user)
        body = {"id": action_id(), "type": "follow_request", "recipientIds": [user], "data": {}}
        assert (await server.ask("POST", "/v1/events", body)).status == 200
        server.kill()
        assert pushes(server, token) == []
        await asyncio.to_thread(server.start)
        await looked_at(stage)
        assert len(pushes(server, token)) == 1
        body["id"] = action_id()
        assert (await server.ask("POST", "/v1/events", body)).status == 200
        await looked_at(stage)
        server.kill()
        await asyncio.to_thread(server.start)
        await looked_at(stage)
        assert len(pushes(server, token)) == 2
        assert await server.findings() == []
        samples = await scrape(server.url)
        assert samples[named("applause_push_in_flight")] == 0
        assert named("applause_push_looks_total{result=pushed}") in samples
        assert named("applause_pushes_total{result=sent}") in samples


async def test_of_two_nodes_one_pushes_and_only_to_who_is_on_neither(
    dsn: str, conn: asyncpg.Connection, tmp_path: Path, bus: dict[str, object]
) -> None:
    file = tmp_path / "pushes.jsonl"
    async with pair(dsn, tmp_path, **bus, **SETTINGS, PUSH__RECORDING_FILE=file) as nodes:
        ana = await nodes.phone(1, 0)
        people = {2: 0, 3: 1, 4: 0, 5: 1}  # two stay, and two go: one of each on either node
        phones = {user: await nodes.phone(user, node, deviceId="phone-1") for user, node in people.items()}
        for user, node in people.items():
            body = {"deviceId": "phone-1", "token": f"token-{user}", "platform": "ios"}
            assert (await nodes.ask("POST", "/v1/devices", body, user=user, node=node)).status == 204
        for user in (4, 5):
            await phones[user].close()
            async with asyncio.timeout(PATIENCE_S):
                while (await nodes.ask("GET", f"/v1/users/{user}/inbox")).body["connected"]:
                    await asyncio.sleep(0.01)
        group = (await nodes.ask("POST", "/v1/conversations", {"participantIds": list(people)}, user=1)).body
        await say(ana, group["conversationId"], messageType="text", content="psst")
        for user in (2, 3):
            await phones[user].told("message_preview")
        await nobody_is_due(conn)
        told = {user: [push["notification"]["body"] for push in pushes(file, f"token-{user}")] for user in people}
        assert told == {2: [], 3: [], 4: ["psst"], 5: ["psst"]}
    assert await audit(conn) == []


async def test_the_sessions_that_a_node_keeps_are_those_that_its_database_has_room_for(stage: Stage) -> None:
    """max_connections of the embedded PostgreSQL is computed from them."""
    kept, before = 0, -1
    async with stage.server.database() as conn, asyncio.timeout(PATIENCE_S):
        while kept != before:  # each is opened by the first run of its chore, half a second after the start at most
            await asyncio.sleep(2)
            before, kept = kept, await conn.fetchval(KEPT)
    assert kept == len(KEEPERS) - 1  # egress needs a Kafka
