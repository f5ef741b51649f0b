"""Three hundred people at once on two nodes, everything repeated, one node frozen: paid exactly once, told in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg

from storage.audit import audit
from tests.support.books import all_is_told, expected_balances, expected_totals, faults, totals
from tests.support.cluster import SECRET, NodeProcess, cluster
from tests.support.crowd import CheapPhone
from tests.support.engagements import CREATOR, FAN, OTHER_CREATOR, balances, seed

FANS: Final = 300
TWO_NODES_AT_ONCE: Final = 30  # fans who have a second phone on the other node and repeat everything there
ACTIONS: Final = 8  # of each fan, before repetitions
REPEATED: Final = 0.4
FREEZE_AFTER_S: Final = 1.0
FROZEN_S: Final = 3.0
LEAST_MEANWHILE: Final = 50
PACE_S: Final = 1.1  # of thinking between two actions at most, so that the load goes on while a node is frozen
PATIENCE_S: Final = 20.0


async def test_a_race_over_two_nodes_of_which_one_freezes(
    dsn: str, conn: asyncpg.Connection, tmp_path: Path, bus: dict[str, object]
) -> None:
    await seed(conn, fans=FANS)
    async with cluster(dsn, tmp_path, **bus) as nodes, crowd(nodes) as (fans, seconds, creators):
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


def acknowledged(phones: Iterable[CheapPhone]) -> int:
    return sum(action.done.is_set() for phone in phones for action in phone.actions.values())
