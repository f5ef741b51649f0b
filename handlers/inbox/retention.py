"""Retention: inboxes keep their last events, and none for too long (spec 8.4)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from storage import broadcasts, retention
from storage.retention import Horizon, State

if TYPE_CHECKING:
    from asyncpg import Connection

WINDOW: Final = timedelta(minutes=1)  # looked at in one statement, where nobody has for longer
USERS_AT_ONCE: Final = 50  # trimmed in one transaction
USERS_IN_A_PAGE: Final = 1000  # of a sweep
_DAY_S: Final = 86_400.0


class Retention:
    """Trims inboxes to `keep_events` events and `keep_days` days, whichever is less; a pass in `every_s` seconds,
    whichever node does it. See storage/retention.py for how little a pass looks at."""

    def __init__(
        self,
        *,
        keep_events: int,
        keep_days: float,
        every_s: float,
        horizon: Callable[[Connection], Awaitable[Horizon]] = retention.fetch_horizon,
    ) -> None:
        self._keep_events = keep_events
        self._keep_s = keep_days * _DAY_S
        self._every_s = every_s
        self._horizon = horizon
        self.passes = 0  # for the metrics, as are trims: times that an inbox was shortened
        self.trims = 0

    async def run(self, conn: Connection) -> None:
        """One pass, unless one was begun a moment ago. It may be cut off anywhere: the next one makes up for it."""
        if not await retention.begin(conn, self._every_s):
            return
        self.passes += 1
        horizon = await self._horizon(conn)
        cutoff = horizon.now - timedelta(seconds=self._keep_s)
        state = await self._state(conn, horizon, cutoff)
        await self._make_up(conn)
        state = await self._count(conn, state, horizon.settled, cutoff)
        state = await self._age(conn, state, min(horizon.settled, cutoff), cutoff)
        await self._sweep(conn, state, cutoff)
        await broadcasts.delete_old(conn)

    async def _state(self, conn: Connection, horizon: Horizon, cutoff: datetime) -> State:
        """Where the last pass has stopped. For other settings than its own, and where the database's clock was put
        back, all users are gone through."""
        state = await retention.fetch_state(conn)
        of_others = state is None or (state.keep_events, state.keep_s) != (self._keep_events, self._keep_s)
        if state is not None and not of_others and state.counted_to <= horizon.now:
            return state
        state = State(self._keep_events, self._keep_s, 0, horizon.settled, min(horizon.settled, cutoff))
        await retention.start_sweep(conn, state)
        return state

    async def _make_up(self, conn: Connection) -> None:
        """Users whose heads somebody else held the last time. The clock is read again: whoever passed them over may
        have begun later than this pass."""
        last = 0
        while True:
            async with conn.transaction():
                owed = await retention.take_owed(conn, last, USERS_AT_ONCE)
                if not owed:
                    return
                cutoff = (await self._horizon(conn)).now - timedelta(seconds=self._keep_s)
                again = await retention.trim(conn, owed, self._keep_events, cutoff)
                await retention.owe(conn, again)
            await self._trim(conn, again, cutoff)
            last = max(owed)

    async def _count(self, conn: Connection, state: State, until: datetime, cutoff: datetime) -> State:
        while state.counted_to < until:
            end = min(until, state.counted_to + WINDOW)
            users = await retention.list_too_many(conn, state.counted_to, end, self._keep_events)
            await self._trim(conn, users, cutoff)
            state = state._replace(counted_to=end)
            await retention.mark(conn, state)
        return state

    async def _age(self, conn: Connection, state: State, until: datetime, cutoff: datetime) -> State:
        while state.aged_to < until:
            end = min(until, state.aged_to + WINDOW)
            users = await retention.list_too_old(conn, state.aged_to, end)
            await self._trim(conn, users, cutoff)
            state = state._replace(aged_to=end)
            await retention.mark(conn, state)
        return state

    async def _sweep(self, conn: Connection, state: State, cutoff: datetime) -> None:
        """Page by page for half of the time between two passes, so that the windows are not kept waiting."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._every_s / 2
        while state.swept_to is not None:
            users, last = await retention.list_to_sweep(
                conn, state.swept_to, USERS_IN_A_PAGE, self._keep_events, cutoff
            )
            await self._trim(conn, users, cutoff)
            state = state._replace(swept_to=last)
            await retention.mark(conn, state)
            if loop.time() >= deadline:
                return

    async def _trim(self, conn: Connection, user_ids: Collection[int], cutoff: datetime) -> None:
        """Ascending and a few at a time; who has very much to lose is come back to until nothing is left."""
        waiting = sorted(user_ids)
        self.trims += len(waiting)
        while waiting:
            again = await retention.trim(conn, waiting[:USERS_AT_ONCE], self._keep_events, cutoff)
            waiting = sorted(again) + waiting[USERS_AT_ONCE:]
