"""What likes, views, shares and comments come to: against a model that knows nothing but history, and by tables."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.awards import Award, Awards
from handlers.engagement.rules import (
    ACTOR_AWARD,
    COMMENT,
    CREATOR_AWARD,
    KIND_OF,
    LIKE,
    MOST_ACTORS_NAMED,
    SHARE,
    VIEW,
    Account,
    Books,
    Counter,
    Engagement,
    Intent,
    Outcome,
    PaidDay,
    VideoKind,
    decide,
)

AWARDS: Final[Awards] = {
    "video_liked": Award(100, 100),
    "video_viewed": Award(100, 100),
    "video_shared": Award(200, 100),
    "like_received": Award(100, 1000),
    "view_received": Award(10, 1000),
    "share_received": Award(100, 1000),
    "comment_posted": Award(200, 100, daily_cap=2),
}
KINDS: Final = (LIKE, VIEW, SHARE, COMMENT)
TODAY: Final = date(2026, 3, 2)
VIDEOS: Final = {"a": 1, "b": 2}  # -> the owner; 1 and 2 act too
PEOPLE: Final = range(1, 6)
EVENTS: Final = sorted(KIND_OF)


def intent_of(actor: int, event: str, video: str, *, following: int = 100, followers: int = 1000) -> Intent:
    return Intent(
        actor_id=actor,
        username=f"user_{actor}",
        following=following,
        event=event,
        kind=KIND_OF[event],
        video_id=video,
        title=video.upper(),
        channel=f"channel of {actor}" if event == "video:share" else None,
        owner_id=VIDEOS[video],
        owner_followers=followers,
        origin=f"{actor}/{event}",
        text=f"says {actor}" if event == "video:comment" else "",
    )


def fresh_books(*, prompt: bool = True, awards: Awards = AWARDS) -> Books:
    return Books(
        awards=awards,
        accounts={person: Account(seq=0, balance=0, n=0) for person in PEOPLE},
        counters={place: Counter(0, prompt) for place in itertools.product(VIDEOS, KINDS)},
        engagements=defaultdict(Engagement),
        today=TODAY,
    )


# -- against a model ---------------------------------------------------------------------------------


@dataclass
class Done:
    """One action of the past, with what came of it."""

    intent: Intent
    actor_points: int = 0
    creator_points: int = 0
    told: bool = False


class History:
    """The rules of spec 3, each answered by going through everything that ever happened."""

    def __init__(self) -> None:
        self._past: list[Done] = []
        self._today = 0  # the index from which on it is less than 24 h ago, and the same UTC day

    def a_day_passes(self) -> None:
        self._today = len(self._past)

    def act(self, intent: Intent) -> tuple[int, bool, str | None, int]:
        """(points, already, reason, total) that the actor must be told."""
        done, reason = Done(intent), None
        before = self._times(intent.actor_id, intent.video_id, intent.kind)
        if intent.event != "video:unlike":
            reason = self._pay_comment(done) if intent.kind == COMMENT else self._pay(done, before)
        self._past.append(done)
        already = not before if intent.event == "video:unlike" else before > 0 and intent.kind != COMMENT
        return done.actor_points, already, reason, self.total(intent.video_id, intent.kind)

    def _pay(self, done: Done, before: int) -> str | None:
        intent = done.intent
        if intent.actor_id == intent.owner_id:
            return "own_video"
        same = [d for d in self._past if _same(d.intent, intent)]
        if intent.owner_followers >= 1000 and not any(d.creator_points for d in same):
            done.creator_points = {LIKE: 100, VIEW: 10, SHARE: 100}[intent.kind]
        is_new = intent.kind != LIKE or not before
        done.told = (
            intent.kind != VIEW
            and is_new
            and not any(d.told for d in self._past[self._today :] if _same(d.intent, intent))
        )
        if any(d.actor_points for d in same):
            return "already_paid"
        if intent.following < 100:
            return "not_eligible"
        done.actor_points = {LIKE: 100, VIEW: 100, SHARE: 200}[intent.kind]
        return None

    def _pay_comment(self, done: Done) -> str | None:
        intent = done.intent
        if intent.actor_id == intent.owner_id:
            return "own_video"
        done.told = True
        if sum(d.actor_points > 0 for d in self._past[self._today :] if _same(d.intent, intent)) >= 2:
            return "daily_cap"
        if intent.following < 100:
            return "not_eligible"
        done.actor_points = 200
        return None

    def total(self, video_id: str, kind: int) -> int:
        return sum(self._times(person, video_id, kind) for person in PEOPLE)

    def balance(self, person: int) -> int:
        """What the person has once everything that waits is paid."""
        return sum(
            d.actor_points * (d.intent.actor_id == person) + d.creator_points * (d.intent.owner_id == person)
            for d in self._past
        )

    def times_told(self, person: int) -> int:
        return sum(d.told and d.intent.owner_id == person for d in self._past)

    def _times(self, person: int, video_id: str, kind: int) -> int:
        times = 0
        for intent in (d.intent for d in self._past):
            if (intent.actor_id, intent.video_id, intent.kind) == (person, video_id, kind):
                times = int(intent.event == "video:like") if kind == LIKE else times + 1
        return times


def _same(one: Intent, other: Intent) -> bool:
    return (one.actor_id, one.video_id, one.kind) == (other.actor_id, other.video_id, other.kind)


intents = st.builds(
    intent_of,
    st.sampled_from([1, 2, 3, 4]),
    st.sampled_from([*EVENTS, "video:like", "video:comment"]),  # these have the most to get wrong
    st.sampled_from(sorted(VIDEOS)),
    following=st.sampled_from([0, 99, 100, 5000]),
    followers=st.sampled_from([0, 999, 1000, 5000]),
)
places = st.tuples(st.sampled_from(sorted(VIDEOS)), st.sampled_from([LIKE, VIEW, SHARE]))
# One batch: what it does, which creators are popular just now, and whether it is another day.
batches = st.lists(st.tuples(st.lists(intents, max_size=12), st.sets(places), st.booleans()), max_size=5)


class Stage:
    """Carries what is stored from one batch to the next, as storage would."""

    def __init__(self) -> None:
        self.accounts = {person: Account(seq=0, balance=0, n=0) for person in PEOPLE}
        self.engagements: dict[tuple[int, str, int], Engagement] = {}
        self.settled: defaultdict[VideoKind, int] = defaultdict(int)
        self.waiting: defaultdict[VideoKind, int] = defaultdict(int)  # changes of totals, for the settler
        self.accrued: defaultdict[int, int] = defaultdict(int)  # points that wait for each creator
        self.told: defaultdict[int, int] = defaultdict(int)  # actors whom each creator was told of, or will be
        self.paid_days: dict[tuple[int, str], PaidDay] = {}
        self.today = TODAY
        self.comments: list[Intent] = []

    def open(self, batch: list[Intent], popular: set[VideoKind]) -> Books:
        """Books with what this batch may touch and nothing else: whoever is not locked has no account in them."""
        touched = {(intent.video_id, intent.kind) for intent in batch}
        assert not any(kind == COMMENT for _, kind in popular), "owners of what is commented on are always locked"
        locked = {intent.actor_id for intent in batch} | {VIDEOS[video] for video, _ in touched - popular}
        return Books(
            awards=AWARDS,
            accounts={person: msgspec.structs.replace(self.accounts[person]) for person in locked},
            counters={
                place: Counter(self.settled[place] + self.waiting[place] * (place in popular), place not in popular)
                for place in touched
            },
            engagements={
                key: msgspec.structs.replace(
                    self.engagements.get(key, Engagement()), actor_points=0, creator_points=0, notified_now=False
                )
                for key in {(intent.actor_id, intent.video_id, intent.kind) for intent in batch}
            },
            paid_days={pair: msgspec.structs.replace(paid) for pair, paid in self.paid_days.items()},
            today=self.today,
        )

    def a_day_passes(self) -> None:
        """What storage says of `notified` is true for 24 h; and it is another UTC day."""
        self.today += timedelta(days=1)
        for engagement in self.engagements.values():
            engagement.notified = False

    def close(self, books: Books) -> None:
        """Store what the batch came to, having checked that it can be stored."""
        self._check_numbers(books)
        self.accounts.update(books.accounts)
        self.engagements.update(books.engagements)
        self.paid_days.update(books.paid_days)
        self.comments += books.comments
        for place, change in books.counted.items():
            self.settled[place] += change
        for (creator, video, kind), pending in books.pending.items():
            assert creator == VIDEOS[video]
            assert len(pending.actors) == min(pending.notify, MOST_ACTORS_NAMED)
            assert (pending.points > 0) == (pending.paid > 0)
            self.waiting[video, kind] += pending.change
            self.accrued[creator] += pending.points
            self.told[creator] += pending.notify
        for notice in books.notices:
            self.told[notice.user_id] += notice.count

    def _check_numbers(self, books: Books) -> None:
        """`seq` and `n` without a gap, the chain of balances unbroken, flags equal to what was paid."""
        for person, account in books.accounts.items():
            before = self.accounts[person]
            mine = [payment for payment in books.payments if payment.user_id == person]
            notices = [notice for notice in books.notices if notice.user_id == person]
            assert [p.n for p in mine] == list(range(before.n + 1, account.n + 1))
            assert sorted(event.seq for event in [*mine, *notices]) == list(range(before.seq + 1, account.seq + 1))
            for payment in mine:
                assert payment.balance_before == before.balance
                before = msgspec.structs.replace(before, balance=before.balance + payment.points)
            assert account.balance == before.balance
        flagged = sum(e.actor_points + e.creator_points for e in books.engagements.values())
        paid = sum(p.points for p in books.payments) + sum(p.points for p in books.pending.values())
        assert flagged == paid


@given(batches)
def test_every_outcome_is_what_history_says(batches: list[tuple[list[Intent], set[VideoKind], bool]]) -> None:
    history, stage = History(), Stage()
    for batch, popular, another_day in batches:
        if another_day:
            history.a_day_passes()
            stage.a_day_passes()
        # A creator for whom something waits is not quiet; the settler has not come by yet.
        popular |= {place for place, change in stage.waiting.items() if change}
        books = stage.open(batch, popular)
        for intent in batch:
            points, already, reason, total = history.act(intent)
            outcome = decide(books, intent)
            # The total counts what waits as of the batch's start; what this batch leaves is in it too.
            assert (outcome.points, outcome.already, outcome.reason, outcome.total) == (points, already, reason, total)
            assert outcome.new_balance == (books.accounts[intent.actor_id].balance if points else 0)
        stage.close(books)
    for person in PEOPLE:
        assert stage.accounts[person].balance + stage.accrued[person] == history.balance(person)
        assert stage.told[person] == history.times_told(person)
    for place in itertools.product(VIDEOS, KINDS):
        assert stage.settled[place] + stage.waiting[place] == history.total(*place)
    assert stage.comments == [intent for batch, *_ in batches for intent in batch if intent.kind == COMMENT]


@given(st.lists(intents, max_size=30))
def test_a_creator_hears_at_once_only_once_a_batch(batch: list[Intent]) -> None:
    books = fresh_books()
    for intent in batch:
        decide(books, intent)
    creators = [(p.video_id, p.kind) for p in books.payments if p.user_type == "creator"]
    notices = [(notice.video_id, notice.kind) for notice in books.notices if notice.kind != COMMENT]
    assert len(creators) == len(set(creators))
    assert len(notices) == len(set(notices))
    assert {*creators, *notices} == books.told


# -- by tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "actor_action", "actor_points", "creator_action", "creator_points"),
    [
        ("video:like", "video_liked", 100, "like_received", 100),
        ("video:view", "video_viewed", 100, "view_received", 10),
        ("video:share", "video_shared", 200, "share_received", 100),
    ],
)
def test_amounts(event: str, actor_action: str, actor_points: int, creator_action: str, creator_points: int) -> None:
    books = fresh_books()
    outcome = decide(books, intent_of(5, event, "a"))
    assert outcome == Outcome(total=1, already=False, points=actor_points, new_balance=actor_points, reason=None)
    assert [(p.user_id, p.action, p.points, p.user_type) for p in books.payments] == [
        (5, actor_action, actor_points, "viewer"),
        (1, creator_action, creator_points, "creator"),
    ]


@pytest.mark.parametrize(
    ("following", "followers", "paid"),
    [(99, 999, []), (100, 999, [5]), (99, 1000, [1]), (100, 1000, [5, 1]), (0, 0, [])],
)
def test_both_eligibilities_are_judged_apart(following: int, followers: int, paid: list[int]) -> None:
    books = fresh_books()
    outcome = decide(books, intent_of(5, "video:like", "a", following=following, followers=followers))
    assert [payment.user_id for payment in books.payments] == paid
    assert outcome.reason == (None if 5 in paid else "not_eligible")
    assert [notice.user_id for notice in books.notices] == [1], "an action of somebody ineligible still notifies"
    assert outcome.total == 1, "and still counts"


@pytest.mark.parametrize("event", ["video:like", "video:view", "video:share"])
def test_nobody_is_paid_for_their_own_video(event: str) -> None:
    books = fresh_books()
    outcome = decide(books, intent_of(1, event, "a"))
    assert (outcome.reason, outcome.points, outcome.total) == ("own_video", 0, 1)
    assert not books.payments
    assert not books.notices
    assert not books.pending


def test_own_video_is_named_before_already_paid_and_that_before_not_eligible() -> None:
    books = fresh_books()
    books.engagements[1, "a", LIKE].actor_paid = True  # when the video was still another's
    assert decide(books, intent_of(1, "video:like", "a", following=0)).reason == "own_video"
    books.engagements[5, "a", LIKE].actor_paid = True
    assert decide(books, intent_of(5, "video:like", "a", following=0)).reason == "already_paid"


def test_like_unlike_like_pays_and_tells_once() -> None:
    books = fresh_books()
    events = ["video:like", "video:unlike", "video:like", "video:like", "video:unlike", "video:unlike"]
    outcomes = [decide(books, intent_of(5, event, "a")) for event in events]
    assert [(o.total, o.already, o.points, o.reason) for o in outcomes] == [
        (1, False, 100, None),
        (0, False, 0, None),
        (1, False, 0, "already_paid"),
        (1, True, 0, "already_paid"),
        (0, False, 0, None),
        (0, True, 0, None),
    ]
    assert len(books.payments) == 2
    assert len(books.notices) == 1


def test_liking_again_is_a_fresh_try_at_an_award() -> None:
    books = fresh_books()
    assert decide(books, intent_of(5, "video:like", "a", following=99, followers=999)).reason == "not_eligible"
    again = decide(books, intent_of(5, "video:like", "a"))
    assert (again.already, again.points, again.total) == (True, 100, 1)
    assert [payment.user_id for payment in books.payments] == [5]
    assert books.pending[1, "a", LIKE].points == 100, "the creator has just heard of the first like"
    assert (len(books.notices), books.pending[1, "a", LIKE].notify) == (1, 0), "a like that stands is no news"


def test_views_and_shares_can_be_repeated_and_each_counts() -> None:
    books = fresh_books()
    for event in ("video:view", "video:share"):
        outcomes = [decide(books, intent_of(5, event, "a")) for _ in range(3)]
        assert [(o.total, o.already, o.reason) for o in outcomes] == [
            (1, False, None),
            (2, True, "already_paid"),
            (3, True, "already_paid"),
        ]
    assert [notice.kind for notice in books.notices] == [SHARE], "a view notifies nobody, a share once in 24 h"


def test_who_was_told_within_a_day_is_not_told_again() -> None:
    books = fresh_books()
    books.engagements[5, "a", LIKE].notified = True
    decide(books, intent_of(5, "video:like", "a"))
    assert not books.notices
    assert not books.engagements[5, "a", LIKE].notified_now


def test_the_first_goes_at_once_and_the_rest_is_gathered() -> None:
    books = fresh_books()
    for actor in (3, 4, 5):
        decide(books, intent_of(actor, "video:share", "a"))
    creator = [payment for payment in books.payments if payment.user_type == "creator"]
    assert [(p.points, p.count, p.total) for p in creator] == [(100, 1, 1)]
    assert [notice.actors for notice in books.notices] == [[3]]
    assert books.counted == {("a", SHARE): 1}
    [(key, pending)] = books.pending.items()
    assert key == (1, "a", SHARE)
    assert (pending.points, pending.paid, pending.change, pending.notify) == (200, 2, 2, 2)
    assert (pending.actors, pending.username, pending.channel) == ([5, 4], "user_5", "channel of 5"), "newest first"


def test_a_popular_creator_gets_nothing_at_once() -> None:
    books = fresh_books(prompt=False)
    del books.accounts[1]  # the creator's head is not locked
    outcome = decide(books, intent_of(5, "video:like", "a"))
    assert (outcome.points, outcome.total) == (100, 1)
    assert [payment.user_id for payment in books.payments] == [5]
    assert books.pending[1, "a", LIKE].points == 100
    assert not books.counted


def test_at_most_ten_actors_are_named() -> None:
    books = fresh_books(prompt=False)
    for actor in range(100, 130):
        books.accounts[actor] = Account(0, 0, 0)
        decide(books, intent_of(actor, "video:like", "a"))
    pending = books.pending[1, "a", LIKE]
    assert pending.actors == list(range(129, 119, -1))
    assert pending.notify == 30


def test_unlike_takes_a_waiting_like_out_of_the_total_but_not_its_points() -> None:
    books = fresh_books(prompt=False)
    decide(books, intent_of(5, "video:like", "a"))
    decide(books, intent_of(5, "video:unlike", "a"))
    pending = books.pending[1, "a", LIKE]
    assert (pending.change, pending.points, pending.paid) == (0, 100, 1)


def test_an_award_of_nothing_is_not_paid_and_can_be_paid_later() -> None:
    off = fresh_books(awards={action: Award(0, award.threshold) for action, award in AWARDS.items()})
    for event in ("video:like", "video:comment"):
        outcome = decide(off, intent_of(5, event, "a"))
        assert (outcome.points, outcome.reason) == (0, "not_eligible")
    assert not off.payments
    assert not off.engagements[5, "a", LIKE].actor_paid
    assert not off.engagements[5, "a", LIKE].creator_paid


# -- comments ----------------------------------------------------------------------------------------


def comment(books: Books, actor: int = 5, video: str = "a", **counts: int) -> tuple[int, str | None]:
    """(points, reason) of one more comment."""
    outcome = decide(books, intent_of(actor, "video:comment", video, **counts))
    assert not outcome.already
    return outcome.points, outcome.reason


def test_comments_pay_up_to_the_cap_and_count_and_tell_each_time() -> None:
    books = fresh_books()
    assert [comment(books) for _ in range(4)] == [(200, None), (200, None), (0, "daily_cap"), (0, "daily_cap")]
    assert books.counted == {("a", COMMENT): 4}
    assert books.engagements[5, "a", COMMENT].count == 4
    assert [(p.user_id, p.action, p.n, p.user_type) for p in books.payments] == [
        (5, "comment_posted", 1, "viewer"),
        (5, "comment_posted", 2, "viewer"),
    ]
    assert [(n.user_id, n.seq, n.text, n.actors) for n in books.notices] == [
        (1, seq, "says 5", [5]) for seq in (1, 2, 3, 4)
    ]
    assert not books.told, "a comment makes no creator less quiet"
    assert not books.pending


def test_each_actor_and_video_has_a_cap_of_its_own() -> None:
    books = fresh_books()
    for actor, video in ((5, "a"), (5, "b"), (4, "a")):
        assert [comment(books, actor, video) for _ in range(3)] == [(200, None), (200, None), (0, "daily_cap")]


def test_comments_that_are_not_eligible_don_t_fill_the_day() -> None:
    books = fresh_books()
    assert [comment(books, following=99) for _ in range(3)] == [(0, "not_eligible")] * 3
    assert [comment(books) for _ in range(2)] == [(200, None)] * 2
    assert comment(books, following=99) == (0, "daily_cap"), "which is named before"


def test_a_comment_on_one_s_own_video_is_recorded_and_nothing_else() -> None:
    books = fresh_books()
    assert comment(books, actor=1) == (0, "own_video")
    assert (len(books.comments), books.counted) == (1, {("a", COMMENT): 1})
    assert not books.notices
    assert not books.payments
    assert not books.paid_days


@pytest.mark.parametrize(
    ("paid_on", "times", "paid"),
    [
        (TODAY, 1, 1),
        (TODAY, 2, 0),
        (TODAY - timedelta(days=1), 2, 2),
        (TODAY + timedelta(days=1), 2, 0),  # the clock was put back: no day begins twice
        (TODAY + timedelta(days=1), 1, 1),
    ],
)
def test_a_day_begins_at_midnight_and_once(paid_on: date, times: int, paid: int) -> None:
    books = fresh_books()
    books.paid_days[5, "a"] = PaidDay(paid_on, times)
    assert [comment(books)[0] for _ in range(3)] == [200] * paid + [0] * (3 - paid)


@pytest.mark.parametrize(("cap", "paid"), [(0, 0), (1, 1), (None, 9)])
def test_the_cap_is_data(cap: int | None, paid: int) -> None:
    books = fresh_books(awards={**AWARDS, "comment_posted": Award(200, 100, cap)})
    assert [comment(books)[0] for _ in range(9)] == [200] * paid + [0] * (9 - paid)


def test_every_kind_has_its_two_awards_but_comments_which_only_pay_their_writer() -> None:
    assert set(ACTOR_AWARD) == {*CREATOR_AWARD, COMMENT} == set(KIND_OF.values()) == set(KINDS)
    assert set(AWARDS) == {*ACTOR_AWARD.values(), *CREATOR_AWARD.values()}
