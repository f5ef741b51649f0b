"""A viral video: two thousand people like it in a second, on one node and on two; its creator hears of it in gulps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from loadtest.phone import Address, Phone, connect_all, text_frame
from storage.audit import audit
from tests.support.books import all_is_told
from tests.support.cluster import SECRET, cluster
from tests.support.crowd import CheapPhone, token_for
from tests.support.engagements import CREATOR, FAN, balances, seed

FANS: Final = 2_000
WITHIN_S: Final = 1.0
PATIENCE_S: Final = 60.0
CLOCKS_S: Final = 0.002  # timestamps are cut to milliseconds


class Fan(Phone):
    """Likes the one video once."""

    __slots__ = ("_on_paid", "_user")

    def __init__(self, address: Address, user: int, on_paid: Callable[[bool], None]) -> None:
        super().__init__(address, json.dumps({"token": token_for(user, SECRET)}).encode())
        self._user = user
        self._on_paid = on_paid

    def like(self) -> None:
        payload = {"videoId": "a", "actionId": f"viral-{self._user:08}"}
        self.say_now(text_frame(b"421" + json.dumps(["video:like", payload]).encode()))

    def acked(self, ack_id: int, message: bytes) -> None:
        self._on_paid(b'"award":{"points":1,"newBalance":1}' in message)


@pytest.mark.parametrize("nodes", [1, 2])
async def test_a_creator_hears_of_a_viral_video_in_two_events_a_second(
    dsn: str, conn: asyncpg.Connection, tmp_path: Path, nodes: int
) -> None:
    await seed(conn, fans=FANS)
    async with cluster(dsn, tmp_path, nodes) as started:
        creator = Listener(CREATOR, SECRET, lambda: started[0].url)
        creator.start()
        await creator.online.wait()
        acks: list[bool] = []
        fans: list[Fan] = []
        for number, node in enumerate(started):
            host, port = node.url.removeprefix("http://").split(":")
            address = Address(host, int(port), b'42["welcome"')
            first, count = FAN + number * (FANS // nodes), FANS // nodes
            make = fans_from(address, first, acks.append)
            fans += await connect_all(address, make, count)
        for each in sorted(fans, key=id):
            each.like()
            await asyncio.sleep(WITHIN_S / FANS)
        async with asyncio.timeout(PATIENCE_S):
            while len(acks) < FANS:
                await asyncio.sleep(0.05)
        await all_is_told(conn, [creator])
        for each in fans:
            each.transport.abort()
        await creator.stop()

        assert all(acks)
        assert creator.faults == []
        check_gulps(creator.told("points_earned"), creator.told("video_like"))
        assert (await balances(conn))[CREATOR] == 100 * FANS
        assert await conn.fetchval("SELECT total FROM video_counters WHERE video_id = 'a'") == FANS
        assert await audit(conn) == []


class Listener(CheapPhone):
    """Keeps what it hears."""

    def __init__(self, user_id: int, secret: str, url: Callable[[], str]) -> None:
        super().__init__(user_id, secret, url)
        self._heard: list[dict[str, Any]] = []

    def _take_event(self, event: dict[str, Any]) -> None:
        super()._take_event(event)
        self._heard.append(event)

    def told(self, type_: str) -> list[dict[str, Any]]:
        return [event for event in self._heard if event["type"] == type_]


def fans_from(address: Address, first: int, on_paid: Callable[[bool], None]) -> Callable[[int], Fan]:
    return lambda number: Fan(address, first + number, on_paid)


def check_gulps(awards: list[dict[str, Any]], notices: list[dict[str, Any]]) -> None:
    """The first of each at once, then at most one a second, and together they tell of everybody."""
    for events in (awards, notices):
        at = [datetime.fromisoformat(event["timestamp"]).timestamp() for event in events]
        assert all(later - earlier >= 1 - CLOCKS_S for earlier, later in pairwise(at)), at
        assert events[0]["data"].get("metadata", events[0]["data"])["count"] == 1
    assert sum(event["data"]["metadata"]["count"] for event in awards) == FANS
    assert sum(event["data"]["count"] for event in notices) == FANS
    assert awards[-1]["data"]["metadata"]["totalLikes"] == FANS
    assert awards[-1]["data"]["newBalance"] == FANS
    assert all(len(event["data"]["actorIds"]) <= 10 for event in notices)
