"""Lines and their exchange: frames whole whatever pieces they come in, questions answered or refused, no one left
waiting for somebody who is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.exchange import Exchange
from fanout.line import ALL, ASK, PARENT, SAY, Cutter, Frame, Line, Unreachable
from tests.fanout.lines import lines, opened
from tests.fanout.sinks import Tasks

TOPIC = 9
small = st.integers(0, 255)
frames = st.builds(Frame, small, small, st.integers(0, 4), small, st.integers(0, 2**32 - 1), st.binary(max_size=300))


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    owner = Tasks()
    yield owner
    assert not owner.running
    assert not owner.failures


async def _echo(sender: int, body: bytes) -> bytes:
    return b"%d:%s" % (sender, body)


@given(st.lists(frames, max_size=20), st.lists(st.integers(1, 400), min_size=1, max_size=50))
def test_frames_come_out_whole_whatever_pieces_they_come_in(sent: list[Frame], pieces: list[int]) -> None:
    stream, cutter, got = b"".join(frame.encode() for frame in sent), Cutter(), []
    for size in [*pieces, len(stream)]:
        piece, stream = stream[:size], stream[size:]
        got += list(cutter.feed(piece))
    assert got == sent


async def test_a_question_is_answered_by_whom_it_is_for(tasks: Tasks) -> None:
    async with lines(tasks, workers=3) as (a, b, c, parent):
        for line in (b, c, parent):
            line.answer(TOPIC, _echo)
        answers = await asyncio.gather(*(a.ask(to, TOPIC, b"%d" % to) for to in (1, 2, PARENT)))
        assert answers == [b"0:1", b"0:2", b"0:%d" % PARENT]
        assert await parent.ask(1, TOPIC, b"x") == b"%d:x" % PARENT


async def test_who_can_t_be_asked_is_told_at_once(tasks: Tasks) -> None:
    async def fail(_: int, __: bytes) -> bytes:
        raise RuntimeError

    async with lines(tasks, workers=2) as (a, b, _):
        b.answer(TOPIC, fail)
        for to, subject in ((1, TOPIC), (1, TOPIC + 1), (7, TOPIC)):  # it raises, has no answer, is not there
            async with asyncio.timeout(5):
                with pytest.raises(Unreachable):
                    await a.ask(to, subject)


async def test_the_end_of_a_line_ends_what_waits_on_it(tasks: Tasks) -> None:
    never = asyncio.Event()

    async def ponder(_: int, __: bytes) -> bytes:
        await never.wait()
        return b""

    gone: list[int] = []
    exchange = Exchange(on_gone=gone.append)
    a, b = [await opened(exchange, number, tasks) for number in (0, 1)]
    b.answer(TOPIC, ponder)
    asking = asyncio.ensure_future(a.ask(1, TOPIC))
    await asyncio.sleep(0.01)
    exchange.detach(0)
    with pytest.raises(Unreachable):
        await asking
    await a.ended()
    with pytest.raises(Unreachable):
        await a.ask(1, TOPIC)
    a.say(TOPIC, b"")  # does no harm
    b.close()
    async with asyncio.timeout(5):
        await b.ended()
        while len(gone) < 2:
            await asyncio.sleep(0.001)
    assert gone == [0, 1]
    never.set()
    while tasks.running:
        await asyncio.sleep(0.001)
    exchange.close()


async def test_a_number_is_whose_line_is_the_newest(tasks: Tasks) -> None:
    """An end of an earlier one that comes late takes nothing from its successor."""
    gone: list[int] = []
    exchange = Exchange(on_gone=gone.append)
    asker, old = await opened(exchange, 0, tasks), await opened(exchange, 1, tasks)
    new = await opened(exchange, 1, tasks)
    new.answer(TOPIC, _echo)
    await old.ended()
    assert await asker.ask(1, TOPIC, b"x") == b"0:x"
    assert gone == [1]
    exchange.close()
    for line in (asker, new):
        await line.ended()


async def test_nobody_speaks_in_anothers_name(tasks: Tasks) -> None:
    async with lines(tasks, workers=2) as (a, b, _):
        b.answer(TOPIC, _echo)
        a.number = 5
        async with asyncio.timeout(5):
            assert await a.ask(1, TOPIC, b"x") == b"0:x"


async def test_hints_go_to_all_other_workers_and_not_to_the_parent(tasks: Tasks) -> None:
    heard: list[tuple[int, bytes]] = []
    async with lines(tasks, workers=3) as made:

        def listen(line: Line) -> None:
            line.hear(TOPIC, lambda body: heard.append((line.number, body)), gap=lambda: None)

        for line in made:
            listen(line)
        made[0].say(TOPIC, b"hint")
        made[0].say(TOPIC + 1, b"for nobody")
        made[-1].say(TOPIC, b"from the parent")
        async with asyncio.timeout(5):
            while len(heard) < 5:
                await asyncio.sleep(0.001)
        made[2].ignore(TOPIC)
    assert sorted(heard) == [
        (0, b"from the parent"), (1, b"from the parent"), (1, b"hint"), (2, b"from the parent"), (2, b"hint")
    ]  # fmt: skip


def test_numbers_of_workers_are_none_of_the_others() -> None:
    assert len({ALL, PARENT, *range(64)}) == 66
    assert SAY != ASK
