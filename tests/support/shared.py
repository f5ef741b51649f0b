"""Events that many share, stored without the handler that takes them in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from handlers.events.rows import rows_of
from storage import broadcasts, inbox
from storage.broadcasts import Body, Broadcast
from storage.inbox import SharedEvent
from storage.statement import Write

if TYPE_CHECKING:
    from asyncpg import Connection

SOURCE = "feed"


async def insert_body(conn: Connection, body: Body, recipients: Iterable[int], *, applied: int = 0) -> int:
    """The id of its broadcast."""
    ids = await broadcasts.insert_broadcasts(conn, [Broadcast(SOURCE, body, list(recipients), applied)])
    return ids[SOURCE, body.id]


def refer(events: Sequence[SharedEvent], broadcast_id: int) -> list[Write]:
    """The writes of recipients' events."""
    return inbox.append_shared(rows_of(events, broadcast_id))
