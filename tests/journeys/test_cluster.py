"""Three real nodes on real Kafka and Valkey behave as one. What they must survive: test_cluster_faults.py."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import asyncpg

from storage.audit import audit
from tests.gateway.test_metrics import DASHBOARD
from tests.journeys.conftest import through_kafka
from tests.support.clients import JsPhone
from tests.support.engagements import CREATOR, FAN, seed
from tests.support.pair import Pair, pair
from tests.support.scrape import Sample, moves, named, scrape

EVENTS: Final = 20
RIGHT_WITHIN_S: Final = 30.0
REVOKED_WITHIN_S: Final = 5.0


async def publish(nodes: Pair, *recipients: int, node: int = 0, **fields: Any) -> None:
    body = {"type": "news", "data": {}, **fields}
    if recipients:
        body["recipientIds"] = recipients
    answer = await nodes.ask("POST", "/v1/events", body, node=node)
    assert answer.status == 200, answer


async def devices(nodes: Pair, user: int, node: int) -> set[str]:
    """Which of a user's devices are connected, as that node sees it; `?` while it does not know."""
    answer = await nodes.ask("GET", f"/v1/users/{user}/inbox", node=node)
    if answer.status == 503:
        return {"?"}
    return {device["deviceId"] for device in answer.body["devices"] if device["connected"]}


async def becomes(ask: Callable[[], Awaitable[object]], wanted: object, seconds: float = RIGHT_WITHIN_S) -> None:
    found: object = None
    try:
        async with asyncio.timeout(seconds):
            while (found := await ask()) != wanted:
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"it stays {found}, not {wanted}") from None


async def hear_all(phones: list[JsPhone], ids: list[str]) -> None:
    """All of these in this order and nothing twice, with `seq`s without a hole."""
    for phone in phones:
        await phone.until(lambda phone=phone: len(phone.events("news")) >= len(ids), str(ids))
        assert [event["id"] for event in phone.events("news")] == ids
        assert [event["seq"] for event in phone.events("news")] == list(range(1, len(ids) + 1))


async def test_three_nodes_are_one(dsn: str, conn: asyncpg.Connection, tmp_path: Path, kafka: str, valkey: str) -> None:
    """Events reach a user on every node without those nodes reading the inbox; presence follows nodes that die."""
    bus = through_kafka(kafka, valkey, tmp_path)
    # The comparison of heads may find an event that is just on its way, and have it read.
    async with pair(dsn, tmp_path, nodes=3, INBOX__COMPARE_EVERY_S=300, **bus) as nodes:
        phones = [await nodes.phone(7, node=node, deviceId=f"device-{node}") for node in range(3)]
        ids = [f"n{number}" for number in range(EVENTS)]
        before = [await scrape(node.url) for node in nodes.nodes]
        for event_id in ids:
            await publish(nodes, 7, id=event_id)
        await hear_all(phones, ids)
        for node in range(3):
            now = await scrape(nodes.nodes[node].url)
            assert moved(before[node], now, "applause_deliveries_total{kind=live}") == EVENTS
            assert moved(before[node], now, "applause_deliveries_total{kind=replayed}") == 0
            assert moved(before[node], now, "applause_pump_starts_total") == 0
            one = moved(before[node], now, "applause_fanout_records_total{direction=said,kind=one}")
            assert one == 0, "who is on most nodes is told to all at once"
            assert await devices(nodes, 7, node) == {"device-0", "device-1", "device-2"}
            shown = json.loads(DASHBOARD.read_text())
            wanted = {
                name
                for panel in shown["panels"]
                for target in panel["targets"]
                for name in re.findall(r"applause_(?:fanout|bus|presence|intake)_\w+", target["expr"])
            }
            assert wanted <= {name for name, _ in now}
            ages = {
                dict(labels)["bus"]: age
                for (name, labels), age in now.items()
                if name.endswith("heartbeat_age_seconds")
            }
            assert set(ages) == {"kafka_all", "kafka_own", "redis"}
            assert max(ages.values()) < 15

        for number in range(EVENTS):  # from all of them in turn: what comes out of order is read
            ids.append(f"m{number}")
            await publish(nodes, 7, node=number % 3, id=ids[-1])
        await hear_all(phones, ids)

        # Not three records for who is on one other node, and none for who is on none.
        before_said = await scrape(nodes.nodes[0].url)
        eight = await nodes.phone(8, node=1)
        await publish(nodes, 8, 9, id="to one")
        await eight.told("news")
        await moves(nodes.nodes[0].url, before_said, {"applause_fanout_records_total{direction=said,kind=one}": 1})

        nodes.nodes[2].process.kill()
        assert await nodes.nodes[1].stop() == 0
        assert '"level": "error"' not in nodes.nodes[1].log.partition("draining")[2], "it ends in silence"
        await becomes(lambda: devices(nodes, 7, 0), {"device-0"})
        nodes.nodes[1:] = []
        await publish(nodes, 7, id="last")
        await hear_all(phones[:1], [*ids, "last"])
    assert await audit(conn) == []


async def test_what_holds_on_one_node_holds_on_three(
    dsn: str, conn: asyncpg.Connection, tmp_path: Path, bus: dict[str, object]
) -> None:
    """Actions and their replay, topics, devices, the limit of connections, the ends of tokens: whoever is where."""
    await seed(conn, fans=4)
    limit = {"SOCKET__MAX_CONNECTIONS_PER_USER": 3}
    async with pair(dsn, tmp_path, nodes=3, **limit, **bus) as nodes:
        await they_know_each_other(nodes)
        soon = int(time.time()) + 4
        brief = await nodes.phone(FAN + 1, node=1, token=nodes.token(FAN + 1, exp=soon))
        acting, second = await nodes.phone(FAN), await nodes.phone(FAN, node=1, deviceId="tablet")
        owner = await nodes.phone(CREATOR, node=2, deviceId="studio")

        like = {"videoId": "a", "actionId": "a-like-of-the-cluster"}
        data = await acting.do("video:like", **like)
        for phone in (acting, second):
            assert [event["data"]["newBalance"] for event in await phone.told("points_earned")] == [1]
        await owner.told("video_like")
        assert await second.call("video:like", like) == {"ok": True, "data": data, "replayed": True}
        assert await second.do("inbox:ack", seq=1) == {"acked": 1}
        for node in range(3):
            state = (await nodes.ask("GET", f"/v1/users/{FAN}/inbox", node=node)).body
            assert state["devices"] == [{"deviceId": "tablet", "acked": 1, "connected": True}]
            assert state["nodes"] == sorted([acting.welcome["node"], second.welcome["node"]])

        for phone in (acting, owner):
            await phone.do("topic:subscribe", topic="live:a")
        await publish(nodes, node=1, id="cue", type="cue", topic="live:a")
        for phone in (acting, owner):
            assert [event["id"] for event in await phone.told("cue")] == ["cue"]

        third = await nodes.phone(FAN, node=2, deviceId="phone")
        await is_refused(nodes, "connection_limit", FAN, node=1)
        await is_refused(nodes, "connection_limit", FAN, node=2, deviceId="watch")
        moved_on = await nodes.phone(FAN, node=0, deviceId="phone")  # it takes its own place
        assert (await third.hear("closing"))[0]["code"] == "replaced"
        assert await third.hear("disconnect") == ["io server disconnect"]

        assert (await brief.hear("auth:expiring"))[0]["inMs"] <= 4_000
        assert (await brief.hear("closing"))[0]["code"] == "token_expired"

        since = time.monotonic()
        assert (await nodes.ask("POST", "/v1/revocations", {"userId": FAN}, node=2)).status == 204
        for phone in (acting, second, moved_on):
            assert (await phone.hear("closing"))[0]["code"] == "revoked"
        assert time.monotonic() - since < REVOKED_WITHIN_S
        await becomes(lambda: devices(nodes, FAN, 1), set())
        assert owner.of("closing") == []
    assert await audit(conn) == []


async def they_know_each_other(nodes: Pair) -> None:
    """Return when what concerns users here is told to all others."""
    for node in range(len(nodes.nodes)):
        listener = await nodes.phone(99, node=node, deviceId=f"listener-{node}")
        await listener.do("topic:subscribe", topic="live:known")
    for node in range(len(nodes.nodes)):
        wanted = f"known-{node}"
        async with asyncio.timeout(RIGHT_WITHIN_S):
            for number in itertools.count():
                await publish(nodes, node=node, id=f"{wanted}-{number}", type=wanted, topic="live:known")
                await asyncio.sleep(0.05)
                if all(phone.events(wanted) for phone in nodes.phones):
                    break
    while nodes.phones:
        await nodes.phones.pop().close()


async def is_refused(nodes: Pair, code: str, user: int, node: int, **auth: Any) -> None:
    phone = await nodes.knock(user, node, **auth)
    [error] = await phone.hear("connect_error")
    assert error["data"]["code"] == code


def moved(before: dict[Sample, float], now: dict[Sample, float], what: str) -> float:
    return now[named(what)] - before[named(what)]
