"""Reads of the inbox: `inbox:fetch`, `inbox:ack`, and how far a user's devices are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from handlers.errors import Refusal
from handlers.inbox.envelope import render
from handlers.inbox.rules import is_complete
from handlers.inbox.wire import AckAck, AckRequest, Device, FetchAck, FetchRequest, InboxState
from storage import heads, inbox
from storage.pool import session

if TYPE_CHECKING:
    from asyncpg import Connection

    from storage.pool import Pool


class InboxHandler:
    """Answers from the stored inbox. `devices_of` names the devices of a user that are connected, None
    standing for a connection that named none."""

    def __init__(self, *, pool: Pool, devices_of: Callable[[int], list[str | None]]) -> None:
        self._pool = pool
        self._devices_of = devices_of

    async def read_after(self, user_id: int, after: int, upto: int, limit: int) -> list[tuple[int, bytes]]:
        """(seq, envelope) with after < seq <= upto, ascending; what delivery's pump reads."""
        async with session(self._pool) as conn:
            events = await inbox.list_after(conn, user_id, after, upto, limit)
        return [(event.seq, render(event)) for event in events]

    async def fetch(self, user_id: int, request: FetchRequest) -> FetchAck:
        """One page of the inbox."""
        async with session(self._pool) as conn:
            _, seq, oldest = await _head(conn, user_id)
            if not is_complete(request.after_seq, seq, oldest):
                return FetchAck([], seq, oldest, complete=False)
            events = await inbox.list_after(conn, user_id, request.after_seq, seq, request.limit)
        return FetchAck([msgspec.Raw(render(event)) for event in events], seq, oldest, complete=True)

    async def ack(self, user_id: int, device_id: str | None, request: AckRequest) -> AckAck:
        """Record how far this device is; without a device it is only answered."""
        async with session(self._pool) as conn:
            if device_id:
                return AckAck(await inbox.mark_acked(conn, user_id, device_id, request.seq))
            _, seq, _ = await _head(conn, user_id)
            return AckAck(min(request.seq, seq))

    async def get_state(self, user_id: int) -> InboxState:
        """Head, oldest kept event and devices of a user, for backends."""
        async with session(self._pool) as conn:
            _, seq, oldest = await _head(conn, user_id)
            acked = dict(await inbox.list_devices(conn, user_id))
        connected = self._devices_of(user_id)
        names = sorted({*acked, *(name for name in connected if name)})
        devices = [Device(name, acked.get(name, 0), name in connected) for name in names]
        return InboxState(seq, oldest, bool(connected), devices)


async def _head(conn: Connection, user_id: int) -> tuple[int, int, int]:
    rows = await heads.list_heads(conn, [user_id])
    if not rows:
        raise Refusal("not_found", "There is no such user.", field="userId")
    return rows[0]
