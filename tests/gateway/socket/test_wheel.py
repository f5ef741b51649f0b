"""wheel.py: deadlines come once, never early, in any number, and not for a stall of ours."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from gateway.socket import wheel as wheel_module
from gateway.socket.wheel import Wheel


class Bell:
    """Notes when it was due."""

    def __init__(self) -> None:
        self.tick = 0
        self.rang: list[float] = []

    def on_due(self) -> None:
        self.rang.append(time.monotonic())


async def test_deadlines_are_never_early_and_little_late() -> None:
    wheel = Wheel(asyncio.get_running_loop(), tick_s=0.02)
    chance = random.Random(1)
    bells = [(Bell(), chance.uniform(0, 0.3)) for _ in range(500)]
    started = time.monotonic()
    for bell, delay_s in bells:
        wheel.set(bell, delay_s)
    await asyncio.sleep(0.4)
    for bell, delay_s in bells:
        [rang] = bell.rang
        assert delay_s - 0.002 <= rang - started < delay_s + 0.15
        assert bell.tick == 0


async def test_a_deadline_can_move_both_ways_and_be_cancelled() -> None:
    wheel = Wheel(asyncio.get_running_loop(), tick_s=0.01)
    later, sooner, never = Bell(), Bell(), Bell()
    for bell in (later, sooner, never):
        wheel.set(bell, 0.1)
    wheel.set(later, 0.3)
    wheel.set(sooner, 0.02)
    wheel.cancel(never)
    wheel.cancel(never)
    await asyncio.sleep(0.2)
    assert [len(bell.rang) for bell in (later, sooner, never)] == [0, 1, 0]
    await asyncio.sleep(0.2)
    assert [len(bell.rang) for bell in (later, sooner, never)] == [1, 1, 0]


async def test_it_stands_still_while_nobody_waits_and_starts_again() -> None:
    wheel = Wheel(asyncio.get_running_loop(), tick_s=0.01)
    bell = Bell()
    for _ in range(2):
        wheel.set(bell, 0.02)
        await asyncio.sleep(0.1)
        assert wheel._timer is None
    assert len(bell.rang) == 2


async def test_items_of_one_slot_may_cancel_each_other_and_come_back() -> None:
    wheel = Wheel(asyncio.get_running_loop(), tick_s=0.01)

    class Rival(Bell):
        other: Rival

        def on_due(self) -> None:
            super().on_due()
            wheel.cancel(self.other)
            if len(self.rang) < 3:
                wheel.set(self, 0)

    one, two = Rival(), Rival()
    one.other, two.other = two, one
    wheel.set(one, 0.02)
    wheel.set(two, 0.02)
    await asyncio.sleep(0.2)
    assert sorted([len(one.rang), len(two.rang)]) == [0, 3]


async def test_a_failing_item_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    wheel = Wheel(asyncio.get_running_loop(), tick_s=0.01)

    class Faulty(Bell):
        def on_due(self) -> None:
            raise RuntimeError("a fault")

    bells = [Bell(), Faulty(), Bell()]
    for bell in bells:
        wheel.set(bell, 0.02)
    await asyncio.sleep(0.1)
    assert len(bells[0].rang) == len(bells[2].rang) == 1
    assert "a deadline's handler failed" in caplog.text


async def test_a_stall_of_ours_lets_peers_be_heard_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel_module, "STALL_S", 0.1)
    loop = asyncio.get_running_loop()
    wheel = Wheel(loop, tick_s=0.01)
    bell = Bell()
    wheel.set(bell, 0.15)
    await asyncio.sleep(0.02)
    time.sleep(0.3)  # noqa: ASYNC251 - the stall
    loop.call_soon(wheel.set, bell, 0.15)  # what a pong does that was waiting in the socket
    await asyncio.sleep(0.05)
    assert bell.rang == []
    await asyncio.sleep(0.3)
    assert len(bell.rang) == 1
