"""What the demo's people have said to each other before anybody looks: once, whoever starts, and however often."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg

from gateway.console.demo import CREATOR, FRIEND, GROUP, VIEWER, Demo
from handlers.directory.handler import DirectoryHandler
from tests.support.chats import Chats
from tests.support.deeds import deed


async def test_several_nodes_seed_one_stage(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    chats = Chats(conn, pool)
    await chats.people(1)
    lane = asyncio.Lock()  # as the lane is: one batch at a time
    asked: list[int] = []
    everybody_asks = asyncio.Event()

    async def carry_out(user_id: int, event: str, payload: bytes) -> bytes:
        asked.append(user_id)
        if len(asked) == 3:
            everybody_asks.set()
        await everybody_asks.wait()  # all have looked and found nothing said yet
        fields: dict[str, Any] = json.loads(payload)
        async with lane:
            [ack] = await chats.run(deed(user_id, event, action_id=fields.pop("actionId"), **fields))
        return json.dumps(ack).encode()

    def node() -> Demo:
        directory = DirectoryHandler(pool=pool, create_unknown=True, follows_count=False)
        return Demo(
            directory=directory, conversations=chats.conversations, carry_out=carry_out, secret="s" * 16, claims={}
        )

    await asyncio.gather(*(node().seed() for _ in range(3)))
    await node().seed()

    seen = {}
    for user in (VIEWER, CREATOR, FRIEND):
        rows = (await chats.listed(user)).values()
        seen[user] = sorted((row["title"] or "", row["lastNumber"], row["unreadCount"]) for row in rows)
    assert seen == {
        VIEWER: [("", 1, 1), (GROUP, 2, 2)],
        CREATOR: [(GROUP, 2, 1)],
        FRIEND: [("", 1, 0), (GROUP, 2, 1)],
    }
