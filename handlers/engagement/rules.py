"""What a batch of likes, views and shares comes to: values in, values out, one deed after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from handlers.awards import Awards, points_for

LIKE: Final = 1
VIEW: Final = 2
SHARE: Final = 3

KIND_OF: Final = {"video:like": LIKE, "video:unlike": LIKE, "video:view": VIEW, "video:share": SHARE}
ACTOR_AWARD: Final = {LIKE: "video_liked", VIEW: "video_viewed", SHARE: "video_shared"}
CREATOR_AWARD: Final = {LIKE: "like_received", VIEW: "view_received", SHARE: "share_received"}
TOLD_OF: Final = frozenset({LIKE, SHARE})  # views notify nobody
MOST_ACTORS_NAMED: Final = 10

Reason = Literal["own_video", "already_paid", "not_eligible"]


@dataclass(slots=True)
class Account:
    """A locked user's running state: last `seq`, balance in minor units, last `n`."""

    seq: int
    balance: int
    n: int


@dataclass(slots=True)
class Counter:
    """A video's total of one kind, this batch included; `prompt`: its creator may hear of it at once."""

    total: int
    prompt: bool


@dataclass(slots=True)
class Engagement:
    """The business key's state and what this batch adds to it."""

    count: int = 0
    actor_paid: bool = False
    creator_paid: bool = False
    notified: bool = False
    actor_points: int = 0
    creator_points: int = 0
    notified_now: bool = False


@dataclass(slots=True)
class Pending:
    """What this batch leaves for the settler, of one creator, video and kind."""

    points: int = 0
    paid: int = 0
    change: int = 0
    notify: int = 0
    actors: list[int] = field(default_factory=list)
    username: str | None = None
    channel: str | None = None


@dataclass(slots=True)
class Intent:
    """One action with the facts that it is judged by."""

    actor_id: int
    username: str
    following: int
    event: str
    kind: int
    video_id: str
    title: str
    channel: str | None
    owner_id: int
    owner_followers: int
    origin: str  # names the request key: ids of what it creates derive from it


@dataclass(slots=True)
class Payment:
    """One ledger entry and its event: `points` minor units to `user_id`."""

    user_id: int
    seq: int
    n: int
    balance_before: int
    points: int
    action: str
    video_id: str
    title: str
    user_type: Literal["viewer", "creator"]
    kind: int
    count: int
    total: int
    origin: str


@dataclass(slots=True)
class Notice:
    """One `video_like` or `video_share` for the owner; `actors` newest first."""

    user_id: int
    seq: int
    kind: int
    actors: list[int]
    username: str | None
    video_id: str
    count: int
    channel: str | None
    origin: str


@dataclass(slots=True)
class Outcome:
    """What the actor is told."""

    total: int
    already: bool
    points: int
    new_balance: int
    reason: Reason | None


VideoKind = tuple[str, int]
EngagementKey = tuple[int, str, int]


@dataclass(slots=True)
class Books:
    """Everything that a batch reads and changes. `decide` runs over it, one intent after the other."""

    awards: Awards
    accounts: dict[int, Account]
    counters: dict[VideoKind, Counter]
    engagements: dict[EngagementKey, Engagement]
    payments: list[Payment] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    pending: dict[tuple[int, str, int], Pending] = field(default_factory=dict)
    counted: dict[VideoKind, int] = field(default_factory=dict)  # settled here: the change of the total
    told: set[VideoKind] = field(default_factory=set)  # the creator heard of it in this batch


def decide(books: Books, intent: Intent) -> Outcome:
    """Record the intent in the books and return its outcome.

    The actor's account must be in `books.accounts` (its head is locked); the owner's only where the
    counter is prompt.
    """
    key = (intent.actor_id, intent.video_id, intent.kind)
    engagement = books.engagements[key]
    stood = engagement.count > 0
    if intent.event == "video:unlike":
        change = -engagement.count
        already = not stood
    else:
        change = 0 if stood and intent.kind == LIKE else 1
        already = stood
    engagement.count += change
    counter = books.counters[intent.video_id, intent.kind]
    counter.total += change
    if intent.event == "video:unlike":
        _count(books, intent, change, earned=0, tell=False)
        return Outcome(counter.total, already, 0, 0, None)
    reason = _reason(books.awards, intent, engagement)
    earned = _creator_points(books.awards, intent, engagement)
    tell = _is_told(intent, engagement, change)
    points = balance = 0
    if reason is None:
        points = _pay_actor(books, intent, engagement)
        balance = books.accounts[intent.actor_id].balance
    _count(books, intent, change, earned=earned, tell=tell)
    return Outcome(counter.total, already, points, balance, reason)


def _reason(awards: Awards, intent: Intent, engagement: Engagement) -> Reason | None:
    """Why the actor is not paid, in the order of spec 2; None where they are."""
    if intent.actor_id == intent.owner_id:
        return "own_video"
    if engagement.actor_paid:
        return "already_paid"
    if not points_for(awards[ACTOR_AWARD[intent.kind]], intent.following):
        return "not_eligible"
    return None


def _creator_points(awards: Awards, intent: Intent, engagement: Engagement) -> int:
    """Minor units that the creator earns by it, flagged as paid: judged in the action's own transaction."""
    if intent.actor_id == intent.owner_id or engagement.creator_paid:
        return 0
    points = points_for(awards[CREATOR_AWARD[intent.kind]], intent.owner_followers)
    if points:
        engagement.creator_paid = True
        engagement.creator_points += points
    return points


def _is_told(intent: Intent, engagement: Engagement, change: int) -> bool:
    """Whether the owner is told: of something new, and once in 24 h per actor and video."""
    if intent.kind not in TOLD_OF or not change or engagement.notified or intent.actor_id == intent.owner_id:
        return False
    engagement.notified = engagement.notified_now = True
    return True


def _pay_actor(books: Books, intent: Intent, engagement: Engagement) -> int:
    action = ACTOR_AWARD[intent.kind]
    points = books.awards[action].points
    engagement.actor_paid = True
    engagement.actor_points += points
    _pay(books, intent, intent.actor_id, points, action, "viewer")
    return points


def _count(books: Books, intent: Intent, change: int, *, earned: int, tell: bool) -> None:
    """Tell and pay the creator at once where they are quiet, else leave it to the settler."""
    if not (change or earned or tell):
        return
    place = (intent.video_id, intent.kind)
    counter = books.counters[place]
    if not counter.prompt:
        _leave_to_settler(books, intent, change, earned, tell)
        return
    books.counted[place] = books.counted.get(place, 0) + change
    if tell:
        account = books.accounts[intent.owner_id]
        account.seq += 1
        books.notices.append(
            Notice(
                intent.owner_id, account.seq, intent.kind, [intent.actor_id], intent.username,
                intent.video_id, 1, intent.channel, intent.origin,
            )
        )  # fmt: skip
    if earned:
        _pay(books, intent, intent.owner_id, earned, CREATOR_AWARD[intent.kind], "creator")
    if tell or earned:
        books.told.add(place)
        counter.prompt = False  # what follows within the second is gathered


def _leave_to_settler(books: Books, intent: Intent, change: int, earned: int, tell: bool) -> None:
    pending = books.pending.setdefault((intent.owner_id, intent.video_id, intent.kind), Pending())
    pending.points += earned
    pending.paid += earned > 0
    pending.change += change
    if tell:
        pending.notify += 1
        pending.actors = [intent.actor_id, *pending.actors[: MOST_ACTORS_NAMED - 1]]
        pending.username = intent.username
        pending.channel = intent.channel


def _pay(
    books: Books, intent: Intent, user_id: int, points: int, action: str, user_type: Literal["viewer", "creator"]
) -> None:
    account = books.accounts[user_id]
    account.seq += 1
    account.n += 1
    before, account.balance = account.balance, account.balance + points
    total = books.counters[intent.video_id, intent.kind].total
    books.payments.append(
        Payment(
            user_id, account.seq, account.n, before, points, action, intent.video_id, intent.title,
            user_type, intent.kind, 1, total, intent.origin,
        )
    )  # fmt: skip
