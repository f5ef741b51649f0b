"""Runs batches of likes, views, shares and comments: resolve, read, decide, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from handlers.awards import Awards
from handlers.deed import Answer, BatchResult, Deed, Delivered, delivered, derived_id
from handlers.engagement import rules
from handlers.engagement.rows import comment_id_of, entry_of, event_of
from handlers.engagement.rules import (
    COMMENT,
    SHARE,
    Account,
    Books,
    Counter,
    Engagement,
    Intent,
    Outcome,
    PaidDay,
    VideoKind,
)
from handlers.engagement.wire import EngagementAck, PaidAward
from handlers.errors import Refusal
from handlers.keys import Keys
from handlers.money import LYK, as_number
from handlers.wire import encode
from storage import accruals, blocks, comments, engagement, inbox, ledger
from storage.accruals import Accrual
from storage.comments import StoredComment
from storage.engagement import Concerned, CounterChange, Reading, StoredEngagement
from storage.statement import Write, micros, write_together

if TYPE_CHECKING:
    from asyncpg import Connection


@dataclass(slots=True)
class EngagementConcern:
    """Whose videos the deeds are about, and the heads to lock: actors, and `told`: owners of what is commented on, and
    creators who are quiet. `blocked`: (owner, actor) where the owner does not want to hear of the actor."""

    videos: dict[VideoKind, Concerned]
    user_ids: set[int]
    told: set[int]
    blocked: set[tuple[int, int]]


class Ready(NamedTuple):
    """A deed that can be carried out: the heads that it needs are locked."""

    deed: Deed
    place: VideoKind
    video: Concerned

    @property
    def key(self) -> tuple[int, str, str, int, str]:
        """What its Reading is found by."""
        return self.deed.user_id, self.deed.action_id, *self.place, LYK


Answers = dict[Deed, bytes | Refusal | None]  # None: in the next batch


class EngagementHandler:
    """`video:like`, `video:unlike`, `video:view`, `video:share`, `video:comment`.

    `awards` gives the amounts that hold now. Batches above `prompt_batch` deeds leave quiet creators to
    the settler too: that is twice as fast, so promptness gives way before throughput.
    """

    def __init__(self, *, awards: Callable[[], Awards], prompt_batch: int = 64) -> None:
        self._awards = awards
        self._prompt_batch = prompt_batch

    async def resolve(self, conn: Connection, deeds: Sequence[Deed]) -> EngagementConcern:
        """Find the videos' owners and whether they are quiet; lock actors, and owners who hear of it at once."""
        videos = await engagement.list_concerned(conn, list(dict.fromkeys(map(_place, deeds))))
        told = {video.owner_id for (_, kind), video in videos.items() if kind == COMMENT}
        if len(deeds) <= self._prompt_batch:
            told |= {video.owner_id for video in videos.values() if video.quiet}
        # Hardly anybody has blocked somebody: whoever has is asked for by name.
        asked = {
            (video.owner_id, deed.user_id)
            for deed in deeds
            if (video := videos.get(_place(deed))) is not None and video.has_blocked
        }
        blocked = await blocks.list_blocks(conn, asked) if asked else set[tuple[int, int]]()
        return EngagementConcern(videos, told.union([deed.user_id for deed in deeds]), told, blocked)

    async def run(
        self, conn: Connection, deeds: Sequence[Deed], concern: EngagementConcern, heads: dict[int, int]
    ) -> BatchResult:
        """Carry out the deeds whose heads are locked; the others wait for the next batch."""
        answers: Answers = dict.fromkeys(deeds)
        events: list[Delivered] = []
        if ready := _ready(deeds, concern, heads, answers):
            # Of creators who hear of it at once more has to be known. Who is an actor too is none of them for that.
            with_creators = any(each.video.owner_id in concern.told for each in ready)
            readings = await engagement.list_readings(conn, [each.key for each in ready], with_creators=with_creators)
            now = readings[0].now
            assert now is not None, "the first row has it"
            batch = _Batch(self._awards(), heads, concern.blocked, now)
            if commented := dict.fromkeys((r.deed.user_id, r.place[0]) for r in ready if r.place[1] == COMMENT):
                batch.read_paid_days(await comments.list_paid_days(conn, list(commented)))
            batch.answer_all(ready, readings, answers)
            events = await batch.write(conn)
        return BatchResult([Answer(*each) for each in answers.items()], events)


def _place(deed: Deed) -> VideoKind:
    return deed.request.video_id, rules.KIND_OF[deed.event]


def _ready(deeds: Sequence[Deed], concern: EngagementConcern, heads: dict[int, int], answers: Answers) -> list[Ready]:
    """The deeds whose heads are locked. Where one waits for the next batch, so do all later ones of its connection:
    they have the same actor."""
    ready: list[Ready] = []
    waiting: set[int] = set()
    for deed in deeds:
        place = _place(deed)
        video = concern.videos.get(place)
        if deed.user_id not in heads or deed.user_id in waiting:
            continue
        if video is None:
            answers[deed] = Refusal("not_found", "There is no such video.", field="videoId")
        elif place[1] == COMMENT and video.owner_id not in heads:
            waiting.add(deed.user_id)
        else:
            ready.append(Ready(deed, place, video))
    return ready


class _Batch:
    """One batch under its locks: the books, the request keys, and what is to be written."""

    def __init__(self, awards: Awards, heads: dict[int, int], blocked: set[tuple[int, int]], now: datetime) -> None:
        self._heads = heads
        self._blocked = blocked
        self._books = Books(awards=awards, accounts={}, counters={}, engagements={})
        self._keys = Keys()
        self._touched: dict[rules.EngagementKey, int] = {}  # -> the creator of its video
        self._known: set[rules.EngagementKey] = set()  # those that are stored already
        self._now = now
        self._moment = str(now)  # a part of all origins, for a key comes free again after days

    def read_paid_days(self, paid: dict[tuple[int, str], tuple[date, int]]) -> None:
        """Enter what comments need beside: today, and how often they paid on which day."""
        self._books.today = self._now.astimezone(UTC).date()
        self._books.paid_days.update({pair: PaidDay(*last) for pair, last in paid.items()})

    def answer_all(self, ready: Sequence[Ready], readings: Sequence[Reading], answers: Answers) -> None:
        """Decide one deed after the other. A video may have changed hands before the locks: such a deed waits, and with
        it all later ones of its actor."""
        waiting: set[int] = set()
        for each, reading in zip(ready, readings, strict=True):
            actor_id = each.deed.user_id
            if actor_id in waiting or reading.owner_id not in (None, each.video.owner_id):
                waiting.add(actor_id)
                continue
            if reading.fingerprint is not None and reading.outcome is not None:
                self._keys.enter(each.deed, reading.fingerprint, reading.outcome)
            kept = self._keys.replay(each.deed)
            answers[each.deed] = kept if kept is not None else self._answer(each, reading)

    def _answer(self, ready: Ready, reading: Reading) -> bytes:
        deed = ready.deed
        self._enter(ready, reading)
        intent = self._intent(ready, reading)
        comment_id = str(comment_id_of(intent.origin)) if intent.kind == COMMENT else None
        outcome = _ack(intent.video_id, rules.decide(self._books, intent), comment_id)
        self._touched[deed.user_id, intent.video_id, intent.kind] = intent.owner_id
        self._keys.keep(deed, outcome, self._now)
        return outcome

    def _enter(self, ready: Ready, reading: Reading) -> None:
        """Enter what is stored into the books, unless the batch has changed it since: the accounts of locked users, the
        engagement, the total."""
        books, heads, (deed, place, video) = self._books, self._heads, ready
        actor_id, owner_id = deed.user_id, video.owner_id
        if actor_id not in books.accounts:
            books.accounts[actor_id] = Account(heads[actor_id], reading.balance, reading.n)
        is_told = reading.owner_id is not None and owner_id in heads
        if is_told and owner_id not in books.accounts:
            books.accounts[owner_id] = Account(heads[owner_id], reading.owner_balance, reading.owner_n)
        if place not in books.counters:
            prompt = is_told and reading.quiet
            books.counters[place] = Counter((reading.total or 0) if prompt else video.total, prompt)
        key = (actor_id, *place)
        if key not in books.engagements:
            if reading.counted is None:
                books.engagements[key] = Engagement()
                return
            self._known.add(key)
            books.engagements[key] = Engagement(
                reading.counted, bool(reading.actor_paid), bool(reading.creator_paid), bool(reading.notified)
            )

    def _intent(self, ready: Ready, reading: Reading) -> Intent:
        deed, (video_id, kind), video = ready
        return Intent(
            actor_id=deed.user_id,
            username=reading.username,
            following=reading.following,
            event=deed.event,
            kind=kind,
            video_id=video_id,
            title=video.title,
            channel=deed.request.channel if kind == SHARE else None,
            owner_id=video.owner_id,
            owner_followers=video.followers,
            origin=f"{deed.user_id}/{deed.action_id}/{self._moment}",
            text=deed.request.text if kind == COMMENT else "",
            is_blocked=bool(self._blocked) and (video.owner_id, deed.user_id) in self._blocked,
        )

    async def write(self, conn: Connection) -> list[Delivered]:
        """Store all that the deeds came to in one statement; return the events for delivery."""
        if not self._keys.has_news:
            return []
        now, books = self._now, self._books
        entries = [
            entry_of(payment, derived_id(f"{payment.origin}/{payment.action}"), now) for payment in books.payments
        ]
        notices = [event_of(notice, derived_id(f"{notice.origin}/notice"), now) for notice in books.notices]
        advanced = {
            user_id: account.seq for user_id, account in books.accounts.items() if account.seq != self._heads[user_id]
        }
        await write_together(
            conn,
            [
                *self._keys.writes(),
                *self._engagements(),
                *comments.insert_comments([_comment(intent, now) for intent in books.comments]),
                *ledger.post(entries),
                *inbox.append(notices, advanced),
                *engagement.add_to_counters(
                    [
                        CounterChange(*place, change, now if place in books.told else None)
                        for place, change in books.counted.items()
                    ]
                ),
                *accruals.insert_accruals(
                    [
                        Accrual(*key, p.points, p.paid, p.change, p.notify, p.actors, p.username, p.channel, now)
                        for key, p in books.pending.items()
                    ]
                ),
            ],
        )
        return delivered([*entries, *notices])

    def _engagements(self) -> list[Write]:
        """The writes of all states: the new ones, those that changed, and those of comments, which have the day
        beside."""
        new: list[StoredEngagement] = []
        changed: list[StoredEngagement] = []
        commented: list[tuple[StoredEngagement, tuple[date, int] | None]] = []
        now_us = micros(self._now)
        for key, owner_id in self._touched.items():
            state = self._books.engagements[key]
            stored = StoredEngagement(
                *key,
                state.count,
                state.actor_points,
                state.creator_points,
                state.actor_paid,
                state.creator_paid,
                owner_id,
                now_us if state.notified_now else None,
            )
            if key[2] == COMMENT:
                paid = self._books.paid_days.get(key[:2])
                commented.append((stored, (paid.day, paid.times) if paid else None))
            elif key in self._known:
                changed.append(stored)
            else:
                new.append(stored)
        return [
            *engagement.insert_engagements(new),
            *engagement.update_engagements(changed),
            *comments.insert_engagements(commented),
        ]


def _comment(intent: Intent, now: datetime) -> StoredComment:
    comment_id = comment_id_of(intent.origin)
    return StoredComment(intent.video_id, comment_id, intent.actor_id, intent.username, intent.text, now)


def _ack(video_id: str, outcome: Outcome, comment_id: str | None) -> bytes:
    award = PaidAward(as_number(outcome.points), as_number(outcome.new_balance)) if outcome.points else None
    reason: Any = outcome.reason if outcome.reason is not None else msgspec.UNSET
    ack = EngagementAck(video_id, outcome.total, outcome.already, award, reason, comment_id or msgspec.UNSET)
    return b'{"ok":true,"data":%b}' % encode(ack)
