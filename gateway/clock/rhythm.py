"""How a chore is done again and again, and what of its failures passes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from fanout.tasks import set_or_late
from storage.db import is_connection_lost, is_lock_timeout, is_retryable

log = structlog.get_logger()


class Chore:
    """Something to be done again and again. `name` is for the log."""

    def __init__(self, name: str, do: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._do = do
        self._went_well = True

    async def attempt(self) -> None:
        """Do it. What the database is not there for, or what met another node's, is tried again next time: only the
        first of such failures in a row is logged. Raises every other one."""
        try:
            await self._do()
            self._went_well = True
        except Exception as error:
            if not (is_connection_lost(error) or is_retryable(error) or is_lock_timeout(error)):
                raise
            if self._went_well:
                log.warning("chore_postponed", chore=self._name, error=type(error).__name__)
            self._went_well = False

    async def for_ever(self, every_s: float) -> None:
        """Serve until cancelled: it rests as long after each time."""
        while True:
            await asyncio.sleep(every_s)
            await self.attempt()

    async def when_woken(self, now: asyncio.Event, every_s: float) -> None:
        """Serve until cancelled: whenever `now` is set, and every so often anyway."""
        while True:
            await set_or_late(now, every_s)
            now.clear()
            await self.attempt()
