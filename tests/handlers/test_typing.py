"""Typing: shown at once, not too often, and never for longer than it lasts."""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.errors import Refusal
from handlers.messaging.typing import SHOWN_EVERY_S, TYPING_TTL_S, Typing, Typist
from storage.audience import Audience
from tests.support.chats import Chats

NOBODY: Final = "00000000-0000-0000-0000-000000000000"


class Timer:
    """What `Hand.call_later` gives."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Hand:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        timer = Timer(callback)
        heapq.heappush(self._timers, (self.now + delay, next(self._numbers), timer))
        return timer

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until:
            self.now, _, timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                timer.callback()
        self.now = until

    @property
    def waits(self) -> bool:
        return any(timer.callback is not None for _, _, timer in self._timers)


class Scene:
    """A direct conversation of 1 and 2, a group of 1 to 4, and what was shown: (to whom, the event)."""

    def __init__(self, pool: asyncpg.Pool, pair: str, group: str) -> None:
        self.hand = Hand()
        self.pair, self.group = pair, group
        self._said: list[tuple[list[int], Any]] = []
        self.typing = Typing(pool=pool, tell=self._tell, timers=self.hand)

    def _tell(self, user_ids: Sequence[int], envelope: bytes) -> None:
        self._said.append((list(user_ids), json.loads(envelope)))

    def shown(self) -> list[tuple[list[int], bool]]:
        """To whom, and whether typing, since it was asked the last time."""
        said, self._said = self._said, []
        return [(users, event["data"]["isTyping"]) for users, event in said]

    def said(self) -> list[tuple[list[int], Any]]:
        said, self._said = self._said, []
        return said

    async def start(self, user: int = 1, where: str | None = None, phone: str = "phone") -> None:
        await self.typing.start(phone, user, where or self.pair)


@pytest.fixture
async def chats(conn: asyncpg.Connection, pool: asyncpg.Pool) -> Chats:
    chats = Chats(conn, pool)
    await chats.people(5)
    return chats


@pytest.fixture
async def scene(chats: Chats, pool: asyncpg.Pool) -> Scene:
    return Scene(pool, await chats.talk(1, 2), await chats.talk(1, 2, 3, 4, title="all"))


async def test_it_is_shown_to_the_others_alone_until_three_seconds_after_the_last_start(scene: Scene) -> None:
    ack = await scene.typing.start("phone", 3, scene.group)
    assert ack.conversation_id == scene.group
    [(users, event)] = scene.said()
    assert users == [1, 2, 4]
    assert event == {
        "id": event["id"], "seq": None, "type": "typing_indicator", "eventType": "chat:typing:started",
        "recipientIds": [], "timestamp": event["timestamp"],
        "data": {"conversationId": scene.group, "userId": 3, "username": "user_3", "isTyping": True},
    }  # fmt: skip
    scene.hand.wait(1.5)
    await scene.start(3, scene.group)
    scene.hand.wait(2.9)
    assert scene.shown() == []
    scene.hand.wait(0.1)
    assert scene.shown() == [([1, 2, 4], False)]
    assert not scene.hand.waits


async def test_who_goes_on_is_shown_again_every_two_seconds(scene: Scene) -> None:
    for _ in range(8):
        await scene.start()
        scene.hand.wait(0.5)
    assert scene.shown() == [([2], True)] * 2


@pytest.mark.parametrize("how", ["stop", "a message or a closed chat", "the connection is gone"])
async def test_it_ends_with_whatever_ends_it(scene: Scene, how: str) -> None:
    await scene.start()
    if how == "stop":
        await scene.typing.stop(1, scene.pair)
        await scene.typing.stop(1, scene.pair)
    elif how == "the connection is gone":
        scene.typing.left("phone")
        scene.typing.left("phone")
    else:
        scene.typing.end(1, scene.pair)
    assert scene.shown() == [([2], True), ([2], False)]
    scene.hand.wait(10)
    assert scene.shown() == []
    assert not scene.hand.waits


async def test_who_begins_again_soon_is_shown_when_it_may_be(scene: Scene) -> None:
    await scene.start()
    await scene.typing.stop(1, scene.pair)
    scene.hand.wait(0.5)
    await scene.start()
    assert scene.shown() == [([2], True), ([2], False)]
    scene.hand.wait(1.5)
    assert scene.shown() == [([2], True)]
    scene.hand.wait(1.5)
    assert scene.shown() == [([2], False)]


async def test_the_connection_that_typed_last_counts(scene: Scene) -> None:
    await scene.start(phone="old")
    await scene.start(phone="new")
    scene.typing.left("old")
    assert scene.shown() == [([2], True)]
    scene.typing.left("new")
    assert scene.shown() == [([2], False)]


async def test_places_and_people_have_nothing_to_do_with_each_other(scene: Scene) -> None:
    await scene.start(1, scene.pair, "a")
    await scene.start(1, scene.group, "a")
    await scene.start(2, scene.pair, "b")
    assert scene.shown() == [([2], True), ([2, 3, 4], True), ([1], True)]
    scene.typing.left("a")
    assert sorted(scene.shown()) == [([2], False), ([2, 3, 4], False)]


async def test_blocks_are_not_noticed_and_hold_between_two_only(scene: Scene, chats: Chats) -> None:
    for blocker, blocked in ((1, 2), (2, 1)):
        await chats.conn.execute("INSERT INTO blocks VALUES ($1, $2)", blocker, blocked)
        assert (await scene.typing.start("phone", 1, scene.pair)).conversation_id == scene.pair
        await scene.typing.stop(1, scene.pair)
        scene.hand.wait(3)
        await chats.conn.execute("TRUNCATE blocks")
    assert scene.shown() == []
    await chats.conn.execute("INSERT INTO blocks VALUES (2, 1)")
    await scene.start(1, scene.group)
    assert scene.shown() == [([2, 3, 4], True)]


async def test_whoever_has_left_is_shown_nothing_new_after_two_seconds(scene: Scene, chats: Chats) -> None:
    await scene.start(1, scene.group)
    await chats.conversations.remove(1, scene.group, 4)
    scene.hand.wait(2)
    await scene.start(1, scene.group)
    assert scene.shown() == [([2, 3, 4], True), ([2, 3], True)]


@pytest.mark.parametrize("where", [NOBODY, "nonsense", "no\0no"])
async def test_who_does_not_take_part_is_told_that_there_is_nothing(scene: Scene, where: str) -> None:
    for user, place in ((1, where), (5, scene.pair)):
        for attempt in (scene.typing.start("phone", user, place), scene.typing.stop(user, place)):
            with pytest.raises(Refusal) as refused:
                await attempt
            assert (refused.value.code, refused.value.field) == ("not_found", "conversationId")
    assert scene.shown() == []
    assert not scene.hand.waits


STEPS: Final = st.lists(st.sampled_from(["start", "stop", 0.3, 0.7, 1.0, 2.0, 2.5]), max_size=30)


@given(STEPS)
def test_what_is_shown_is_never_too_often_nor_for_too_long(steps: list[str | float]) -> None:
    """At every step: off where nobody has typed for three seconds, or has stopped; on where somebody types and was not
    shown within two seconds."""
    hand = Hand()
    said: list[tuple[float, bool]] = []
    forgotten: list[Typist] = []

    def tell(_: Sequence[int], envelope: bytes) -> None:
        said.append((hand.now, json.loads(envelope)["data"]["isTyping"]))

    def anew() -> Typist:
        typist = Typist((1, "c"), hand, tell, forgotten.append)
        typist.audience = Audience("a", [2])
        return typist

    typist = anew()
    types_until = 0.0
    for step in steps:
        if forgotten:
            typist = anew()
            forgotten.clear()
        if step == "start":
            typist.start()
            types_until = hand.now + TYPING_TTL_S
        elif step == "stop":
            typist.stop()
            types_until = hand.now
        else:
            assert not isinstance(step, str)
            hand.wait(step)
        shown_at = [at for at, is_typing in said if is_typing]
        assert all(b - a >= SHOWN_EVERY_S for a, b in itertools.pairwise(shown_at))
        is_shown = bool(said) and said[-1][1]
        if hand.now >= types_until:
            assert not is_shown
        elif shown_at and hand.now - shown_at[-1] >= SHOWN_EVERY_S:
            assert is_shown
    hand.wait(10)
    assert not hand.waits
    assert not (said and said[-1][1])
