"""Runs batches of follows and unfollows: resolve, read, decide, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from handlers.deed import Answer, BatchResult, Deed, Delivered, delivered, derived_id
from handlers.errors import Refusal
from handlers.keys import Keys
from handlers.profile import rules
from handlers.profile.rules import Books, Follow, Notice, Profile
from handlers.profile.wire import FollowAck, ProfileFollowedEvent
from handlers.wire import encode
from storage import follows, inbox, users
from storage.follows import CountChange, Reading, StoredFollow
from storage.inbox import StoredEvent
from storage.statement import write_together

if TYPE_CHECKING:
    from asyncpg import Connection


@dataclass(slots=True)
class ProfileConcern:
    """The heads to lock: followers and followed; all of them exist."""

    user_ids: set[int]


class ProfileHandler:
    """`profile:follow`, `profile:unfollow`. `counts_follows`: they are the master of follow counts."""

    def __init__(self, *, counts_follows: bool) -> None:
        self._counts_follows = counts_follows

    async def resolve(self, conn: Connection, deeds: Sequence[Deed]) -> ProfileConcern:
        """Lock those who follow and those who are followed, as far as they exist."""
        named = {deed.user_id for deed in deeds} | {deed.request.user_id for deed in deeds}
        return ProfileConcern(await users.list_known(conn, named))

    async def run(
        self, conn: Connection, deeds: Sequence[Deed], concern: ProfileConcern, heads: dict[int, int]
    ) -> BatchResult:
        """Carry out the deeds both of whose heads are locked; the others wait for the next batch."""
        answers: dict[Deed, bytes | Refusal | None] = {}
        ready: list[Deed] = []
        waiting: set[int] = set()
        for deed in deeds:
            if deed.user_id not in heads or deed.user_id in waiting:
                answers[deed] = None
            elif deed.request.user_id not in concern.user_ids:
                answers[deed] = Refusal("not_found", "There is no such user.", field="userId")
            elif deed.request.user_id not in heads:
                waiting.add(deed.user_id)
                answers[deed] = None
            else:
                ready.append(deed)
        events: list[Delivered] = []
        if ready:
            keys = Keys()
            await keys.read(conn, ready)
            readings = dict(zip(ready, await follows.list_readings(conn, [_pair(deed) for deed in ready]), strict=True))
            batch = _Batch(_books(self._counts_follows, readings, heads), keys, readings[ready[0]].now)
            for deed in ready:
                answers[deed] = batch.answer(deed)
            events = await batch.write(conn, heads)
        return BatchResult([Answer(deed, answers[deed]) for deed in deeds], events)


def _pair(deed: Deed) -> rules.Pair:
    return deed.user_id, deed.request.user_id


def _books(counts_follows: bool, readings: dict[Deed, Reading], heads: dict[int, int]) -> Books:
    return Books(
        counts_follows=counts_follows,
        seqs={user_id: heads[user_id] for deed in readings for user_id in _pair(deed)},
        profiles={deed.user_id: Profile(reading.username, reading.picture_url) for deed, reading in readings.items()},
        following={deed.user_id: reading.user_following for deed, reading in readings.items()},
        followers={deed.request.user_id: reading.followers for deed, reading in readings.items()},
        follows={
            _pair(deed): Follow(
                bool(reading.following), bool(reading.counted), bool(reading.notified), is_blocked=reading.is_blocked
            )
            for deed, reading in readings.items()
        },
    )


class _Batch:
    """One batch under its locks: the books, the request keys, and what is to be written."""

    def __init__(self, books: Books, keys: Keys, now: datetime) -> None:
        self._books = books
        self._keys = keys
        self._now = now

    def answer(self, deed: Deed) -> bytes | Refusal:
        """Decide one deed, or answer it as its key was answered before."""
        kept = self._keys.replay(deed)
        if kept is not None:
            return kept
        if deed.user_id == deed.request.user_id:
            refusal = Refusal("forbidden", "Nobody follows themselves.", field="userId")
            return self._keys.keep_refusal(deed, refusal, self._now)
        origin = f"{deed.user_id}/{deed.action_id}/{self._now}"
        already = rules.decide(self._books, _pair(deed), follows=deed.event == "profile:follow", origin=origin)
        outcome = b'{"ok":true,"data":%b}' % encode(FollowAck(deed.request.user_id, already))
        self._keys.keep(deed, outcome, self._now)
        return outcome

    async def write(self, conn: Connection, heads: dict[int, int]) -> list[Delivered]:
        """Store all that the deeds came to in one statement; return the events for delivery."""
        if not self._keys.has_news:
            return []
        books = self._books
        notices = [_event(notice, self._now) for notice in books.notices]
        await write_together(
            conn,
            [
                *self._keys.writes(),
                *follows.insert_follows([self._stored(pair) for pair in books.changed]),
                *follows.add_to_counts(
                    [
                        CountChange(user_id, c.following, c.followers, c.counted_following, c.counted_followers)
                        for user_id, c in books.counts.items()
                    ]
                ),
                *inbox.append(notices, {user: seq for user, seq in books.seqs.items() if seq != heads[user]}),
            ],
        )
        return delivered(notices)

    def _stored(self, pair: rules.Pair) -> StoredFollow:
        follow = self._books.follows[pair]
        return StoredFollow(
            *pair, follow.following, follow.counted, self._now if follow.notified_now else None, self._now
        )


def _event(notice: Notice, now: datetime) -> StoredEvent:
    profile = notice.profile
    data = ProfileFollowedEvent(notice.actor_id, profile.username, profile.picture_url, notice.followers)
    event_id = derived_id(f"{notice.origin}/notice")
    return StoredEvent(notice.user_id, notice.seq, event_id, "profile_followed", None, encode(data).decode(), now)
