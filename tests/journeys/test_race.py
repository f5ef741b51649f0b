"""Three hundred people at once on two nodes, everything repeated, one node frozen: paid exactly once, told in order."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg

from storage.audit import audit
from tests.support.cluster import SECRET, NodeProcess, cluster
from tests.support.crowd import CheapPhone
from tests.support.engagements import CREATOR, FAN, OTHER_CREATOR, seed

FANS: Final = 300
TWO_NODES_AT_ONCE: Final = 30  # fans who have a second phone on the other node and repeat everything there
ACTIONS: Final = 8  # of each fan, before repetitions
REPEATED: Final = 0.4
FREEZE_AFTER_S: Final = 1.0
FROZEN_S: Final = 3.0
LEAST_MEANWHILE: Final = 50
PACE_S: Final = 1.1  # of thinking between two actions at most, so that the load goes on while a node is frozen
PATIENCE_S: Final = 20.0

POINTS: Final = {"video:like": 100, "video:view": 100, "video:share": 200}
CREATOR_POINTS: Final = {"video:like": 100, "video:view": 10, "video:share": 100}
OWNERS: Final = {"a": CREATOR, "b": CREATOR, "c": OTHER_CREATOR}


async def test_a_race_over_two_nodes_of_which_one_freezes(dsn: str, conn: asyncpg.Connection, tmp_path: Path) -> None:
    await seed(conn, fans=FANS)
    async with cluster(dsn, tmp_path) as nodes, crowd(nodes) as (fans, seconds, creators):
        acting = [asyncio.create_task(live(random.Random(fan.user_id), fan, seconds.get(fan.user_id))) for fan in fans]
        await asyncio.sleep(FREEZE_AFTER_S)
        nodes[0].freeze()
        before = acknowledged(fans[1::2])
        await asyncio.sleep(FROZEN_S)
        assert acknowledged(fans[1::2]) > before + LEAST_MEANWHILE, "the other node goes on"
        nodes[0].thaw()
        async with asyncio.timeout(PATIENCE_S):
            did = dict(zip((fan.user_id for fan in fans), await asyncio.gather(*acting), strict=True))
        phones = [*fans, *seconds.values(), *creators]
        await all_is_told(conn, phones)

        assert faults(phones) == []
        assert [fan.connects for fan in phones] == [1] * len(phones), "3 s are no reason to lose anybody"
        assert await audit(conn) == []
        assert await balances(conn) == expected_balances(did)
        assert {phone.user_id: phone.points for phone in phones if phone.points} == expected_balances(did)
        assert await totals(conn) == expected_totals(did)
        assert await conn.fetchval("SELECT count(*) FROM requests") == FANS * ACTIONS


@asynccontextmanager
async def crowd(
    nodes: list[NodeProcess],
) -> AsyncIterator[tuple[list[CheapPhone], dict[int, CheapPhone], list[CheapPhone]]]:
    """(each fan's phone, some fans' second phones on the other node, the creators' phones), all connected."""

    def phone(user_id: int, node: int) -> CheapPhone:
        return CheapPhone(user_id, SECRET, lambda: nodes[node].url)

    fans = [phone(FAN + number, number % 2) for number in range(FANS)]
    seconds = {fan.user_id: phone(fan.user_id, (number + 1) % 2) for number, fan in enumerate(fans[:TWO_NODES_AT_ONCE])}
    creators = [phone(CREATOR, 0), phone(CREATOR, 1), phone(OTHER_CREATOR, 1)]
    everybody = [*fans, *seconds.values(), *creators]
    for each in everybody:
        each.acts_elsewhere = each.user_id in seconds
        each.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(each.online.wait() for each in everybody))
        yield fans, seconds, creators
    finally:
        await asyncio.gather(*(each.stop() for each in everybody))


async def live(chance: random.Random, fan: CheapPhone, second: CheapPhone | None) -> list[tuple[str, str]]:
    """A fan's actions, one after the other, and what of it was new: (event, video) in order."""
    did: list[tuple[str, str]] = []
    for number in range(ACTIONS):
        event = chance.choice(["video:like", "video:like", "video:unlike", "video:view", "video:share"])
        video = chance.choice("aaaaabc")
        action_id = f"fan-{fan.user_id}-{number}"
        if second is not None:  # the same key through two nodes at the same time
            await asyncio.gather(fan.act(event, video, action_id), second.act(event, video, action_id))
            assert fan.actions[action_id].answers[0]["data"] == second.actions[action_id].answers[0]["data"]
        else:
            await fan.act(event, video, action_id)
        did.append((event, video))
        if chance.random() < REPEATED:
            old = fan.actions[chance.choice(list(fan.actions))]
            answers = len(old.answers)
            await (second or fan).send_soon(old if second is None else second.actions[old.action_id])
            if second is None:
                await answered(old, answers + 1)
                assert old.answers[-1]["replayed"]
        await asyncio.sleep(chance.uniform(0, PACE_S))
    return did


async def answered(action: Any, times: int) -> None:
    while len(action.answers) < times:
        await asyncio.sleep(0.01)


async def all_is_told(conn: asyncpg.Connection, phones: list[CheapPhone]) -> None:
    """Return when nothing waits to be settled and every phone has heard of everything."""
    behind: list[tuple[int, int, int]] = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                waiting = await conn.fetchval("SELECT count(*) FROM accruals")
                heads = dict(await conn.fetch("SELECT user_id, seq FROM heads"))
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


def acknowledged(phones: Iterable[CheapPhone]) -> int:
    return sum(action.done.is_set() for phone in phones for action in phone.actions.values())


def faults(phones: Iterable[CheapPhone]) -> list[str]:
    return [f"{phone.user_id}: {fault}" for phone in phones for fault in phone.faults]


# -- a model that pays each (fan, video, verb) once ------------------------------------------------------------------


def expected_balances(did: dict[int, list[tuple[str, str]]]) -> dict[int, int]:
    paid: Counter[int] = Counter()
    for fan, actions in did.items():
        for event, video in set(actions):
            if event != "video:unlike":
                paid[fan] += POINTS[event]
                paid[OWNERS[video]] += CREATOR_POINTS[event]
    return dict(paid)


def expected_totals(did: dict[int, list[tuple[str, str]]]) -> dict[tuple[str, str], int]:
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


async def balances(conn: asyncpg.Connection) -> dict[int, int]:
    return dict(await conn.fetch("SELECT user_id, balance FROM accounts WHERE balance > 0"))


async def totals(conn: asyncpg.Connection) -> dict[tuple[str, str], int]:
    names = {1: "video:like", 2: "video:view", 3: "video:share"}
    rows = await conn.fetch("SELECT video_id, kind, total FROM video_counters WHERE total <> 0")
    return {(row[0], names[row[1]]): row[2] for row in rows}
