"""Events of backends, stored without the handler that takes them in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from handlers.events.rows import copies_of, rows_of
from storage import broadcasts, inbox
from storage.broadcasts import Body, Broadcast
from storage.inbox import CopiedRow, SharedEvent
from storage.statement import Write

if TYPE_CHECKING:
    from asyncpg import Connection

SOURCE = "feed"


async def insert_body(conn: Connection, body: Body, recipients: Iterable[int], *, applied: int = 0) -> int:
    """The id of its broadcast."""
    ids = await broadcasts.insert_broadcasts(conn, [Broadcast(SOURCE, body, list(recipients), applied)])
    return ids[SOURCE, body.id]


def refer(events: Sequence[SharedEvent], broadcast_id: int) -> list[Write]:
    """The writes of recipients' events whose body stands in `broadcasts`."""
    return inbox.append_shared(rows_of(events, broadcast_id), [], _heads(events))


def copy(events: Sequence[SharedEvent]) -> list[Write]:
    """The writes of recipients' events that have a copy of their body each."""
    copies: list[CopiedRow] = []
    for event in events:
        copies += copies_of([event], event.body, fingerprint_of(event.body))
    return inbox.append_shared([], copies, _heads(events))


def fingerprint_of(body: Body) -> bytes:
    """What stands for what was sent."""
    return body.id.encode().ljust(32)


def _heads(events: Sequence[SharedEvent]) -> dict[int, int]:
    return {event.user_id: event.seq for event in sorted(events, key=lambda event: event.seq)}
