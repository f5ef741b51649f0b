"""The applier: what waits for thousands of recipients reaches them chunk by chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handlers.deed import Delivered
from handlers.events.rows import events_for, rows_of
from storage import broadcasts, heads, inbox
from storage.statement import write_together

if TYPE_CHECKING:
    from asyncpg import Connection


class Applier:
    """Applies broadcasts, `chunk_recipients` in one transaction: their heads are held for that long.

    Each chunk commits with how far it is, so that a crash leaves the rest to the next applier on any node, and no
    recipient gets it twice. Several appliers work at different broadcasts.
    """

    def __init__(self, *, chunk_recipients: int) -> None:
        self._chunk_recipients = chunk_recipients

    async def apply(self, conn: Connection) -> list[Delivered] | None:
        """One chunk of the oldest broadcast that nobody works at: the committed events. None where nothing waits."""
        async with conn.transaction():
            await heads.hold_briefly(conn)
            chunk = await broadcasts.lock_chunk(conn, self._chunk_recipients)
            if chunk is None:
                return None
            seqs = await heads.lock(conn, chunk.recipients)
            events = events_for(chunk.body, sorted(seqs), seqs)
            shared = inbox.append_shared(rows_of(events, chunk.broadcast_id), [], seqs if events else {})
            await write_together(conn, [*shared, broadcasts.mark_applied(chunk)])
        return [Delivered(event.user_id, event.seq, event) for event in events]
