"""What a crowd on the videos of `engagements.seed` must come to: a model that pays each (fan, video, verb) once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Final

import asyncpg

from tests.support.crowd import CheapPhone
from tests.support.engagements import CREATOR, OTHER_CREATOR

Did = dict[int, list[tuple[str, str]]]
"""fan -> their actions (event, video) in the order in which they were acknowledged."""

POINTS: Final = {"video:like": 100, "video:view": 100, "video:share": 200}
CREATOR_POINTS: Final = {"video:like": 100, "video:view": 10, "video:share": 100}
OWNERS: Final = {"a": CREATOR, "b": CREATOR, "c": OTHER_CREATOR}
PATIENCE_S: Final = 20.0


async def all_is_told(conn: asyncpg.Connection, phones: list[CheapPhone]) -> None:
    """Return when nothing waits to be settled and every phone has heard of everything."""
    behind: list[tuple[int, int, int]] = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                waiting = await conn.fetchval("SELECT count(*) FROM accruals")
                heads: dict[int, int] = dict(await conn.fetch("SELECT user_id, seq FROM heads"))
                behind = [
                    (phone.user_id, phone.last_seq, heads[phone.user_id])
                    for phone in phones
                    if phone.last_seq != heads[phone.user_id]
                ]
                if not waiting and not behind:
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not told of everything (user, heard, head): {behind[:10]}") from None


def faults(phones: Iterable[CheapPhone]) -> list[str]:
    """Whatever broke a promise in the eyes of the phones."""
    return [f"{phone.user_id}: {fault}" for phone in phones for fault in phone.faults]


def expected_balances(did: Did) -> dict[int, int]:
    """user -> minor units, of those who have any."""
    paid: Counter[int] = Counter()
    for fan, actions in did.items():
        for event, video in set(actions):
            if event != "video:unlike":
                paid[fan] += POINTS[event]
                paid[OWNERS[video]] += CREATOR_POINTS[event]
    return dict(paid)


def expected_totals(did: Did) -> dict[tuple[str, str], int]:
    """(video, verb) -> its total, where there is any."""
    counted: Counter[tuple[str, str]] = Counter()
    for actions in did.values():
        likes: dict[str, int] = {}
        for event, video in actions:
            if event in ("video:like", "video:unlike"):
                likes[video] = int(event == "video:like")
            else:
                counted[video, event] += 1
        for video, liked in likes.items():
            counted[video, "video:like"] += liked
    return {place: total for place, total in counted.items() if total}


async def totals(conn: asyncpg.Connection) -> dict[tuple[str, str], int]:
    """The same, as stored."""
    names = {1: "video:like", 2: "video:view", 3: "video:share"}
    rows = await conn.fetch("SELECT video_id, kind, total FROM video_counters WHERE total <> 0")
    return {(row[0], names[row[1]]): row[2] for row in rows}
