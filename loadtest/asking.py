"""Phones that ask and are answered, as fast as they are answered (a closed loop) or at a rate (an open one)."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, ClassVar, Final, Generic, TypeVar

from loadtest.crew import Checked, Part, Share, Target, pace
from loadtest.phone import connect_all, text_frame
from loadtest.promises import Kept, Reservoir
from loadtest.witness import CHAIN, NO_GAP, Answer, Witness, WitnessedPhone

ANY_NUMBER: Final = sys.maxsize  # of requests


class Asker(WitnessedPhone):
    """One user, whose requests have numbers, which are those of their acks too. A subclass says what it asks (`event`,
    `payload`) and what it makes of the answer (`judge`)."""

    __slots__ = ("_asked_at", "_below", "_part", "next", "user")

    event: ClassVar[bytes]

    def __init__(self, part: Asking[Any], user: int, *, first: int = 0, below: int = ANY_NUMBER) -> None:
        """Requests are numbered from `first` on, and end `below`."""
        super().__init__(part.target.address, part.target.auth(user), part.witness(user))
        self.user = user
        self.next = first
        self._below = below
        self._part = part
        self._asked_at: dict[int, float] = {}

    def payload(self, number: int) -> bytes:
        """The JSON of a request, the same whenever it is asked for."""
        raise NotImplementedError

    def judge(self, number: int, message: bytes) -> None:
        """The answer to a request has come."""
        raise NotImplementedError

    def begin(self) -> None:
        """Ask for the first time; in a closed loop again whenever it is answered."""
        self.ask(time.perf_counter())

    def ask(self, due: float) -> None:
        """Ask the next; the wait is counted from `due`, when it should have been asked."""
        self.say_now(self._frame(due))

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to ask."""
        return self.next >= self._below

    @property
    def unanswered(self) -> list[float]:
        """When what has no ack yet should have been asked."""
        return list(self._asked_at.values())

    def acked(self, ack_id: int, message: bytes) -> None:
        part, now = self._part, time.perf_counter()
        count = part.count
        count.done += 1
        count.waits.record(now - self._asked_at.pop(ack_id))
        self.judge(ack_id, message)
        if part.is_closed_loop and not part.stopped and self.next < self._below:
            self.say(self._frame(now))

    def lost(self) -> None:
        if not self._part.stopped:
            self._part.count.fault("a connection was lost")

    # -- for judges --------------------------------------------------------------------------------------------------

    def keep(self, number: int, paid: int | None) -> None:
        """This one was acknowledged, and has paid so many cents; a few of many are asked again in the end."""
        kept = self._part.kept
        if (place := kept.place()) is not None:
            kept.put(place, Kept(self.user, self.event.decode(), self.payload(number), paid))

    def refused(self, answer: Answer, message: bytes) -> None:
        """This one was not acknowledged, as may be for now; anything else is a fault."""
        if answer.error is not None and answer.error.is_passing:
            self._part.count.refused += 1
        else:
            self._part.count.fault(message)

    def _frame(self, due: float) -> bytes:
        number, self.next = self.next, self.next + 1
        self._part.count.sent += 1
        self._asked_at[number] = due
        return text_frame(b'42%d["%b",%b]' % (number, self.event, self.payload(number)))


P = TypeVar("P", bound=Asker)


class Asking(Part, Generic[P]):
    """A part of askers, and what they share: all ask as fast as they are answered, or in turn at a rate of all parts'
    together. With `patience_s` their events are witnessed, and some of their requests kept."""

    def __init__(self, target: Target, share: Share, *, rate: float | None, patience_s: float = 0.0) -> None:
        super().__init__()
        self.target = target
        self.is_closed_loop = rate is None
        self.stopped = False
        self.phones: list[P] = []
        self.kept = Reservoir()
        self.order, self.chain = Checked(4, NO_GAP), Checked(3, CHAIN)
        self.patience_s = patience_s
        self._rate = None if rate is None else rate / share.of
        self._turn = 0

    def witness(self, user: int) -> Witness | None:
        """Of what this user is told, where promises are checked."""
        return Witness(user, self.order, self.chain) if self.patience_s else None

    @property
    def witnesses(self) -> dict[int, Witness]:
        """Of all users."""
        return {phone.user: phone.witness for phone in self.phones if phone.witness is not None}

    def send_one(self, due: float) -> bool:
        """Let the phone whose turn it is ask what was due then; False where it has nothing left."""
        phone = self.phones[self._turn % len(self.phones)]
        self._turn += 1
        if phone.is_done:
            return False
        phone.ask(due)
        return True

    async def begin(self) -> None:
        if self._rate is not None:
            self.pacing = asyncio.create_task(pace(self._rate, self.send_one, lambda: self.stopped))
            return
        for phone in self.phones:
            phone.begin()

    async def stop(self) -> None:
        self.stopped = True
        if self.pacing is not None:
            await self.pacing

    async def connect(self, phones: list[P]) -> None:
        """Let these in, in any order."""
        self.phones = await connect_all(self.target.address, phones.__getitem__, len(phones))

    def count_unanswered(self) -> None:
        """What never had an answer was a long wait, and a fault."""
        now = time.perf_counter()
        for phone in self.phones:
            for due in phone.unanswered:
                self.count.waits.record(now - due)
        self.count.faults += self.count.sent - self.count.done
