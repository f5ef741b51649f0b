"""One life in the group, as it ends."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from fanout.kafka import Kafka
from gateway.intake import member as members
from gateway.intake.counts import IntakeCounts
from gateway.intake.member import Group, Member, Stalled

NOBODY: Any = None


@pytest.fixture
async def member(monkeypatch: pytest.MonkeyPatch) -> Member:
    """Of a group whose Kafka is not needed."""

    async def started(_: object) -> None: ...

    monkeypatch.setattr(members, "start", started)
    made = Member(
        kafka=Kafka("127.0.0.1:1"),
        group=Group("t.intake", {"t.events": "events"}, 10),
        offsets=NOBODY,
        counts=IntakeCounts(),
        partition_of=NOBODY,
    )
    cast("Any", made._consumer).subscribe = lambda *_, **__: None
    return made


async def test_a_service_that_takes_a_cancellation_for_its_own_holds_nobody_up(member: Member) -> None:
    """So drivers do until Python 3.12; a partition that then ran on would keep the group waiting for ever."""
    begun = asyncio.Event()

    async def deaf() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(60)

    service = member._begin(deaf())
    member._services = [service]
    await begun.wait()
    async with asyncio.timeout(10):
        await member.on_partitions_revoked([])
    assert service.cancelled()


async def test_a_failure_ends_the_life_and_so_does_a_cancellation_that_nobody_sent(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise OSError("away")

    async def cancelled() -> None:
        raise asyncio.CancelledError

    async def wait() -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(member, "_watch", wait)
    for reading, error in ((fail, OSError), (cancelled, Stalled)):
        monkeypatch.setattr(member, "_read", reading)
        member._end = asyncio.get_running_loop().create_future()
        with pytest.raises(error):
            async with asyncio.timeout(10):
                await member.run()


async def test_a_group_that_hears_nothing_for_long_though_kafka_answers_ends_the_life(member: Member) -> None:
    """As was seen after a Kafka that was killed: records went on coming, but nobody asked to join again."""
    for is_heard in (True, False, True, *[False] * (members.STALLED_LOOKS - 1), True):
        if is_heard:
            member._looks_without_commit = 0
        member._look_at_group()
    for _ in range(members.STALLED_LOOKS - 1):
        member._look_at_group()  # which takes it for unheard until the next commit
    with pytest.raises(Stalled, match="though Kafka answers"):
        member._look_at_group()
