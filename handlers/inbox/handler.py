"""Reads of the inbox: `inbox:fetch`, `inbox:ack`, and how far a user's devices are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from handlers.errors import Refusal
from handlers.inbox.envelope import render
from handlers.inbox.rules import is_complete
from handlers.inbox.wire import AckAck, AckRequest, Device, FetchAck, FetchRequest, InboxState
from storage import heads, inbox
from storage.inbox import Event
from storage.pool import session

if TYPE_CHECKING:
    from asyncpg import Connection

    from storage.pool import Pool


class InboxHandler:
    """Answers from the stored inbox. `connections_of` names (device, node) of each connection of a user; a device of
    `""` is one that was not named."""

    def __init__(self, *, pool: Pool, connections_of: Callable[[int], Awaitable[Sequence[tuple[str, str]]]]) -> None:
        self._pool = pool
        self._connections_of = connections_of

    async def fetch(self, user_id: int, request: FetchRequest) -> FetchAck:
        """One page of the inbox."""
        async with session(self._pool) as conn:
            _, seq, oldest = await _head(conn, user_id)
            if not is_complete(request.after_seq, seq, oldest):
                return FetchAck([], seq, oldest, complete=False)
            events = await inbox.list_after(conn, user_id, request.after_seq, seq, request.limit)
            if _is_overtaken(events, request.after_seq, seq):
                _, seq, oldest = await _head(conn, user_id)
                return FetchAck([], seq, oldest, complete=False)
        return FetchAck([msgspec.Raw(render(event)) for event in events], seq, oldest, complete=True)

    async def ack(self, user_id: int, device_id: str | None, request: AckRequest) -> AckAck:
        """Record how far this device is; without a device it is only answered."""
        async with session(self._pool) as conn:
            if device_id:
                return AckAck(await inbox.mark_acked(conn, user_id, device_id, request.seq))
            _, seq, _ = await _head(conn, user_id)
            return AckAck(min(request.seq, seq))

    async def get_state(self, user_id: int) -> tuple[InboxState, int]:
        """Head, oldest kept event, devices and nodes of a user, for backends; and the head once more."""
        async with session(self._pool) as conn:
            _, seq, oldest = await _head(conn, user_id)
            acked = dict(await inbox.list_devices(conn, user_id))
        held = await self._connections_of(user_id)
        connected, nodes = {device for device, _ in held}, sorted({node for _, node in held})
        names = sorted({*acked, *connected} - {""})
        devices = [Device(name, acked.get(name, 0), name in connected) for name in names]
        return InboxState(seq, oldest, bool(held), devices, nodes), seq


def _is_overtaken(events: Sequence[Event], after: int, seq: int) -> bool:
    """Whether retention came between reading the head and reading the page."""
    return events[0].seq != after + 1 if events else after < seq


async def _head(conn: Connection, user_id: int) -> tuple[int, int, int]:
    rows = await heads.list_heads(conn, [user_id])
    if not rows:
        raise Refusal("not_found", "There is no such user.", field="userId")
    return rows[0]
