"""Runs batches of likes, views, shares and comments: resolve, read, decide, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from handlers.awards import Awards
from handlers.deed import Answer, BatchResult, Deed, Delivered, delivered, derived_id
from handlers.engagement import rules
from handlers.engagement.rows import comment_id_of, entry_of, event_of
from handlers.engagement.rules import COMMENT, Account, Books, Counter, Engagement, Intent, Outcome, PaidDay
from handlers.engagement.wire import EngagementAck, PaidAward
from handlers.errors import Refusal
from handlers.keys import Keys
from handlers.money import LYK, as_number
from handlers.wire import encode
from storage import accruals, comments, engagement, inbox, ledger
from storage.accruals import Accrual
from storage.comments import StoredComment
from storage.engagement import Concerned, CounterChange, Reading, StoredEngagement
from storage.statement import Write, write_together

if TYPE_CHECKING:
    from asyncpg import Connection


@dataclass(slots=True)
class EngagementConcern:
    """Whose videos the deeds are about, and the heads to lock: actors, owners of what is commented on, and creators
    who are quiet."""

    videos: dict[tuple[str, int], Concerned]
    user_ids: set[int]


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
        places = list({(deed.request.video_id, rules.KIND_OF[deed.event]): None for deed in deeds})
        videos = await engagement.list_concerned(conn, places)
        users = {deed.user_id for deed in deeds}
        if len(deeds) <= self._prompt_batch:
            users |= {video.owner_id for video in videos.values() if video.quiet}
        users |= {video.owner_id for (_, kind), video in videos.items() if kind == COMMENT}
        return EngagementConcern(videos, users)

    async def run(
        self, conn: Connection, deeds: Sequence[Deed], concern: EngagementConcern, heads: dict[int, int]
    ) -> BatchResult:
        """Carry out the deeds whose heads are locked; the others wait for the next batch."""
        answers: dict[Deed, bytes | Refusal | None] = {}
        ready: list[Deed] = []
        waiting: set[int] = set()
        for deed in deeds:
            place = (deed.request.video_id, rules.KIND_OF[deed.event])
            video = concern.videos.get(place)
            if deed.user_id not in heads or deed.user_id in waiting:
                answers[deed] = None  # and with it all later deeds of its connection: they have the same actor
            elif video is None:
                answers[deed] = Refusal("not_found", "There is no such video.", field="videoId")
            elif place[1] == COMMENT and video.owner_id not in heads:
                waiting.add(deed.user_id)
                answers[deed] = None
            else:
                ready.append(deed)
        events: list[Delivered] = []
        if ready:
            readings = dict(
                zip(ready, await engagement.list_readings(conn, [_key(deed) for deed in ready]), strict=True)
            )
            ready, late = _still_true(readings, concern)
            answers.update(dict.fromkeys(late))
            batch = _Batch(self._awards(), concern, heads, readings)
            batch.read(ready)
            if commented := [deed for deed in ready if deed.event == "video:comment"]:
                pairs = list({(deed.user_id, deed.request.video_id): None for deed in commented})
                batch.read_paid_days(await comments.list_paid_days(conn, pairs))
            for deed in ready:
                answers[deed] = batch.answer(deed)
            events = await batch.write(conn)
        return BatchResult([Answer(deed, answers[deed]) for deed in deeds], events)


def _key(deed: Deed) -> tuple[int, str, str, int, str]:
    return deed.user_id, deed.action_id, deed.request.video_id, rules.KIND_OF[deed.event], LYK


def _still_true(readings: dict[Deed, Reading], concern: EngagementConcern) -> tuple[list[Deed], list[Deed]]:
    """(deeds to carry out, deeds for the next batch). A video may have changed hands before the locks: such a deed
    waits, and with it all later ones of its actor."""
    ready: list[Deed] = []
    late: list[Deed] = []
    waiting: set[int] = set()
    for deed, reading in readings.items():
        owner = concern.videos[deed.request.video_id, rules.KIND_OF[deed.event]].owner_id
        if deed.user_id in waiting or reading.owner_id != owner:
            waiting.add(deed.user_id)
            late.append(deed)
        else:
            ready.append(deed)
    return ready, late


class _Batch:
    """One batch under its locks: the books, the request keys, and what is to be written."""

    def __init__(
        self, awards: Awards, concern: EngagementConcern, heads: dict[int, int], readings: dict[Deed, Reading]
    ) -> None:
        self._concern = concern
        self._heads = heads
        self._books = Books(awards=awards, accounts={}, counters={}, engagements={})
        self._readings = readings
        self._keys = Keys()
        self._touched: dict[rules.EngagementKey, int] = {}  # -> the creator of its video
        self._now: datetime | None = None
        self._moment = ""  # the same in words: a part of all origins, for a key comes free again after days

    def read(self, deeds: Sequence[Deed]) -> None:
        """Enter what is stored into the books: accounts of locked users, engagements, totals, keys."""
        books = self._books
        for deed in deeds:
            reading = self._readings[deed]
            if self._now is None:
                self._now, self._moment = reading.now, str(reading.now)
            place = (deed.request.video_id, rules.KIND_OF[deed.event])
            video = self._concern.videos[place]
            owner = video.owner_id
            if deed.user_id not in books.accounts:
                books.accounts[deed.user_id] = Account(self._heads[deed.user_id], reading.balance, reading.n)
            if owner in self._heads and owner not in books.accounts:
                books.accounts[owner] = Account(self._heads[owner], reading.owner_balance, reading.owner_n)
            if place not in books.counters:
                prompt = reading.quiet and owner in self._heads
                books.counters[place] = Counter((reading.total or 0) if prompt else video.total, prompt)
            key = (deed.user_id, *place)
            if key not in books.engagements:
                books.engagements[key] = Engagement(
                    reading.counted or 0,
                    bool(reading.actor_paid),
                    bool(reading.creator_paid),
                    bool(reading.notified),
                )
            if reading.fingerprint is not None and reading.outcome is not None:
                self._keys.enter(deed, reading.fingerprint, reading.outcome)

    def read_paid_days(self, paid: dict[tuple[int, str], tuple[date, int]]) -> None:
        """Enter what comments need beside: today, and how often they paid on which day."""
        assert self._now is not None
        self._books.today = self._now.astimezone(UTC).date()
        self._books.paid_days.update({pair: PaidDay(*last) for pair, last in paid.items()})

    def answer(self, deed: Deed) -> bytes | Refusal:
        """Decide one deed, or answer it as its key was answered before."""
        kept = self._keys.replay(deed)
        if kept is not None:
            return kept
        intent = self._intent(deed)
        comment_id = str(comment_id_of(intent.origin)) if intent.kind == COMMENT else None
        outcome = _ack(deed.request.video_id, rules.decide(self._books, intent), comment_id)
        self._touched[deed.user_id, intent.video_id, intent.kind] = intent.owner_id
        assert self._now is not None
        self._keys.keep(deed, outcome, self._now)
        return outcome

    def _intent(self, deed: Deed) -> Intent:
        reading = self._readings[deed]
        kind = rules.KIND_OF[deed.event]
        video = self._concern.videos[deed.request.video_id, kind]
        return Intent(
            actor_id=deed.user_id,
            username=reading.username,
            following=reading.following,
            event=deed.event,
            kind=kind,
            video_id=deed.request.video_id,
            title=video.title,
            channel=getattr(deed.request, "channel", None),
            owner_id=video.owner_id,
            owner_followers=reading.owner_followers,
            origin=f"{deed.user_id}/{deed.action_id}/{self._moment}",
            text=deed.request.text if kind == COMMENT else "",
        )

    async def write(self, conn: Connection) -> list[Delivered]:
        """Store all that the deeds came to in one statement; return the events for delivery."""
        if not self._keys.has_news or self._now is None:
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
                *self._engagements(now),
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

    def _engagements(self, now: datetime) -> list[Write]:
        """The writes of all states; those of comments, which have the day beside, where there are any."""
        stored = [self._stored(key, owner, now) for key, owner in self._touched.items()]
        if not self._books.comments:
            return engagement.insert_engagements(stored)
        days = self._books.paid_days
        commented = [
            (each, (paid.day, paid.times) if (paid := days.get((each.actor_id, each.video_id))) else None)
            for each in stored
            if each.kind == COMMENT
        ]
        others = [each for each in stored if each.kind != COMMENT]
        return [*engagement.insert_engagements(others), *comments.insert_engagements(commented)]

    def _stored(self, key: rules.EngagementKey, owner_id: int, now: datetime) -> StoredEngagement:
        state = self._books.engagements[key]
        return StoredEngagement(
            *key,
            state.count,
            state.actor_points,
            state.creator_points,
            state.actor_paid,
            state.creator_paid,
            owner_id,
            now if state.notified_now else None,
        )


def _comment(intent: Intent, now: datetime) -> StoredComment:
    comment_id = comment_id_of(intent.origin)
    return StoredComment(intent.video_id, comment_id, intent.actor_id, intent.username, intent.text, now)


def _ack(video_id: str, outcome: Outcome, comment_id: str | None) -> bytes:
    award = PaidAward(as_number(outcome.points), as_number(outcome.new_balance)) if outcome.points else None
    reason: Any = outcome.reason if outcome.reason is not None else msgspec.UNSET
    ack = EngagementAck(video_id, outcome.total, outcome.already, award, reason, comment_id or msgspec.UNSET)
    return b'{"ok":true,"data":%b}' % encode(ack)
