"""What an upload comes to: values in, values out, one deed after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from handlers.awards import Award, points_for

AWARD: Final = "video_uploaded"

Reason = Literal["already_paid", "not_eligible"]


@dataclass(slots=True)
class Creator:
    """A locked user's running state: last `seq`, balance in minor units, last `n`; and their followers."""

    seq: int
    balance: int
    n: int
    followers: int


@dataclass(slots=True)
class Payment:
    """One ledger entry and its event: `points` minor units to the creator."""

    user_id: int
    seq: int
    n: int
    balance_before: int
    points: int
    video_id: str
    title: str
    origin: str


@dataclass(slots=True)
class Books:
    """Everything that a batch reads and changes. `decide` runs over it, one upload after the other."""

    award: Award
    creators: dict[int, Creator]
    owners: dict[str, int]  # of each video named
    paid: set[tuple[int, str]]  # (user, video) whose upload was paid before
    payments: list[Payment] = field(default_factory=list)
    titles: dict[str, str] = field(default_factory=dict)  # as they are from now on


@dataclass(slots=True)
class Outcome:
    """What the uploader is told; the id being another's, nothing happens."""

    is_others: bool
    points: int = 0
    new_balance: int = 0
    reason: Reason | None = None


def decide(books: Books, *, user_id: int, video_id: str, title: str, origin: str) -> Outcome:
    """Record the upload in the books and return its outcome; `origin` names the request key.

    The video exists by now, as the user's or as another's who came first.
    """
    if books.owners[video_id] != user_id:
        return Outcome(is_others=True)
    books.titles[video_id] = title
    creator = books.creators[user_id]
    if (user_id, video_id) in books.paid:
        return Outcome(is_others=False, reason="already_paid")
    points = points_for(books.award, creator.followers)
    if not points:
        return Outcome(is_others=False, reason="not_eligible")
    books.paid.add((user_id, video_id))
    creator.seq += 1
    creator.n += 1
    books.payments.append(Payment(user_id, creator.seq, creator.n, creator.balance, points, video_id, title, origin))
    creator.balance += points
    return Outcome(is_others=False, points=points, new_balance=creator.balance)
