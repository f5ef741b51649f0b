"""What one user's phones are told, held against what they were told before: promises 3 and 4 from outside."""

from __future__ import annotations

from typing import Final

import msgspec

from loadtest.crew import Checked
from loadtest.phone import Address, Phone

NO_GAP: Final = "each phone's events in the order of seq, none missing, none twice"
CHAIN: Final = "each balance told begins where the one before ended, and moves by the points told"
CENTS: Final = 100
NOTIFICATION: Final = b'42["n'  # how a packet of one begins: no other event's name does so


class Moved(msgspec.Struct, rename="camel"):
    """What of an event's `data` is about money; of other events nothing."""

    points: float | None = None
    new_balance: float | None = None
    previous_balance: float | None = None
    currency: str | None = None


class Event(msgspec.Struct):
    """What a witness reads of an envelope."""

    seq: int | None
    type: str
    data: Moved


class Welcome(msgspec.Struct):
    """What a witness reads of `welcome`."""

    seq: int
    epoch: str
    complete: bool


class Award(msgspec.Struct, rename="camel"):
    """What an action paid."""

    points: float
    new_balance: float


class Outcome(msgspec.Struct):
    """What of an ack's `data` is looked at."""

    award: Award | None = None
    already: bool = False


class Failure(msgspec.Struct):
    """Why an action was refused."""

    code: str
    retryable: bool = False

    @property
    def is_passing(self) -> bool:
        """Whether the server only could not just then, as may be under load."""
        return self.code in _PASSING


class Answer(msgspec.Struct):
    """An acknowledgement."""

    ok: bool
    data: Outcome | None = None
    error: Failure | None = None
    replayed: bool = False


_PASSING: Final = frozenset({"rate_limited", "overloaded", "unavailable", "draining"})
_EVENT: Final = msgspec.json.Decoder(tuple[str, Event])
_WELCOME: Final = msgspec.json.Decoder(tuple[str, Welcome])
_ANSWER: Final = msgspec.json.Decoder(tuple[Answer])


def answer_of(message: bytes) -> Answer:
    """The ack in a packet `43<id>[…]`. Raises msgspec.MsgspecError."""
    return _ANSWER.decode(message[message.index(b"[") :])[0]


def cents(amount: float) -> int:
    """An amount of two decimals, exactly."""
    return round(amount * CENTS)


class Witness:
    """One user. `order` and `chain` are shared by all users of a part."""

    __slots__ = ("_chain", "_order", "_user", "acked", "balance", "earned", "epoch", "is_creator", "reloads", "seq")

    def __init__(self, user: int, order: Checked, chain: Checked, *, is_creator: bool = False) -> None:
        self._user, self._order, self._chain = user, order, chain
        self.is_creator = is_creator  # earns by what others do, too
        self.acked = 0  # cents that acks said were paid
        self.seq = -1  # the last one told; -1 before the first welcome
        self.epoch = ""
        self.balance: int | None = None  # cents, as last told
        self.earned = 0  # cents, since the first welcome
        self.reloads = 0

    def welcomed(self, message: bytes) -> None:
        """A connection begins: at `seq` where this is the first, or where the server says that it can't go on."""
        welcome = _WELCOME.decode(message[2:])[1]
        if self.seq < 0 or not welcome.complete:
            self.reloads += self.seq >= 0
            self.seq, self.balance = welcome.seq, None
        self.epoch = welcome.epoch

    def told(self, message: bytes) -> str:
        """An event has come; returns its type. Ephemeral ones have no `seq` and are not counted."""
        event = _EVENT.decode(message[2:])[1]
        if event.seq is not None:
            self._order.count += 1
            if event.seq != self.seq + 1:
                self._order.fault(f"user {self._user}: seq {event.seq} after {self.seq}")
            self.seq = max(self.seq, event.seq)
        if event.data.new_balance is not None and event.data.currency in (None, "LYK"):
            self._moved(event)
        return event.type

    @property
    def is_paid(self) -> bool:
        """Whether the points told are those that acks said were paid (a creator's: no less)."""
        return bool(self.reloads) or (self.earned >= self.acked if self.is_creator else self.earned == self.acked)

    def _moved(self, event: Event) -> None:
        data = event.data
        assert data.new_balance is not None
        new, before = cents(data.new_balance), cents(data.previous_balance or 0)
        points = cents(data.points) if data.points is not None else new - before
        self._chain.count += 1
        if self.balance not in (None, before) or abs(new - before) != points:
            told = f"{before} to {new} by {points} after {self.balance} (cents)"
            self._chain.fault(f"user {self._user}, seq {event.seq}: {told}")
        self.balance, self.earned = new, self.earned + new - before


class WitnessedPhone(Phone):
    """One of a user's phones. What it is told their witness hears, where they have one."""

    __slots__ = ("witness",)

    def __init__(self, address: Address, auth: bytes, witness: Witness | None) -> None:
        super().__init__(address, auth)
        self.witness = witness

    def welcomed(self, message: bytes) -> None:
        if self.witness is not None:
            self.witness.welcomed(message)

    def heard(self, message: bytes) -> None:
        if self.witness is not None and message.startswith(NOTIFICATION):
            self.witness.told(message)
