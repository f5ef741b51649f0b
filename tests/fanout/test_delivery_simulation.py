"""Delivery against a naive model: thousands of random interleavings, on a clock of loop turns.

The model knows what each cursor must be given, next and at all. Each write is checked as it happens (order, gap,
repetition, hold, congestion, after the end); when a story is over all obstacles are lifted, and every cursor must
stand at its user's head. A story is made of its seed alone, so a failure can be told again; hypothesis, tried first,
told far fewer stories in the same time and missed faults that these find.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import pytest

from fanout import delivery as delivery_module
from fanout import pages as pages_module
from fanout.cursor import Cursor
from fanout.delivery import Delivery
from fanout.hub import Hub
from fanout.pages import Page, Wanted
from tests.fanout.sinks import Tasks

USERS = (1, 2)
TOPIC = "live:all"


def user_of(number: int) -> int:
    """Mostly the first, so that much happens to one."""
    return USERS[number == 0]


class Phone:
    """A sink that checks each frame against the model, and the model itself."""

    def __init__(self, story: Story, user_id: int, at: int) -> None:
        self.story, self.user_id, self.at = story, user_id, at
        self.congested = False
        self.ended = False
        self.target: int | None = None  # the head at its start, None before
        self.resumed = False
        self.holds = 0
        self.ceiling = 0
        self.heard_of = 0  # the highest seq that Delivery was told of since the attach
        self.head_read: int | None = None
        self.cursor: Cursor = story.delivery.attach(user_id, self)
        story.delivery.subscribe(self.cursor, TOPIC)

    def write(self, frame: bytes) -> None:
        assert not self.ended, "written after detach"
        assert not self.congested, "written while congested"
        assert self.target is not None, "written before start"
        if frame == b"topic":
            assert self.resumed, "a topic before resumed"
            return
        seq = int(frame)
        assert seq == self.at + 1, f"given {seq} after {self.at}"
        assert seq <= self.story.heads[self.user_id], "given what does not exist"
        assert self.resumed or seq <= self.target, "beyond the head of the start before resumed"
        if self.holds and seq > self.ceiling:
            assert seq in self.story.told_live[self.user_id], "the pump passed a hold"
        self.at = seq

    def cut(self, code: str) -> None:
        raise AssertionError(f"cut as {code}: nothing was lost")

    def on_resumed(self, seq: int) -> None:
        assert self.target is not None
        assert not self.resumed, "resumed twice"
        assert seq == self.at == max(self.target, self.at), "resumed too early"
        self.resumed = True


class Story:
    """The world the steps act on. A number picks one of what is there, so that steps make sense in any order."""

    def __init__(self) -> None:
        self.tasks = Tasks()
        self.heads = dict.fromkeys(USERS, 0)
        self.undelivered: list[tuple[int, int]] = []  # committed; nobody was told yet
        self.told_live: dict[int, set[int]] = {user: set() for user in USERS}
        self.needs_comparison = False
        self.phones: list[Phone] = []
        self.reads: list[tuple[asyncio.Future[list[Page | None]], list[Page | None]]] = []
        self.delivery = Delivery(hub=Hub(), read_pages=self.read_pages, frame_of=bytes, spawn=self.tasks, page=3)

    async def read_pages(self, wanted: Sequence[Wanted], limit: int) -> list[Page | None]:
        pages: list[Page | None] = []
        for user_id, after, upto in wanted:
            assert 0 <= after < upto <= self.heads[user_id], "a read that can't be answered"
            assert any((user_id, after) == (phone.user_id, phone.at) for phone in self.phones if not phone.ended)
            pages.append([(seq, b"%d" % seq) for seq in range(after + 1, upto + 1)][:limit])
        assert sum(len(page or ()) for page in pages[:-1]) < pages_module.EVENTS_AT_ONCE, "too much at once"
        answer: asyncio.Future[list[Page | None]] = asyncio.get_running_loop().create_future()
        self.reads.append((answer, pages))
        assert len(self.reads) <= pages_module.READERS, "too many at a time"
        return await answer

    def pick(self, number: int, wanted: Callable[[Phone], bool]) -> Phone | None:
        fitting = [phone for phone in self.phones if not phone.ended and wanted(phone)]
        return fitting[number % len(fitting)] if fitting else None

    def raise_head(self, user_id: int, seq: int) -> None:
        self.note(user_id, seq)
        self.delivery.raise_head(user_id, seq)

    def start_phone(self, phone: Phone, head: int) -> None:
        phone.target = head
        phone.heard_of = max(phone.heard_of, head)
        self.delivery.start(phone.cursor, phone.at, head, phone.on_resumed)

    def note(self, user_id: int, seq: int) -> None:
        for phone in self.phones:
            if phone.user_id == user_id:
                phone.heard_of = max(phone.heard_of, seq)

    # Steps

    def commit(self, number: int) -> None:
        user_id = user_of(number)
        self.heads[user_id] += 1
        self.undelivered.append((user_id, self.heads[user_id]))

    def commit_and_deliver(self, number: int) -> None:
        self.commit(number)
        self.deliver(len(self.undelivered) - 1)

    def deliver(self, number: int) -> None:
        """Out of commit order as the number falls."""
        if self.undelivered:
            user_id, seq = self.undelivered.pop(number % len(self.undelivered))
            self.told_live[user_id].add(seq)
            self.note(user_id, seq)
            self.delivery.deliver(user_id, seq, b"%d" % seq)

    def deliver_again(self, number: int) -> None:
        user_id = user_of(number)
        if told := sorted(self.told_live[user_id]):
            seq = told[number % len(told)]
            self.delivery.deliver(user_id, seq, b"%d" % seq)

    def hint(self, number: int) -> None:
        """Another node committed, and says so."""
        if self.undelivered:
            self.raise_head(*self.undelivered.pop(number % len(self.undelivered)))

    def hint_early(self, number: int) -> None:
        """A comparison of heads sees the commit before its own lane has told of it."""
        if self.undelivered:
            self.raise_head(*self.undelivered[number % len(self.undelivered)])

    def lose(self, number: int) -> None:
        """Another node committed, and died before it could say so."""
        if self.undelivered:
            self.undelivered.pop(number % len(self.undelivered))
            self.needs_comparison = True

    def compare_heads(self, _number: int = 0) -> None:
        for user_id, lowest in self.delivery.heads_behind().items():
            if self.heads[user_id] > lowest:
                self.raise_head(user_id, self.heads[user_id])

    def attach(self, number: int) -> None:
        user_id = user_of(number)
        self.phones.append(Phone(self, user_id, at=number % (self.heads[user_id] + 1)))

    def read_head(self, number: int) -> None:
        if phone := self.pick(number, lambda phone: phone.head_read is None):
            phone.head_read = self.heads[phone.user_id]

    def start(self, number: int) -> None:
        if phone := self.pick(number, lambda phone: phone.head_read is not None and phone.target is None):
            assert phone.head_read is not None
            self.start_phone(phone, phone.head_read)

    def connect(self, number: int) -> None:
        self.attach(number)
        phone = self.phones[-1]
        phone.head_read = self.heads[phone.user_id]
        self.start_phone(phone, phone.head_read)

    def detach(self, number: int) -> None:
        if phone := self.pick(number, lambda _: True):
            phone.ended = True
            self.delivery.detach(phone.cursor)

    def hold(self, number: int) -> None:
        if phone := self.pick(number, lambda _: True):
            if not phone.holds:
                phone.ceiling = phone.heard_of
            phone.holds += 1
            self.delivery.hold(phone.cursor)

    def release(self, number: int) -> None:
        if phone := self.pick(number, lambda phone: phone.holds > 0):
            phone.holds -= 1
            self.delivery.release(phone.cursor)

    def congest(self, number: int) -> None:
        if phone := self.pick(number, lambda phone: not phone.congested):
            phone.congested = True

    def drain(self, number: int) -> None:
        if phone := self.pick(number, lambda phone: phone.congested):
            phone.congested = False
            self.delivery.writable(phone.cursor)

    def answer(self, number: int) -> None:
        if self.reads:
            answer, pages = self.reads.pop(number % len(self.reads))
            answer.set_result(pages)

    def answer_some(self, number: int) -> None:
        """The first page, and some of the others; there is no room for the rest."""
        if self.reads:
            answer, pages = self.reads.pop(number % len(self.reads))
            answer.set_result([page if place % (number + 1) == 0 else None for place, page in enumerate(pages)])

    def fail(self, number: int) -> None:
        if self.reads:
            answer, _ = self.reads.pop(number % len(self.reads))
            answer.set_exception(OSError("the database is away"))

    def publish(self, _number: int) -> None:
        self.delivery.publish_topic(TOPIC, b"topic")

    # The end

    async def finish(self) -> None:
        """Lifts every obstacle and waits until nothing runs."""
        while any(phone.target is None and not phone.ended for phone in self.phones):
            self.read_head(0)
            self.start(0)
        while self.undelivered:
            self.hint(0)
        for _ in range(1_000):
            self.release(0)
            self.drain(0)
            self.answer(0)
            await asyncio.sleep(0)
            idle = not (self.tasks.running or self.reads)
            if idle and not self.pick(0, lambda phone: bool(phone.holds or phone.congested)):
                return
        raise AssertionError("it never came to rest")

    def check(self) -> None:
        assert not self.tasks.failures, self.tasks.failures
        for phone in self.phones:
            if not phone.ended:
                assert phone.at == phone.cursor.at == self.heads[phone.user_id], "did not reach the head"
                assert phone.resumed, "never resumed"
                assert phone.cursor.live, "did not flip back to live"
                assert phone.cursor.early is None, "keeps what is over"


Step = Callable[[Story, int], None]
WEIGHTS: dict[Step, int] = {
    Story.commit: 2, Story.commit_and_deliver: 4, Story.deliver: 4, Story.deliver_again: 1,
    Story.hint: 3, Story.hint_early: 3, Story.lose: 1, Story.compare_heads: 1,
    Story.attach: 1, Story.read_head: 1, Story.start: 1, Story.connect: 1, Story.detach: 1,
    Story.hold: 3, Story.release: 2, Story.congest: 2, Story.drain: 2,
    Story.answer: 6, Story.answer_some: 3, Story.fail: 2, Story.publish: 1,
}  # fmt: skip
STEPS_IN_A_TURN = 3  # at most, between two turns of the loop, in which pumps move
STORIES = 2_500


async def tell(seed: int) -> None:
    chance = random.Random(seed)
    steps = chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=chance.randrange(20, 120))
    story = Story()
    for number in range(len(USERS)):
        story.commit_and_deliver(number)
        story.connect(number)
    for step in steps:
        step(story, chance.randrange(6))
        if chance.randrange(STEPS_IN_A_TURN) == 0:
            await asyncio.sleep(0)
    await story.finish()
    if story.needs_comparison:
        story.compare_heads()
        await story.finish()
    story.check()


async def test_every_cursor_is_given_each_event_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "RETRY_FIRST_S", 0.0)
    monkeypatch.setattr(delivery_module, "TURN_BYTES", 2)
    monkeypatch.setattr(delivery_module, "EARLY_MAX", 3)
    monkeypatch.setattr(pages_module, "EVENTS_AT_ONCE", 4)
    monkeypatch.setattr(delivery_module.log, "disabled", True)
    for seed in range(STORIES):
        try:
            await tell(seed)
        except BaseException as error:
            error.add_note(f"in the story of seed {seed}")
            raise
