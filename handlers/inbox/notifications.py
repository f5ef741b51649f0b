"""The notification list: what a person reads, as against what moves balances and chats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from handlers.errors import Refusal
from handlers.inbox.envelope import render
from handlers.inbox.wire import NotificationPage, SeenAnswer, SeenRequest
from storage import notifications
from storage.notifications import Seen
from storage.pool import session

if TYPE_CHECKING:
    from storage.pool import Pool

_FROM_THE_NEWEST: Final = 2**53


class NotificationsHandler:
    """`/v1/notifications`. Every answer is of one snapshot; each refuses `not_found` where there is no such user."""

    def __init__(self, *, pool: Pool) -> None:
        self._pool = pool

    async def list(self, user_id: int, cursor: str | None, limit: int) -> tuple[NotificationPage, int]:
        """A page, newest first, and the inbox's `seq`; the cursor is the last one's `seq`."""
        before = int(cursor) if cursor is not None else _FROM_THE_NEWEST
        async with session(self._pool) as conn:
            seen, events = await notifications.list_notifications(conn, user_id, before, limit + 1)
        stands = _known(seen)
        page = events[:limit]
        next_cursor = str(page[-1].seq) if len(events) > limit else None
        envelopes = [msgspec.Raw(render(event)) for event in page]
        return NotificationPage(envelopes, stands.unread, stands.seen_seq, next_cursor), stands.seq

    async def get_unread(self, user_id: int) -> tuple[SeenAnswer, int]:
        """How many are unread, and the inbox's `seq`."""
        async with session(self._pool) as conn:
            stands = _known(await notifications.fetch_seen(conn, user_id))
        return SeenAnswer(stands.seen_seq, stands.unread), stands.seq

    async def mark_seen(self, user_id: int, request: SeenRequest) -> SeenAnswer:
        """Everything up to `seq` was seen: cumulative, never above the head, never back."""
        async with session(self._pool) as conn:
            stands = _known(await notifications.mark_seen(conn, user_id, request.seq))
        return SeenAnswer(stands.seen_seq, stands.unread)


def _known(seen: Seen | None) -> Seen:
    if seen is None:
        raise Refusal("not_found", "This token is no user's.")
    return seen
