"""A slow server can't hide behind an open loop: what should have been sent counts from when it should have been."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiohttp import web

from loadtest.crew import Crew, Door, Share, pace, take
from loadtest.measure import Window, measured
from loadtest.phone import Address
from loadtest.scenarios.echo import EchoJob, run_echo
from loadtest.servers import Elsewhere
from tests.loadtest.fake import SECRET, faking

RATE = 200.0
HELD = 100  # requests that have to be there before the slow server answers any


async def test_a_server_that_stands_still_is_seen_by_all_who_waited() -> None:
    waiting: list[tuple[web.WebSocketResponse, int]] = []
    seen = 0

    async def slow(socket: web.WebSocketResponse, number: int, event: str, payload: dict[str, Any]) -> None:
        nonlocal seen
        seen += 1
        waiting.append((socket, number))
        if seen >= HELD:
            for connection, each in waiting:
                await connection.send_str(f'43{each}[{{"ok":true}}]')
            waiting.clear()

    async with faking(slow) as port:
        server = Elsewhere(f"http://127.0.0.1:{port}", SECRET)
        job = EchoJob(connections=4, rate=RATE)
        window = Window("echo", "acks/s", 1.0, 0.0)
        figure, count = await measured(server, job, window)
    # The n-th of the first hundred was due n / RATE after the first, and none was answered before the last was due.
    assert (count.sent, figure.faults) == (count.done, 0)
    assert count.sent > HELD
    waits = sorted((seconds, share) for share, seconds in count.waits.steps())
    for least in (0.1, 0.25, 0.4):
        within = max((share for seconds, share in waits if seconds < least * 0.98), default=0.0)
        assert round((1 - within) * count.done) >= HELD - 1 - least * RATE


async def test_what_is_never_answered_is_a_long_wait_and_a_fault() -> None:
    async def silent(socket: web.WebSocketResponse, number: int, event: str, payload: dict[str, Any]) -> None:
        pass

    async with faking(silent) as port:
        door = Door(Address("127.0.0.1", port, b'42["resumed"'), SECRET)
        async with Crew(door, EchoJob(connections=2, rate=50.0)) as crew:
            await crew.do("prepare")
            begun = time.perf_counter()
            await crew.do("begin")
            while (count := await crew.do("look")).sent < 20:
                await asyncio.sleep(0)
            await crew.do("stop")
            count = await crew.do("end")
            elapsed = time.perf_counter() - begun
    assert (count.done, count.faults) == (0, count.sent)
    assert count.waits.count == count.sent
    assert 19 / 50 * 0.98 <= count.waits.most <= elapsed


async def test_a_send_that_comes_late_keeps_the_moment_when_it_was_due() -> None:
    dues: list[float] = []

    def send(due: float) -> bool:
        dues.append(due)
        time.sleep(0.01)  # the client itself is too slow for its rate
        return len(dues) < 50

    begun = time.perf_counter()
    await pace(1_000.0, send, lambda: False)
    assert time.perf_counter() - begun >= 0.5
    assert [round((due - dues[0]) * 1_000) for due in dues] == list(range(50))


async def test_a_closed_loop_asks_again_only_when_it_is_answered() -> None:
    in_flight: dict[web.WebSocketResponse, set[int]] = {}
    most = 0

    async def answer(socket: web.WebSocketResponse, number: int, event: str, payload: dict[str, Any]) -> None:
        nonlocal most
        own = in_flight.setdefault(socket, set())
        assert number not in own
        own.add(number)
        most = max(most, len(own))
        if len(own) == 4:
            for each in sorted(own):
                await socket.send_str(f'43{each}[{{"ok":true}}]')
            own.clear()

    async with faking(answer) as port:
        figure = await run_echo(Elsewhere(f"http://127.0.0.1:{port}", SECRET), connections=3, seconds=0.5)
    assert (most, figure.faults) == (4, 0)
    assert figure.samples > 0


async def test_a_load_that_has_ended_is_told_at_the_next_look() -> None:
    async def gone(socket: web.WebSocketResponse, number: int, event: str, payload: dict[str, Any]) -> None:
        pass

    async with faking(gone) as port:
        door = Door(Address("127.0.0.1", port, b'42["resumed"'), SECRET)
        job = EchoJob(connections=1, rate=50.0)
        part = job.part(door, Share())

        def refuse(due: float) -> bool:
            raise RuntimeError("the handler is closed")

        part.send_one = refuse  # type: ignore[attr-defined]
        await take(part, "prepare")
        await take(part, "begin")
        assert part.pacing is not None
        await asyncio.wait([part.pacing], timeout=5)
        with pytest.raises(RuntimeError, match="closed"):
            await take(part, "look")
