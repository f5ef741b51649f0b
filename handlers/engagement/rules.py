"""What a batch of likes, views, shares and comments comes to: values in, values out, one deed after the other."""

from __future__ import annotations

from datetime import date
from typing import Final, Literal

import msgspec

from handlers.awards import Awards, points_for

LIKE: Final = 1
VIEW: Final = 2
SHARE: Final = 3
COMMENT: Final = 4

KIND_OF: Final = {
    "video:like": LIKE,
    "video:unlike": LIKE,
    "video:view": VIEW,
    "video:share": SHARE,
    "video:comment": COMMENT,
}
ACTOR_AWARD: Final = {LIKE: "video_liked", VIEW: "video_viewed", SHARE: "video_shared", COMMENT: "comment_posted"}
CREATOR_AWARD: Final = {LIKE: "like_received", VIEW: "view_received", SHARE: "share_received"}
TOLD_OF: Final = frozenset({LIKE, SHARE})  # views notify nobody
MOST_ACTORS_NAMED: Final = 10
MOST_ID_LENGTH: Final = 64
TOTALS_OF: Final = "video:"  # and a video's id: the live topic of its totals

Reason = Literal["own_video", "already_paid", "daily_cap", "not_eligible"]


def watched_video(topic: str) -> str | None:
    """The id of the video whose totals this live topic tells; None of other topics."""
    video_id = topic.removeprefix(TOTALS_OF)
    return video_id if video_id != topic and 1 <= len(video_id) <= MOST_ID_LENGTH and "\0" not in video_id else None


class Note(msgspec.Struct, gc=False):
    """What a batch knows and decides, many of them for each action: made in a fifth of a dataclass's time, and nothing
    to the garbage collector."""


class Account(Note):
    """A locked user's running state: last `seq`, balance in minor units, last `n`."""

    seq: int
    balance: int
    n: int


class Counter(Note):
    """A video's total of one kind, this batch included; `prompt`: its creator may hear of it at once."""

    total: int
    prompt: bool


class Engagement(Note):
    """The business key's state and what this batch adds to it."""

    count: int = 0
    actor_paid: bool = False
    creator_paid: bool = False
    notified: bool = False
    actor_points: int = 0
    creator_points: int = 0
    notified_now: bool = False


class PaidDay(Note):
    """The last UTC day on which an actor was paid for comments on a video, and how often."""

    day: date
    times: int


class Pending(Note):
    """What this batch leaves for the settler, of one creator, video and kind."""

    points: int = 0
    paid: int = 0
    change: int = 0
    notify: int = 0
    actors: list[int] = []
    username: str | None = None
    channel: str | None = None


class Intent(Note):
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
    text: str = ""  # of a comment
    is_blocked: bool = False  # the owner does not want to hear of the actor


class Payment(Note):
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


class Notice(Note):
    """One `video_like`, `video_share` or `video_comment` for the owner; `actors` newest first."""

    user_id: int
    seq: int
    kind: int
    actors: list[int]
    username: str | None
    video_id: str
    count: int
    channel: str | None
    origin: str
    text: str = ""  # of a comment


class Outcome(Note):
    """What the actor is told."""

    total: int
    already: bool
    points: int
    new_balance: int
    reason: Reason | None


VideoKind = tuple[str, int]
EngagementKey = tuple[int, str, int]


class Books(Note):
    """Everything that a batch reads and changes. `decide` runs over it, one intent after the other.

    `today`, the UTC day of the database's clock, and `paid_days` are there where the batch has comments.
    """

    awards: Awards
    accounts: dict[int, Account]
    counters: dict[VideoKind, Counter]
    engagements: dict[EngagementKey, Engagement]
    payments: list[Payment] = []
    notices: list[Notice] = []
    pending: dict[tuple[int, str, int], Pending] = {}
    counted: dict[VideoKind, int] = {}  # settled here: the change of the total
    told: set[VideoKind] = set()  # the creator heard of it in this batch
    comments: list[Intent] = []
    paid_days: dict[tuple[int, str], PaidDay] = {}
    today: date = date.min


def decide(books: Books, intent: Intent) -> Outcome:
    """Record the intent in the books and return its outcome.

    The actor's account must be in `books.accounts` (its head is locked); the owner's only where the
    counter is prompt, as it must be for a comment.
    """
    if intent.kind == COMMENT:
        return _comment(books, intent)
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


def _comment(books: Books, intent: Intent) -> Outcome:
    """A comment stands for itself: it counts and is told at once, each one, and pays up to the cap of the day."""
    place = (intent.video_id, COMMENT)
    engagement = books.engagements[intent.actor_id, *place]
    engagement.count += 1
    books.counters[place].total += 1
    books.counted[place] = books.counted.get(place, 0) + 1
    books.comments.append(intent)
    if intent.actor_id != intent.owner_id and not intent.is_blocked:
        _tell(books, intent)
    reason = _comment_reason(books, intent)
    points = balance = 0
    if reason is None:
        points = _pay_actor(books, intent, engagement)
        balance = books.accounts[intent.actor_id].balance
        paid = _paid_day(books, intent)
        paid.times += 1
        books.paid_days[intent.actor_id, intent.video_id] = paid
    return Outcome(books.counters[place].total, False, points, balance, reason)


def _comment_reason(books: Books, intent: Intent) -> Reason | None:
    """Why a comment is not paid; None where it is. Those before it that were not paid don't fill the day."""
    award = books.awards[ACTOR_AWARD[COMMENT]]
    if intent.actor_id == intent.owner_id:
        return "own_video"
    if award.daily_cap is not None and _paid_day(books, intent).times >= award.daily_cap:
        return "daily_cap"
    return None if points_for(award, intent.following) else "not_eligible"


def _paid_day(books: Books, intent: Intent) -> PaidDay:
    """What was paid today. A clock that was put back begins no day again."""
    paid = books.paid_days.get((intent.actor_id, intent.video_id))
    return paid if paid is not None and paid.day >= books.today else PaidDay(books.today, 0)


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
    if intent.is_blocked:
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
        _tell(books, intent)
    if earned:
        _pay(books, intent, intent.owner_id, earned, CREATOR_AWARD[intent.kind], "creator")
    if tell or earned:
        books.told.add(place)
        counter.prompt = False  # what follows within the second is gathered


def _tell(books: Books, intent: Intent) -> None:
    account = books.accounts[intent.owner_id]
    account.seq += 1
    books.notices.append(
        Notice(
            intent.owner_id, account.seq, intent.kind, [intent.actor_id], intent.username,
            intent.video_id, 1, intent.channel, intent.origin, intent.text,
        )
    )  # fmt: skip


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
