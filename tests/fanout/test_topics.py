"""Messages of live topics: the only one of its time leaves at once, several together, and none waits for long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from fanout.cursor import Cursor
from fanout.delivery import Delivery
from fanout.hub import Hub
from fanout.pages import Page, Wanted
from fanout.topics import LARGE, WAITING_BYTES, Topics


class Ear:
    """A connection that keeps its writes."""

    def __init__(self) -> None:
        self.congested = False
        self.writes: list[bytes] = []

    def write(self, frame: bytes) -> None:
        self.writes.append(frame)

    def cut(self, code: str) -> None:
        raise AssertionError(code)


class Room:
    """So many listeners of `live:a`, and whether somebody is just publishing."""

    def __init__(self, listeners: int) -> None:
        self.more_to_come = False
        self.hub = Hub()
        self.delivery = Delivery(
            hub=self.hub, read_pages=self._read_nothing, frame_of=lambda envelope: b"<%b>" % envelope, spawn=self._spawn
        )
        self.topics = Topics(hub=self.hub, delivery=self.delivery, more_to_come=lambda: self.more_to_come)
        self.ears = [Ear() for _ in range(listeners)]
        for user_id, ear in enumerate(self.ears):
            self.delivery.subscribe(self.enter(user_id, ear), "live:a")

    def enter(self, user_id: int, ear: Ear) -> Cursor:
        cursor = self.delivery.attach(user_id, ear)
        self.delivery.start(cursor, 0, 0, lambda seq: None)
        return cursor

    @staticmethod
    async def _read_nothing(wanted: Sequence[Wanted], limit: int) -> list[Page | None]:
        raise AssertionError("nobody is behind")

    @staticmethod
    def _spawn(pump: Coroutine[Any, Any, None]) -> None:
        raise AssertionError("nobody is behind")

    def all_have(self, *writes: bytes) -> bool:
        return all(ear.writes == list(writes) for ear in self.ears)


async def turns(count: int = 2) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("listeners", [1, LARGE])
async def test_alone_it_leaves_in_the_next_turn(listeners: int) -> None:
    room = Room(listeners)
    room.topics.publish("live:a", b"1")
    assert room.all_have()
    await turns()
    assert room.all_have(b"<1>")
    room.topics.publish("live:a", b"2")
    await turns()
    assert room.all_have(b"<1>", b"<2>")
    assert room.delivery.counts.topic == 2 * listeners


async def test_those_of_one_turn_leave_in_one_write_in_their_order() -> None:
    room = Room(3)
    for number in b"3", b"1", b"2":
        room.topics.publish("live:a", number)
    room.topics.publish("live:nobody", b"x")
    await turns()
    assert room.all_have(b"<3><1><2>")
    assert room.delivery.counts.topic == 9


async def test_for_a_large_room_it_waits_for_those_that_are_underway() -> None:
    room = Room(LARGE)
    room.more_to_come = True
    room.topics.publish("live:a", b"1")
    await turns()
    room.topics.publish("live:a", b"2")
    await turns()
    assert room.all_have()
    room.more_to_come = False
    room.topics.publish("live:a", b"3")
    await turns()
    assert room.all_have(b"<1><2><3>")
    room.topics.publish("live:a", b"4")
    await turns()
    assert room.all_have(b"<1><2><3>", b"<4>"), "the timer of the first three is gone"


async def test_it_waits_for_nobody_who_never_comes() -> None:
    room = Room(LARGE)
    room.more_to_come = True
    room.topics.publish("live:a", b"1")
    await until(lambda: room.all_have(b"<1>"))
    room.topics.publish("live:a", b"2")
    await until(lambda: room.all_have(b"<1>", b"<2>"))


async def test_a_small_room_and_a_great_message_don_t_wait() -> None:
    small, large = Room(LARGE - 1), Room(LARGE)
    small.more_to_come = large.more_to_come = True
    small.topics.publish("live:a", b"1")
    great = json.dumps("x" * WAITING_BYTES).encode()
    large.topics.publish("live:a", great)
    await turns()
    assert small.all_have(b"<1>")
    assert large.all_have(b"<%b>" % great)


async def test_who_leaves_meanwhile_is_not_written_to() -> None:
    room = Room(LARGE)
    room.topics.publish("live:a", b"1")
    for cursor in list(room.hub):
        room.delivery.detach(cursor)
    await turns()
    assert room.all_have()
