"""The settler: what waited for popular creators becomes one entry and one notification each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from handlers.deed import Delivered, delivered, fresh_id
from handlers.engagement.rows import entry_of, event_of
from handlers.engagement.rules import CREATOR_AWARD, MOST_ACTORS_NAMED, Account, Notice, Payment
from handlers.money import LYK
from storage import accruals, engagement, heads, inbox, ledger
from storage.accruals import Settlement
from storage.engagement import CounterChange
from storage.inbox import StoredEvent
from storage.ledger import Entry
from storage.statement import write_together

if TYPE_CHECKING:
    from asyncpg import Connection


class Settler:
    """Settles accruals, at most once a second per creator, video and kind, whichever node does it.

    It judges nothing: points were judged in each action's own transaction. A crash leaves the accruals
    to the next settler.
    """

    def __init__(self, *, most_places: int = 500) -> None:
        self._most_places = most_places  # in one transaction, which holds their creators' heads
        self.is_behind = False  # more was due than one transaction takes
        self.runs = 0  # for the metrics, as are settlements: sums that were posted
        self.settlements = 0

    async def settle(self, conn: Connection) -> list[Delivered]:
        """Settle what is due in one transaction; returns the committed events, [] where nothing was due."""
        self.runs += 1
        due = await accruals.list_due(conn, self._most_places)
        self.is_behind = False
        if not due:
            return []
        async with conn.transaction():
            seqs = await heads.lock(conn, {place.creator_id for place in due}, skip_locked=True)
            settlements = await accruals.take(conn, [place for place in due if place.creator_id in seqs], LYK)
            entries, notices = _told(settlements, seqs)
            events = delivered([*entries, *notices])
            await write_together(
                conn,
                [
                    *ledger.post(entries),
                    *inbox.append(notices, {event.user_id: event.seq for event in events}),
                    *engagement.add_to_counters(_counted(settlements)),
                ],
            )
        self.settlements += len(settlements)
        self.is_behind = bool(settlements) and len(due) == self._most_places
        return events


def _counted(settlements: Sequence[Settlement]) -> list[CounterChange]:
    """The change of each total. A video that changed hands may be settled with both its owners at once."""
    changes: dict[tuple[str, int], CounterChange] = {}
    for s in settlements:
        before = changes.get((s.video_id, s.kind), CounterChange(s.video_id, s.kind, 0, None))
        told_at = s.now if s.points or s.notify else before.paid_at
        changes[s.video_id, s.kind] = before._replace(change=before.change + s.change, paid_at=told_at)
    return list(changes.values())


def _told(settlements: Sequence[Settlement], seqs: dict[int, int]) -> tuple[list[Entry], list[StoredEvent]]:
    """One entry and one notification per settlement, in the order of each creator's `seq` and `n`."""
    entries: list[Entry] = []
    notices: list[StoredEvent] = []
    accounts: dict[int, Account] = {}
    for s in settlements:
        account = accounts.setdefault(s.creator_id, Account(seqs[s.creator_id], s.balance, s.n))
        if s.notify:
            account.seq += 1
            notice = Notice(
                s.creator_id, account.seq, s.kind, s.actors[:MOST_ACTORS_NAMED], s.username,
                s.video_id, s.notify, s.channel, "",
            )  # fmt: skip
            notices.append(event_of(notice, fresh_id(), s.now))
        if s.points:
            account.seq += 1
            account.n += 1
            payment = Payment(
                s.creator_id, account.seq, account.n, account.balance, s.points, CREATOR_AWARD[s.kind], s.video_id,
                s.title, "creator", s.kind, s.paid, s.total + s.change, "",
            )  # fmt: skip
            account.balance += s.points
            entries.append(entry_of(payment, fresh_id(), s.now))
    return entries, notices
