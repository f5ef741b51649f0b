"""What many are told alike: each has a copy of something small, or refers to one row that all share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from uuid import UUID

from handlers.events.rows import events_for, rows_of
from handlers.events.rules import is_copied
from storage import broadcasts, inbox
from storage.broadcasts import Body, Broadcast
from storage.inbox import Event, SharedRow, StoredEvent
from storage.statement import Write

if TYPE_CHECKING:
    from asyncpg import Connection

OWN: Final = ""  # the source of bodies of our own: no backend's name is empty


async def tell_all(
    conn: Connection, bodies: Sequence[tuple[Body, Sequence[int]]], seqs: dict[int, int]
) -> tuple[list[Event], list[Write]]:
    """The next event of each body's recipients, ascending, whose heads are locked; and the writes that store them, but
    for the heads. `seqs` holds everybody's last `seq`, and is moved. A body's id is a UUID."""
    shared = [Broadcast(OWN, body, list(to), len(to)) for body, to in bodies if not is_copied(len(body.data), len(to))]
    ids = await broadcasts.insert_broadcasts(conn, shared) if shared else {}
    events: list[Event] = []
    copies: list[StoredEvent] = []
    references: list[SharedRow] = []
    for body, recipients in bodies:
        mine = events_for(body, recipients, seqs)
        if (OWN, body.id) in ids:
            references += rows_of(mine, ids[OWN, body.id])
            events += mine
        else:
            stored = [
                StoredEvent(
                    each.user_id, each.seq, UUID(body.id), body.type, body.event_type, body.data, body.timestamp
                )
                for each in mine
            ]
            copies += stored
            events += stored
    return events, [*inbox.append(copies, {}), *inbox.append_shared(references, [], {})]
