"""A near and a far broker as one: the far one is told only where somebody is far."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from fanout.broker_both import BothBrokers
from fanout.broker_postgres import CHANNEL, PostgresBroker
from fanout.broker_unix import UnixBroker
from fanout.line import Line
from tests.fanout.lines import lines
from tests.fanout.sinks import Heard, Tasks, told, until


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    owner = Tasks()
    yield owner
    assert not owner.running
    assert not owner.failures


class Machine:
    """Two workers of one parent."""

    def __init__(self, dsn: str, team: str, made: list[Line], tasks: Tasks) -> None:
        self.is_alone = True
        self.heard = [Heard(), Heard()]
        self.brokers = [
            BothBrokers(
                near=lambda listeners, line=line: UnixBroker(line=line, listeners=listeners),
                far=lambda listeners: PostgresBroker(dsn=dsn, node=team, listeners=listeners, spawn=tasks),
                listeners=heard.listeners,
                has_far=lambda: not self.is_alone,
            )
            for line, heard in zip(made, self.heard, strict=False)
        ]


async def said(conn: asyncpg.Connection) -> list[str]:
    """What goes over the database from now on, but for "compare"."""
    notices: list[str] = []
    await conn.add_listener(CHANNEL, lambda *heard: "compare" in str(heard[-1]) or notices.append(str(heard[-1])))
    return notices


async def test_siblings_alone_hear_each_other_near_and_nothing_goes_far(
    dsn: str, conn: asyncpg.Connection, tasks: Tasks
) -> None:
    notices = await said(conn)
    async with lines(tasks) as made:
        machine = Machine(dsn, "here", made, tasks)
        for broker in machine.brokers:
            await broker.start()
        machine.brokers[0].announce_events(told([(7, 4)]))
        machine.brokers[0].publish_topic("live:a", b"{}")
        machine.brokers[0].publish_users([7], b"{}")
        machine.brokers[0].announce_replaced(7, "phone", 2)
        await until(lambda: machine.heard[1].users)
        for broker in machine.brokers:
            await broker.stop()
    assert machine.heard[1].heads == [(7, 4)]
    assert machine.heard[1].replaced == [(7, "phone", 2)]
    assert notices == []


@pytest.mark.parametrize("how", ["presence", "hearing"])
async def test_others_elsewhere_are_told_and_siblings_only_once(dsn: str, tasks: Tasks, how: str) -> None:
    """Presence says that somebody is far, or they were just heard."""
    stranger = Heard()
    far = PostgresBroker(dsn=dsn, node="there", listeners=stranger.listeners, spawn=tasks)
    async with lines(tasks) as made:
        machine = Machine(dsn, "here", made, tasks)
        for broker in machine.brokers:
            await broker.start()
        if how == "presence":
            await far.start()
            machine.is_alone = False
        before = machine.heard[0].compares
        if how == "hearing":
            await far.start()
            await until(lambda: machine.heard[0].compares > before)
        machine.brokers[0].publish_topic("live:a", b"1")
        await until(lambda: stranger.topics and machine.heard[1].topics)
        far.publish_topic("live:a", b"2")
        await until(lambda: all(len(heard.topics) > number for number, heard in enumerate(machine.heard)))
        await asyncio.sleep(0.05)
        for broker in (*machine.brokers, far):
            await broker.stop()
    assert stranger.topics == [("live:a", b"1")]
    assert [heard.topics for heard in machine.heard] == [[("live:a", b"2")], [("live:a", b"1"), ("live:a", b"2")]]
