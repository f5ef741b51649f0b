"""Pages of many inboxes at once, as connections get them: what delivery's pumps read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from handlers.inbox.envelope import render_pages
from storage import inbox
from storage.pool import session

if TYPE_CHECKING:
    from fanout.pages import Page, Wanted
    from storage.pool import Pool


class InboxPages:
    """Reads and renders. The pool's sessions go by index (`storage.db.BY_INDEX`)."""

    def __init__(self, *, pool: Pool) -> None:
        self._pool = pool

    async def read(self, wanted: Sequence[Wanted], limit: int) -> Sequence[Page | None]:
        """A page of each, at most `limit` events; None where it is to be asked for again."""
        async with session(self._pool) as conn:
            pages = await inbox.list_pages(conn, wanted, limit)
        return render_pages(pages)
