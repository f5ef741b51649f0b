"""Runs batches of uploads: claim, read, decide, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from handlers.awards import Awards
from handlers.deed import Answer, BatchResult, Deed, Delivered, delivered, derived_id
from handlers.errors import Refusal
from handlers.keys import Keys
from handlers.money import LYK, as_number
from handlers.uploads import rules
from handlers.uploads.rules import AWARD, Books, Creator, Outcome, Payment
from handlers.uploads.wire import UploadAck, UploadAward
from handlers.wire import encode
from storage import inbox, ledger, uploads
from storage.ledger import ISSUANCE, Entry
from storage.statement import write_together
from storage.uploads import PaidUpload, Reading

if TYPE_CHECKING:
    from asyncpg import Connection


@dataclass(slots=True)
class UploadConcern:
    """The heads to lock: those who upload."""

    user_ids: set[int]


class UploadHandler:
    """`video:upload`. `awards` gives the amounts that hold now."""

    def __init__(self, *, awards: Callable[[], Awards]) -> None:
        self._awards = awards

    async def resolve(self, _: Connection, deeds: Sequence[Deed]) -> UploadConcern:
        """An upload concerns nobody but who uploads."""
        return UploadConcern({deed.user_id for deed in deeds})

    async def run(
        self, conn: Connection, deeds: Sequence[Deed], _: UploadConcern, heads: dict[int, int]
    ) -> BatchResult:
        """Carry out the uploads of locked users; the others wait for the next batch."""
        ready = [deed for deed in deeds if deed.user_id in heads]
        if not ready:
            return BatchResult([Answer(deed, None) for deed in deeds], [])
        keys = Keys()
        await keys.read(conn, ready)
        # Two users of two nodes may want the same id: whoever inserts first has it, and the other waits here.
        if claims := _claims(keys, ready):
            await uploads.claim(conn, claims)
        rows = await uploads.list_readings(conn, [(deed.user_id, deed.request.video_id, LYK) for deed in ready])
        readings = dict(zip(ready, rows, strict=True))
        books, now = _books(self._awards(), readings, heads), rows[0].now
        answers = {deed: _answer(books, keys, deed, now) for deed in ready}
        events = await _write(conn, books, keys, heads, now)
        return BatchResult([Answer(deed, answers.get(deed)) for deed in deeds], events)


def _claims(keys: Keys, deeds: Sequence[Deed]) -> dict[str, tuple[int, str]]:
    """video -> (owner, title), the first who wants it; a deed whose key is taken, also by one before it, takes none."""
    claims: dict[str, tuple[int, str]] = {}
    seen: set[tuple[int, str]] = set()
    for deed in deeds:
        key = (deed.user_id, deed.action_id)
        if key not in seen and not keys.is_taken(deed):
            claims.setdefault(deed.request.video_id, (deed.user_id, deed.request.title))
        seen.add(key)
    return claims


def _books(awards: Awards, readings: dict[Deed, Reading], heads: dict[int, int]) -> Books:
    return Books(
        award=awards[AWARD],
        creators={
            deed.user_id: Creator(heads[deed.user_id], reading.balance, reading.n, reading.followers)
            for deed, reading in readings.items()
        },
        owners={
            deed.request.video_id: reading.owner_id
            for deed, reading in readings.items()
            if reading.owner_id is not None
        },
        paid={(deed.user_id, deed.request.video_id) for deed, reading in readings.items() if reading.paid},
    )


def _answer(books: Books, keys: Keys, deed: Deed, now: datetime) -> bytes | Refusal:
    """Decide one upload, or answer it as its key was answered before."""
    kept = keys.replay(deed)
    if kept is not None:
        return kept
    video_id, origin = deed.request.video_id, f"{deed.user_id}/{deed.action_id}/{now}"
    outcome = rules.decide(books, user_id=deed.user_id, video_id=video_id, title=deed.request.title, origin=origin)
    if outcome.is_others:
        refusal = Refusal("conflict", "This id is another user's video.", field="videoId")
        return keys.keep_refusal(deed, refusal, now)
    ack = _ack(video_id, outcome)
    keys.keep(deed, ack, now)
    return ack


async def _write(conn: Connection, books: Books, keys: Keys, heads: dict[int, int], now: datetime) -> list[Delivered]:
    """Store all that the uploads came to in one statement; return the events for delivery."""
    if not keys.has_news:
        return []
    entries = [_entry(payment, now) for payment in books.payments]
    advanced = {user_id: creator.seq for user_id, creator in books.creators.items() if creator.seq != heads[user_id]}
    await write_together(
        conn,
        [
            *keys.writes(),
            *uploads.set_titles(books.titles),
            *uploads.insert_paid([PaidUpload(p.user_id, p.video_id, p.points, now) for p in books.payments]),
            *ledger.post(entries),
            *inbox.append([], advanced),
        ],
    )
    return delivered(entries)


def _entry(payment: Payment, now: datetime) -> Entry:
    metadata = {"videoId": payment.video_id, "videoTitle": payment.title, "userType": "creator"}
    return Entry(
        payment.user_id,
        payment.seq,
        LYK,
        payment.n,
        derived_id(f"{payment.origin}/{AWARD}"),
        AWARD,
        payment.points,
        payment.balance_before,
        payment.balance_before + payment.points,
        ISSUANCE,
        None,
        encode(metadata).decode(),
        now,
    )


def _ack(video_id: str, outcome: Outcome) -> bytes:
    award = UploadAward(as_number(outcome.points), as_number(outcome.new_balance)) if outcome.points else None
    reason: Any = outcome.reason if outcome.reason is not None else msgspec.UNSET
    return b'{"ok":true,"data":%b}' % encode(UploadAck(video_id, award, reason))
