"""What a batch of spends comes to: values in, values out, one after the other. Amounts are minor units."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from handlers.money import MAX_MINOR

RECEIVED: Final = {"gift_sent": "gift_received"}  # what a transfer's other half is called


@dataclass(slots=True)
class Wallet:
    """One account's running state: balance, what of it is reserved, last `n`."""

    balance: int
    reserved: int
    n: int

    @property
    def available(self) -> int:
        """What can be spent."""
        return self.balance - self.reserved


@dataclass(slots=True)
class Spend:
    """One wish to change a user's wallet by `change`, with the facts that it is judged by.

    `payee_id` is another user, who gets what leaves the first one's; else the platform is the other side, as
    `counter_account` says. `is_own`: the user asks for it, not a backend.
    """

    user_id: int
    currency: str
    change: int
    action: str
    counter_account: str
    metadata: dict[str, Any]
    origin: str  # names the request key: ids of what it creates derive from it
    reason: str | None = None  # None: the action's fixed text
    is_own: bool = True
    payee_id: int | None = None
    payee_account: str = ""  # how the payee's half names the payer's wallet
    payee_metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Movement:
    """One ledger entry. `origin` names its id; `transfer` the id of its transfer, None where it is the whole."""

    user_id: int
    seq: int
    currency: str
    n: int
    action: str
    points: int
    balance_before: int
    counter_account: str
    reason: str | None
    metadata: dict[str, Any]
    origin: str
    transfer: str | None

    @property
    def balance_after(self) -> int:
        """The wallet's balance with it."""
        return self.balance_before + self.points


@dataclass(slots=True)
class TooLittle:
    """The wallet does not hold what is asked of it."""

    need: int
    have: int


@dataclass(slots=True)
class Blocked:
    """To oneself, or by or to somebody suspended."""


@dataclass(slots=True)
class Full:
    """A balance would grow beyond what can be shown exactly."""


Outcome = Movement | TooLittle | Blocked | Full


@dataclass(slots=True)
class Books:
    """Everything that a batch reads and changes: each locked user's last `seq`, wallets by user and currency, and who
    is suspended."""

    seqs: dict[int, int]
    wallets: dict[tuple[int, str], Wallet]
    suspended: set[int]
    movements: list[Movement] = field(default_factory=list)


def decide(books: Books, spend: Spend) -> Outcome:
    """Carry out the spend in the books, whole or not at all. Its own movement is the outcome."""
    if is_blocked(books, spend):
        return Blocked()
    wallet = books.wallets[spend.user_id, spend.currency]
    if spend.change < 0 and wallet.available < -spend.change:
        return TooLittle(-spend.change, wallet.available)
    if wallet.balance + spend.change > MAX_MINOR:
        return Full()
    if spend.payee_id is None:
        return _move(books, spend, None)
    if books.wallets[spend.payee_id, spend.currency].balance - spend.change > MAX_MINOR:
        return Full()
    sent = _move(books, spend, f"{spend.origin}/{spend.action}")
    received = Spend(
        user_id=spend.payee_id,
        currency=spend.currency,
        change=-spend.change,
        action=RECEIVED[spend.action],
        counter_account=spend.payee_account,
        metadata=spend.payee_metadata,
        origin=spend.origin,
    )
    _move(books, received, sent.transfer)
    return sent


def is_blocked(books: Books, spend: Spend) -> bool:
    """Whether it is a fraud on the face of it. What backends do is not asked: who is suspended can be fined."""
    if not spend.is_own:
        return False
    return spend.payee_id == spend.user_id or not books.suspended.isdisjoint({spend.user_id, spend.payee_id})


def _move(books: Books, spend: Spend, transfer: str | None) -> Movement:
    wallet = books.wallets[spend.user_id, spend.currency]
    seq = books.seqs[spend.user_id] = books.seqs[spend.user_id] + 1
    before = wallet.balance
    wallet.balance += spend.change
    wallet.n += 1
    movement = Movement(
        spend.user_id, seq, spend.currency, wallet.n, spend.action, spend.change, before, spend.counter_account,
        spend.reason, spend.metadata, f"{spend.origin}/{spend.action}", transfer,
    )  # fmt: skip
    books.movements.append(movement)
    return movement
