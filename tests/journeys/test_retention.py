"""What an inbox keeps: old events go within a minute, and who missed them is told so instead of shown a gap."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import asyncpg

from storage.audit import audit
from tests.support.clients import PATIENCE_S
from tests.support.pair import pair
from tests.support.server import Gateway, running
from tests.support.stage import VIEWER, Stage, action_id

TRIM_OFTEN: Final = {"INBOX__TRIM_EVERY_S": 0.2, "INBOX__COMPARE_EVERY_S": 0.5}
SECONDS: Final = 1 / 86_400  # in days


async def _publish(server: Gateway, user: int, count: int = 1) -> None:
    for _ in range(count):
        body = {"id": action_id(), "type": "follow_request", "recipientIds": [user], "data": {}}
        assert (await server.ask("POST", "/v1/events", body)).status == 200


async def _begins_at(stage: Stage, user: int, oldest: int) -> Any:
    """The state of the inbox as soon as it begins there."""
    async with asyncio.timeout(PATIENCE_S):
        while (state := await stage.inbox(user))["oldestSeq"] < oldest:
            await asyncio.sleep(0.05)
    assert state["oldestSeq"] == oldest
    return state


async def test_an_inbox_keeps_its_last_events_and_the_ledger_all(tmp_path: Path) -> None:
    async with running(tmp_path / "data", INBOX__RETENTION_EVENTS=5, **TRIM_OFTEN) as server:
        stage = Stage(server)
        user = await stage.person(follows=VIEWER)
        creator = await stage.person()
        videos = [await stage.video(creator) for _ in range(4)]
        phone = await stage.js_phone(user)
        for video in videos:
            await phone.do("video:like", videoId=video, actionId=action_id())  # points: seq 1 to 4
        await _publish(server, user, 4)  # 5 to 8
        await phone.caught_up(8)

        assert (await _begins_at(stage, user, 4))["seq"] == 8

        overtaken = await stage.js_phone(user, lastSeq="2")
        assert (overtaken.welcome["complete"], overtaken.welcome["oldestSeq"]) == (False, 4)
        assert (overtaken.events(), overtaken.of("resumed")) == ([], [{"seq": 8}])
        within = await stage.js_phone(user, lastSeq="3")
        assert within.welcome["complete"] is True
        assert [(event["seq"], event["type"]) for event in within.events()] == [
            (4, "points_earned"), *((seq, "follow_request") for seq in (5, 6, 7, 8)),
        ]  # fmt: skip
        assert within.events() == phone.events()[3:]
        page = await phone.do("inbox:fetch", afterSeq=0, limit=10)
        assert page == {"events": [], "seq": 8, "oldestSeq": 4, "complete": False}
        assert [event["seq"] for event in (await phone.do("inbox:fetch", afterSeq=3, limit=10))["events"]] == [
            4, 5, 6, 7, 8,
        ]  # fmt: skip
        history = await phone.do("wallet:history")
        assert len(history["transactions"]) == 4, "the ledger stays"
        listed = await server.ask("GET", "/v1/notifications", token=server.token(user))
        assert [event["seq"] for event in listed.body["notifications"]] == [8, 7, 6, 5]
        await _publish(server, user)
        await _begins_at(stage, user, 5)
        await phone.caught_up(9)
        assert [event["seq"] for event in phone.events()] == list(range(1, 10)), "who was there has missed nothing"
        assert await server.findings() == []
        await stage.close()


async def test_an_inbox_keeps_nothing_for_too_long(tmp_path: Path) -> None:
    async with running(tmp_path / "data", INBOX__RETENTION_DAYS=1.0 * SECONDS, **TRIM_OFTEN) as server:
        stage = Stage(server)
        user = await stage.person()
        await _publish(server, user, 3)
        assert (await _begins_at(stage, user, 4))["seq"] == 3
        phone = await stage.js_phone(user, lastSeq="1")
        assert (phone.welcome["complete"], phone.welcome["seq"], phone.welcome["oldestSeq"]) == (False, 3, 4)
        current = await stage.js_phone(user, lastSeq="3")
        assert current.welcome["complete"] is True
        await _publish(server, user)
        assert [event["seq"] for event in await current.told("follow_request")] == [4]
        async with server.database() as conn, asyncio.timeout(PATIENCE_S):
            while await conn.fetchval("SELECT EXISTS (SELECT FROM inbox) OR EXISTS (SELECT FROM broadcasts)"):
                await asyncio.sleep(0.05)
        assert await server.findings() == []
        await stage.close()


async def test_a_lowered_setting_catches_up_after_the_restart(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as server:
        stage = Stage(server)
        user = await stage.person()
        await _publish(server, user, 6)
        assert (await stage.inbox(user))["oldestSeq"] == 1
    async with running(tmp_path / "data", INBOX__RETENTION_EVENTS=2, **TRIM_OFTEN) as server:
        stage = Stage(server)
        await _begins_at(stage, user, 5)
        assert await server.findings() == []


async def test_a_phone_that_retention_overtakes_in_its_replay_is_cut_and_told_when_it_is_back(tmp_path: Path) -> None:
    """It reads so slowly that what it was to be given is gone before its turn: no gap, but `complete: false`."""
    async with running(
        tmp_path / "data", INBOX__RETENTION_EVENTS=10_000, INBOX__PAGE=1, SOCKET__SEND_QUEUE_AGE_S=60, **TRIM_OFTEN
    ) as server:
        stage = Stage(server)
        user = await stage.person()
        async with server.database() as conn, conn.transaction():
            await conn.execute(
                "INSERT INTO inbox (user_id, seq, id, type, data, created_at) SELECT $1, n, gen_random_uuid(), 'x',"
                " json_build_object('n', n, 'padding', repeat('x', 2000)), clock_timestamp()"
                " FROM generate_series(1, 6000) n",
                user,
            )
            await conn.execute("UPDATE heads SET seq = 6000 WHERE user_id = $1", user)
        phone = await stage.js_caller(user)
        await phone.connect(server.url, {"token": server.token(user), "lastSeq": "0"}, follow=False)
        await phone.hear("notification")
        async with server.database() as conn:  # what a pass does where so much has come since
            await conn.execute("UPDATE heads SET oldest_seq = 6001 WHERE user_id = $1", user)
            await conn.execute("DELETE FROM inbox WHERE user_id = $1", user)
        [closing] = await phone.hear("closing")
        assert (closing["code"], closing["retryable"]) == ("slow_consumer", True)
        await phone.hear("welcome", 2)
        first, second = phone.stretches()[:2]
        assert [event["seq"] for event in first.events] == list(range(1, len(first.events) + 1))
        assert first.resumed == 0
        assert (second.welcome["complete"], second.welcome["oldestSeq"]) == (False, 6001)
        await stage.close()


async def test_two_nodes_trim_and_deliver_at_once(dsn: str, conn: asyncpg.Connection, tmp_path: Path) -> None:
    async with pair(dsn, tmp_path, INBOX__RETENTION_EVENTS=4, **TRIM_OFTEN) as nodes:
        people = range(1, 6)
        phones = [await nodes.phone(user, node=user % 2) for user in people]

        async def publish(number: int) -> None:
            body = {"id": f"e{number}", "type": "x", "recipientIds": list(people), "data": {"n": number}}
            assert (await nodes.ask("POST", "/v1/events", body, node=number % 2)).status == 200

        for first in range(0, 60, 3):  # never more at once than an inbox keeps, or it would overtake who is slow
            await asyncio.gather(*(publish(number) for number in range(first, first + 3)))
            for phone in phones:
                await phone.caught_up(first + 3)
        for phone in phones:
            assert [event["seq"] for event in phone.events()] == list(range(1, 61))
            assert len({event["id"] for event in phone.events()}) == 60
        async with asyncio.timeout(PATIENCE_S):
            while await conn.fetchval("SELECT min(oldest_seq) FROM heads") < 57:
                await asyncio.sleep(0.05)
        assert await conn.fetchval("SELECT count(*) FROM inbox") == 20
    assert await audit(conn) == []
