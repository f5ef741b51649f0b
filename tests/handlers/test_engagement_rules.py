"""What likes, views and shares come to: against a model that knows nothing but history, and by tables."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.awards import Award, Awards
from handlers.engagement.rules import (
    ACTOR_AWARD,
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
}
VIDEOS: Final = {"a": 1, "b": 1, "c": 2}  # -> the owner; 1 and 2 act too
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
    )


def fresh_books(*, prompt: bool = True, awards: Awards = AWARDS) -> Books:
    places = itertools.product(VIDEOS, (LIKE, VIEW, SHARE))
    return Books(
        awards=awards,
        accounts={person: Account(seq=0, balance=0, n=0) for person in PEOPLE},
        counters={place: Counter(0, prompt) for place in places},
        engagements=defaultdict(Engagement),
    )


# -- against a model ---------------------------------------------------------------------------------


@dataclass
class Done:
    """One action of the past, with what came of it."""

    intent: Intent
    actor_points: int = 0
    creator_points: int = 0
    told: bool = False


@dataclass
class History:
    """The rules of spec 3, each answered by going through everything that ever happened."""

    past: list[Done] = field(default_factory=list)

    def act(self, intent: Intent) -> tuple[Done, dict[str, Any]]:
        done = Done(intent)
        before = self._times(intent.actor_id, intent.video_id, intent.kind)
        reason = None
        if intent.event != "video:unlike":
            own = intent.actor_id == intent.owner_id
            mine = [d for d in self.past if self._same(d.intent, intent)]
            if own:
                reason = "own_video"
            elif any(d.actor_points for d in mine):
                reason = "already_paid"
            elif intent.following < 100:
                reason = "not_eligible"
            else:
                done.actor_points = {LIKE: 100, VIEW: 100, SHARE: 200}[intent.kind]
            if not own and intent.owner_followers >= 1000 and not any(d.creator_points for d in mine):
                done.creator_points = {LIKE: 100, VIEW: 10, SHARE: 100}[intent.kind]
            is_new = intent.kind != LIKE or not before
            done.told = not own and intent.kind != VIEW and is_new and not any(d.told for d in mine)
        self.past.append(done)
        already = not before if intent.event == "video:unlike" else bool(before)
        return done, {"already": already, "reason": reason, "total": self.total(intent.video_id, intent.kind)}

    def total(self, video_id: str, kind: int) -> int:
        return sum(self._times(person, video_id, kind) for person in PEOPLE)

    def balance(self, person: int) -> int:
        """What the person has if everything that waits were paid."""
        return sum(
            d.actor_points * (d.intent.actor_id == person) + d.creator_points * (d.intent.owner_id == person)
            for d in self.past
        )

    def _times(self, person: int, video_id: str, kind: int) -> int:
        times = 0
        for intent in (d.intent for d in self.past):
            if (intent.actor_id, intent.video_id, intent.kind) == (person, video_id, kind):
                if kind == LIKE:
                    times = int(intent.event == "video:like")
                else:
                    times += 1
        return times

    @staticmethod
    def _same(one: Intent, other: Intent) -> bool:
        return (one.actor_id, one.video_id, one.kind) == (other.actor_id, other.video_id, other.kind)


intents = st.builds(
    intent_of,
    st.sampled_from(PEOPLE),
    st.sampled_from(EVENTS),
    st.sampled_from(sorted(VIDEOS)),
    following=st.sampled_from([0, 99, 100, 5000]),
    followers=st.sampled_from([0, 999, 1000, 5000]),
)
places = st.tuples(st.sampled_from(sorted(VIDEOS)), st.sampled_from([LIKE, VIEW, SHARE]))
# One batch: what it does, and which creators are popular just now.
batches = st.lists(st.tuples(st.lists(intents, max_size=12), st.sets(places)), max_size=5)


@given(batches)
def test_every_outcome_is_what_history_says(batches: list[tuple[list[Intent], set[VideoKind]]]) -> None:
    history = History()
    books = fresh_books()
    for batch, popular in batches:
        books = next_batch(books, popular)
        expected = [history.act(intent) for intent in batch]
        for intent, (done, answer) in zip(batch, expected, strict=True):
            outcome = decide(books, intent)
            assert outcome.points == done.actor_points
            assert {name: getattr(outcome, name) for name in ("already", "reason")} == {
                name: answer[name] for name in ("already", "reason")
            }
            assert outcome.total == answer["total"]
            assert outcome.new_balance == (books.accounts[intent.actor_id].balance if outcome.points else 0)
        check_batch(books, [done for done, _ in expected], popular)
    for person in PEOPLE:
        waiting = sum(p.points for (creator, _, _), p in SETTLED[id(books)].items() if creator == person)
        assert books.accounts[person].balance + waiting == history.balance(person)


SETTLED: dict[int, dict[tuple[int, str, int], Any]] = {}
