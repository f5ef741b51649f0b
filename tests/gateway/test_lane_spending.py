"""Spends through real lanes: two of them after the same coin, mixed with likes, and the same keys through both."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest

from gateway.lane import Lane
from gateway.routes import ENGAGEMENT, FOR_BACKENDS, SPENDING
from gateway.settings import Lane as Limits
from handlers.deed import Delivered
from handlers.engagement.handler import EngagementHandler
from handlers.wallet.spending import SpendingHandler
from storage import db, items
from storage.audit import audit
from storage.items import StoredItem
from tests.support.engagements import FAN, awards_of, seed
from tests.support.engagements import asked as acted
from tests.support.spending import boost, codes, corrected, deducted, gift, lyk_of, purchase

PEOPLE = range(FAN, FAN + 8)


class Freely:
    """Holds nothing back."""

    def hold(self, order_key: Any) -> None: ...

    def release(self, order_key: Any) -> None: ...


class Node:
    """A lane of likes and spends, and what it has delivered."""

    def __init__(self, dsn: str, awards: Any) -> None:
        self.delivered: list[Delivered] = []
        self.lane = Lane(
            handlers={
                **dict.fromkeys(ENGAGEMENT, EngagementHandler(awards=lambda: awards)),
                **dict.fromkeys((*SPENDING, *FOR_BACKENDS), SpendingHandler(max_amount=1000)),
            },
            connect=lambda: db.connect_lane(dsn),
            orders=Freely(),
            deliver=self.delivered.extend,
            catch_up=lambda: None,
            limits=Limits(),
        )

    async def answers(self, *batch: Any) -> list[Any]:
        """Submit all at once and return their answers."""
        for each in batch:
            self.lane.submit(each.deed)
        async with asyncio.timeout(15):
            for each in batch:
                await each.done.wait()
        return [each.answer for each in batch]


@pytest.fixture
async def nodes(dsn: str, conn: asyncpg.Connection) -> AsyncIterator[Sequence[Node]]:
    """Two of them, on one database in which people have nothing and a rose costs 2.50."""
    await seed(conn, fans=len(PEOPLE))
    await items.upsert_item(conn, StoredItem("rose", "A rose", 250, "LYK"))
    awards = await awards_of(conn)
    pair = [Node(dsn, awards) for _ in range(2)]
    services = [asyncio.create_task(node.lane.run()) for node in pair]
    try:
        yield pair
        assert await audit(conn) == []
    finally:
        for service in services:
            service.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await service


async def test_one_of_all_who_want_the_last_coin_gets_it(nodes: Sequence[Node], conn: asyncpg.Connection) -> None:
    for turn in range(20):
        await nodes[0].answers(corrected(FAN, 1))
        both = [[gift(FAN, FAN + 1, 1), boost(FAN, 1), deducted(FAN, 1)], [gift(FAN, FAN + 2, 1), corrected(FAN, -1)]]
        answers = await asyncio.gather(*(node.answers(*batch) for node, batch in zip(nodes, both, strict=True)))
        assert sorted(codes([*answers[0], *answers[1]])) == ["insufficient_funds"] * 4 + ["ok"], turn
    assert FAN not in await lyk_of(conn)


async def test_any_mix_over_two_lanes_comes_out_even(nodes: Sequence[Node], conn: asyncpg.Connection) -> None:
    """Half of the keys go through both lanes, so each has one outcome; what was acknowledged adds up."""
    dice = random.Random(7)
    await nodes[0].answers(*(corrected(user, 5) for user in PEOPLE))
    made = [
        lambda who, key: gift(who, dice.choice(PEOPLE), dice.randint(1, 300) / 100, actionId=key),
        lambda who, key: purchase(who, actionId=key),
        lambda who, key: boost(who, dice.randint(1, 300) / 100, actionId=key),
        lambda who, key: deducted(who, dice.randint(1, 300) / 100, actionId=key),
        lambda who, key: corrected(who, dice.randint(1, 300) / 100, actionId=key),
        lambda who, key: acted(who, "video:share", dice.choice("abc"), key),
    ]
    outcomes: dict[Any, list[Any]] = defaultdict(list)
    for turn in range(10):
        batches: list[list[Any]] = [[], []]
        for number in range(40):
            make, who, key = dice.choice(made), dice.choice(PEOPLE), f"mix-{turn:04}-{number:04}"
            state = dice.getstate()
            for batch in batches if dice.random() < 0.5 else [dice.choice(batches)]:
                dice.setstate(state)  # the very same action again
                batch.append(make(who, key))
        for batch in batches:
            dice.shuffle(batch)
        answers = await asyncio.gather(*(node.answers(*batch) for node, batch in zip(nodes, batches, strict=True)))
        for batch, answered in zip(batches, answers, strict=True):
            for each, answer in zip(batch, answered, strict=True):
                outcomes[each.deed.subject, each.deed.user_id, each.deed.action_id].append(answer)
    for answers in outcomes.values():
        first, *others = [{name: value for name, value in answer.items() if name != "replayed"} for answer in answers]
        assert all(other == first for other in others)
        assert sum("replayed" not in answer for answer in answers) == 1
    told = [event for node in nodes for event in node.delivered]
    heads: dict[int, int] = dict(await conn.fetch("SELECT user_id, seq FROM heads"))
    for user in PEOPLE:
        assert sorted(event.seq for event in told if event.user_id == user) == list(range(1, heads[user] + 1))
    moved = await conn.fetchval("SELECT sum(points) FROM wallet_transactions WHERE counter_account LIKE 'user:%'")
    assert moved == 0
