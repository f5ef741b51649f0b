"""What backends publish for users: at once where they are connected, on their next connect else, once in any case."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from storage.audit import audit
from storage.users import insert_unknown_users
from tests.support.clients import PATIENCE_S, Client
from tests.support.pair import Pair, pair
from tests.support.server import Gateway, running
from tests.support.stage import Stage, action_id, fetch_all

MANY: Final = 1_500


async def _publish(at: Gateway | Pair, *recipients: int, **fields: Any) -> Any:
    body = {"id": action_id(), "type": "follow_request", "recipientIds": recipients, "data": {"n": 1}, **fields}
    return await at.ask("POST", "/v1/events", {name: value for name, value in body.items() if value is not ...})


async def _past(at: Gateway | Pair, user: int, *clients: Client) -> None:
    """All that was published so far has reached these clients of one user: a last event comes behind it."""
    last = action_id()
    assert (await _publish(at, user, id=last)).status == 200
    for client in clients:
        await client.until(lambda client=client: any(event["id"] == last for event in client.events()), last)


async def test_it_reaches_connected_phones_at_once_and_the_others_when_they_come(stage: Stage) -> None:
    here, away, stranger = await stage.person(), await stage.person(), stage.stranger()
    browser, phone = await stage.js_phone(here), await stage.phone(here)
    data = {"actorId": 5, "streamId": "s-1", "title": "Höhe 👍", "at": 1.5, "more": {"a": [None, True]}}

    answer = await _publish(
        stage.server, here, away, stranger, here, id="stream-1", type="live_stream_started", data=data,
        timestamp="2026-01-02T03:04:05.678Z",
    )  # fmt: skip

    assert (answer.status, answer.body) == (200, {"accepted": 2, "skipped": 1})
    expected = {
        "id": "stream-1", "seq": 1, "type": "live_stream_started", "eventType": "notification:live_stream_started",
        "recipientIds": [here], "data": data, "timestamp": "2026-01-02T03:04:05.678Z",
    }  # fmt: skip
    assert await browser.told("live_stream_started") == [expected]
    assert await phone.told("live_stream_started") == [expected]
    late = await stage.js_phone(away, lastSeq="0")
    assert late.events() == [{**expected, "recipientIds": [away]}]
    assert late.log[-1].name == "resumed"


@pytest.mark.parametrize("type_", ["profile_followed", "video_comment", "video_like", "follow_request", "Any:other.1"])
async def test_notifications_pass_through_under_any_name(stage: Stage, type_: str) -> None:
    user = await stage.person()
    phone = await stage.js_phone(user)
    await _publish(stage.server, user, type=type_, eventType="app:custom", data={"x": type_})
    [event] = await phone.told(type_)
    assert (event["eventType"], event["data"], event["seq"]) == ("app:custom", {"x": type_}, 1)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"type": "points_earned"}, "type"),
        ({"type": "wallet_update"}, "type"),
        ({"eventType": "wallet:points:earned"}, "eventType"),
        ({"eventType": "chat:message:sent"}, "eventType"),
        ({"topic": "live:a"}, "recipientIds"),
        ({"recipientIds": []}, "recipientIds"),
        ({"recipientIds": [0]}, "recipientIds"),
        ({"data": ...}, "data"),
        ({"priority": 1}, "priority"),
    ],
    ids=str,
)
async def test_what_backends_may_not_say_is_refused_and_stored_nowhere(
    stage: Stage, fields: dict[str, Any], field: str
) -> None:
    user = await stage.person()
    answer = await _publish(stage.server, user, **fields)
    assert (answer.status, answer.body["code"], answer.body["field"]) == (400, "invalid_payload", field)
    assert (await stage.inbox(user))["seq"] == 0


async def test_a_repetition_tells_nobody_again_and_another_body_is_a_conflict(stage: Stage) -> None:
    user, other = await stage.person(), await stage.person()
    phone = await stage.phone(user)
    event_id = action_id()

    first = await _publish(stage.server, user, 999_999_999, id=event_id)
    again = await _publish(stage.server, 999_999_999, user, user, id=event_id)
    named = await _publish(stage.server, user, 999_999_999, id=event_id, source="backend")
    conflict = await _publish(stage.server, user, other, id=event_id)
    elsewhere = await _publish(stage.server, user, id=event_id, source="elsewhere")

    assert [each.status for each in (first, again, named, elsewhere)] == [200] * 4
    assert first.body == again.body == named.body == {"accepted": 1, "skipped": 1}
    assert (conflict.status, conflict.body["code"]) == (409, "idempotency_conflict")
    await _past(stage.server, user, phone)
    assert [event["seq"] for event in phone.events()] == [1, 2, 3]
    assert (await stage.inbox(other))["seq"] == 0


async def test_an_ephemeral_event_reaches_all_connections_and_no_inbox(stage: Stage) -> None:
    one, other = await stage.person(), await stage.person()
    phones = [await stage.phone(one), await stage.js_phone(one), await stage.js_phone(other)]

    answer = await _publish(stage.server, one, other, 999_999_999, id="cue-1", type="cue", ephemeral=True)

    assert (answer.status, answer.body) == (200, {"accepted": 2, "skipped": 1})
    for phone in phones:
        [event] = await phone.told("cue")
        assert event == {
            "id": "cue-1", "seq": None, "type": "cue", "eventType": "notification:cue", "recipientIds": [],
            "data": {"n": 1}, "timestamp": event["timestamp"],
        }  # fmt: skip
    assert [(await stage.inbox(user))["seq"] for user in (one, other)] == [0, 0]
    later = await stage.js_phone(one, lastSeq="0")
    assert later.events() == []


# -- thousands of recipients -------------------------------------------------------------------------


async def _crowd(server: Gateway, count: int) -> list[int]:
    """So many users, as if each had connected once."""
    first = 5_000_000
    ids = list(range(first, first + count))
    async with server.database() as conn:
        await insert_unknown_users(conn, ids, [None] * count)
    return ids


async def _until_all_have(conn: asyncpg.Connection, ids: list[int], count: int) -> None:
    async with asyncio.timeout(60):
        while await conn.fetchval("SELECT min(seq) FROM heads WHERE user_id = ANY($1)", ids) < count:
            await asyncio.sleep(0.05)


async def test_ten_thousand_recipients_are_a_job_and_more_are_too_many(stage: Stage) -> None:
    server = stage.server
    crowd = await _crowd(server, 9_998)
    ends = [crowd[0], crowd[-1]]
    phones = [await stage.js_phone(user) for user in ends]
    event_id = action_id()
    fields: dict[str, Any] = {"id": event_id, "data": {"text": "x" * 60_000}}

    answer = await _publish(server, *crowd, 2**53 - 1, 2**53 - 2, **fields)
    assert (answer.status, answer.body) == (202, {"accepted": 9_998, "skipped": 2})
    for phone in phones:
        assert [event["id"] for event in await phone.told("follow_request")] == [event_id]
    async with server.database() as conn:
        await _until_all_have(conn, crowd, 1)
        assert await conn.fetchval("SELECT count(*) FROM inbox WHERE user_id = ANY($1)", crowd) == 9_998
        assert await conn.fetchval("SELECT count(*) FROM broadcasts WHERE event_id = $1", event_id) == 1
    again = await _publish(server, *crowd, 2**53 - 1, 2**53 - 2, **fields)
    assert (again.status, again.body) == (202, {"accepted": 9_998, "skipped": 2})
    beyond = await _publish(server, *range(1, 10_002))
    assert (beyond.status, beyond.body["code"], beyond.body["field"]) == (413, "payload_too_large", "recipientIds")
    for user, phone in zip(ends, phones, strict=True):
        await _past(server, user, phone)
        assert [event["seq"] for event in phone.events()] == [1, 2]


async def test_who_is_killed_in_the_middle_of_a_job_finishes_it_when_started_again(tmp_path: Path) -> None:
    async with running(tmp_path / "data", EVENTS__CHUNK_RECIPIENTS=3) as server:
        crowd = await _crowd(server, MANY)
        answer = await _publish(server, *crowd)
        assert (answer.status, answer.body["accepted"]) == (202, MANY)
        async with server.database() as conn, asyncio.timeout(PATIENCE_S):
            while not await conn.fetchval("SELECT applied FROM broadcasts"):
                await asyncio.sleep(0.001)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        async with server.database() as conn:
            assert await conn.fetchval("SELECT done_at IS NULL FROM broadcasts"), "the test came too late"
            await _until_all_have(conn, crowd, 1)
            rows = await conn.fetch("SELECT user_id, count(*) AS times FROM inbox GROUP BY 1")
            assert {row["user_id"]: row["times"] for row in rows} == dict.fromkeys(crowd, 1)
        assert await server.findings() == []


# -- two nodes ---------------------------------------------------------------------------------------


async def _until_known(nodes: Pair, far: Client) -> None:
    """A node learns of others when it renews its lease; until then nobody is told of what is ephemeral."""
    async with asyncio.timeout(PATIENCE_S):
        while not far.events("probe"):
            await _publish(nodes, 7, type="probe", ephemeral=True)
            await asyncio.sleep(0.1)


async def test_events_reach_connections_on_every_node(
    dsn: str, conn: asyncpg.Connection, tmp_path: Path, bus: dict[str, object]
) -> None:
    async with pair(dsn, tmp_path, **bus) as nodes:
        near, far = await nodes.phone(7), await nodes.phone(7, node=1)
        other = await nodes.phone(8, node=1, deviceId="tablet")
        assert (await _publish(nodes, 7, 8, type="durable")).body == {"accepted": 2, "skipped": 0}
        for phone in (near, far, other):
            assert [event["seq"] for event in await phone.told("durable")] == [1]
        await _until_known(nodes, far)
        big = {"text": "x" * 50_000}
        for data in ({"n": 1}, big):  # by NOTIFY, and too big for it
            assert (await _publish(nodes, 7, 8, type="cue", ephemeral=True, data=data)).status == 200
        for phone in (near, far, other):
            cues = await phone.told("cue", 2)
            assert sorted((event["data"] for event in cues), key=str) == sorted([{"n": 1}, big], key=str)
            assert {(event["seq"], len(event["recipientIds"])) for event in cues} == {(None, 0)}
        for node in (0, 1):
            state = await nodes.ask("GET", "/v1/users/8/inbox", node=node)
            assert state.body == {
                "seq": 1, "oldestSeq": 1, "connected": True,
                "devices": [{"deviceId": "tablet", "acked": 0, "connected": True}],
                "nodes": [other.welcome["node"]],
            }  # fmt: skip
            assert state.headers["X-Inbox-Seq"] == "1"
        assert await fetch_all(far) == near.events("durable")
    assert await audit(conn) == []


async def test_another_node_finishes_what_a_frozen_one_has_begun(
    dsn: str, conn: asyncpg.Connection, tmp_path: Path
) -> None:
    crowd = list(range(1, MANY + 1))
    await insert_unknown_users(conn, crowd, [None] * MANY)
    async with pair(dsn, tmp_path, EVENTS__CHUNK_RECIPIENTS=2) as nodes:
        phone = await nodes.phone(MANY, node=1)
        answer = await _publish(nodes, *crowd)
        assert (answer.status, answer.body["accepted"]) == (202, MANY)
        async with asyncio.timeout(PATIENCE_S):
            while not await conn.fetchval("SELECT applied FROM broadcasts"):
                await asyncio.sleep(0.001)
        nodes.nodes[0].freeze()
        assert await conn.fetchval("SELECT done_at IS NULL FROM broadcasts"), "the test came too late"
        await _until_all_have(conn, crowd, 1)
        await phone.told("follow_request")
        nodes.nodes[0].thaw()
        assert (await _publish(nodes, MANY, id="last")).status == 200
        await phone.until(lambda: phone.events()[-1]["id"] == "last")
        assert [event["seq"] for event in phone.events()] == [1, 2]
        rows = await conn.fetch("SELECT user_id, count(*) AS times FROM inbox WHERE user_id < $1 GROUP BY 1", MANY)
        assert {row["user_id"]: row["times"] for row in rows} == dict.fromkeys(crowd[:-1], 1)
    assert await audit(conn) == []
