"""One person of `mixed`: an app that keeps its actions until they are answered, and knows where it was."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

import msgspec

from loadtest.crew import Count, Target
from loadtest.phone import Address, PhoneFailed, connect, text_frame
from loadtest.promises import Kept, Reservoir
from loadtest.witness import Answer, Witness, WitnessedPhone, answer_of, cents

BACK_OFF_S: Final = 0.3  # at most, before a lost connection is opened again
AWAY_S: Final = (0.2, 2.0)  # how long a flapping phone is gone
FIRST_STAYS_S: Final = 1.0  # how long it stays at first, at most, so that a short run sees it go
STAYS_S: Final = 3.0  # how long it stays later, on average
READS_S: Final = 2.0  # how long a slow reader reads, on average
STALLS_S: Final = (0.5, 3.0)  # and how long not
REMEMBERED: Final = 8  # answered actions that a person may send again


class Action:
    """One thing that a person does, until it is answered. `due` is 0 where its wait would not be the server's."""

    __slots__ = ("answered", "due", "event", "number", "paid", "payload", "repeats")

    def __init__(self, event: str, payload: bytes, due: float, *, repeats: Action | None = None) -> None:
        self.event, self.payload, self.due = event, payload, due
        self.number = 0  # of its ack
        self.repeats = repeats  # the answered action that this is the same as
        self.answered = False
        self.paid: int | None = None

    def frame(self, number: int) -> bytes:
        """To be sent; the ack will say `number`."""
        self.number = number
        return text_frame(b'42%d["%b",%b]' % (number, self.event.encode(), self.payload))


class Habits(msgspec.Struct, frozen=True):
    """What kind of phone it is."""

    flaps: bool = False
    is_slow: bool = False
    is_creator: bool = False


class _Line(WitnessedPhone):
    """One connection of a person."""

    __slots__ = ("_person", "gone")

    def __init__(self, address: Address, auth: bytes, person: Person) -> None:
        super().__init__(address, auth, person.witness)
        self._person = person
        self.gone = asyncio.get_running_loop().create_future()

    def acked(self, ack_id: int, message: bytes) -> None:
        self._person.answered(ack_id, message)

    def lost(self) -> None:
        self._person.lost(self)
        if not self.gone.done():
            self.gone.set_result(None)


class Person:
    """`live` keeps them connected; `act` does something now or, while they are away, when they are back."""

    def __init__(self, user: int, target: Target, count: Count, witness: Witness, habits: Habits) -> None:
        self.user = user
        self.habits = habits
        self.witness = witness
        self.answers: list[Action] = []  # the last few
        self.kept = Reservoir(0)
        self.on_answer: Callable[[Person, Action, Answer], None] = lambda person, action, answer: None
        self._target = target
        self._token = target.token(str(user))
        self._count = count
        self._line: _Line | None = None
        self._waiting: dict[int, Action] = {}
        self._number = 0
        self._has_left = False
        self._leaves_no_more = False

    @property
    def is_online(self) -> bool:
        """Whether an action would go out at once."""
        return self._line is not None

    @property
    def waiting(self) -> list[Action]:
        """What has no answer yet."""
        return list(self._waiting.values())

    async def live(self) -> None:
        """Be connected, and again after each loss, until cancelled."""
        try:
            while True:
                line = await self._connected()
                self._line = line
                for action in self.waiting:
                    action.due = 0.0
                    line.say_now(action.frame(action.number))
                await self._stay(line)
                self._line = None
                self._count.note("reconnects")
                away = random.uniform(*AWAY_S) if self.habits.flaps else random.uniform(0, BACK_OFF_S)
                await asyncio.sleep(0 if self._leaves_no_more else away)
        finally:
            if self._line is not None:
                self._line.transport.abort()

    def lost(self, line: _Line) -> None:
        """The connection has ended: until there is another, what this person does waits."""
        if self._line is line:
            self._line = None

    def settle(self) -> None:
        """From now on be well-behaved: come back, stay, and read."""
        self._leaves_no_more = True
        if self._line is not None and not self._line.transport.is_closing():
            self._line.transport.resume_reading()

    def act(self, action: Action) -> None:
        """Do this, and keep it until it is answered."""
        self._number += 1
        self._waiting[self._number] = action
        frame = action.frame(self._number)
        self._count.sent += 1
        if self._line is None or self._line.transport.is_closing():
            action.due = 0.0
        else:
            self._line.say_now(frame)

    def answered(self, number: int, message: bytes) -> None:
        """An ack has come. A refusal that passes leaves nothing behind, so the action is over as if never sent."""
        action, answer = self._waiting.pop(number), answer_of(message)
        self._count.done += 1
        if action.due:
            self._count.waits.record(time.perf_counter() - action.due)
        if answer.ok:
            self._judge(action, answer, message)
        elif answer.error is not None and answer.error.is_passing:
            self._count.refused += 1
        else:
            self._count.fault(message)
        self.on_answer(self, action, answer)

    def _judge(self, action: Action, answer: Answer, message: bytes) -> None:
        award = answer.data.award if answer.data is not None else None
        action.paid = cents(award.points) if award is not None else None
        first = action.repeats
        if first is None:
            self.witness.acked += action.paid or 0
            self.answers = [*self.answers[1 - REMEMBERED :], action]
            if (place := self.kept.place()) is not None:
                self.kept.put(place, Kept(self.user, action.event, action.payload, action.paid))
        elif not answer.replayed or action.paid != first.paid:
            self._count.fault(b"not a replay: " + message)

    async def _connected(self) -> _Line:
        while True:
            line = _Line(self._target.address, self._auth(), self)
            try:
                return await connect(self._target.address, line)
            except (PhoneFailed, OSError, TimeoutError):
                self._count.note("failed connects")
                await asyncio.sleep(random.uniform(BACK_OFF_S / 2, BACK_OFF_S))

    async def _stay(self, line: _Line) -> None:
        """Return when the connection has ended, by us or by the server."""
        habits = self.habits
        if habits.flaps and not self._leaves_no_more:
            stays_s = random.expovariate(1 / STAYS_S) if self._has_left else random.uniform(0, FIRST_STAYS_S)
            await asyncio.wait([line.gone], timeout=stays_s)
            self._has_left = True
            line.transport.abort()
        while habits.is_slow and not (self._leaves_no_more or line.gone.done()):
            await asyncio.wait([line.gone], timeout=random.expovariate(1 / READS_S))
            if not (self._leaves_no_more or line.gone.done()):
                line.transport.pause_reading()
                await asyncio.sleep(random.uniform(*STALLS_S))
                if not line.transport.is_closing():
                    line.transport.resume_reading()
        await line.gone

    def _auth(self) -> bytes:
        auth = {"token": self._token}
        if self.witness.seq >= 0:
            auth |= {"lastSeq": str(self.witness.seq), "epoch": self.witness.epoch}
        return msgspec.json.encode(auth)
