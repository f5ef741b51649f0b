"""Who is not there is told by somebody else."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Final

from gateway.clock.rhythm import Chore
from gateway.clock.session import Connect, OwnSession
from handlers.push.job import PushJob

PUSH_EVERY_S: Final = 0.5
LEAVE_EVERY_S: Final = 0.05


class PushClock:
    """Pushes to who is not there."""

    def __init__(self, *, connect: Connect, job: PushJob) -> None:
        self._session = OwnSession(connect)
        self._job = job

    async def push(self) -> None:
        """Serve until cancelled."""
        chore = Chore("push", self._push)
        with closing(self._session):
            while True:
                await asyncio.sleep(LEAVE_EVERY_S if self._job.is_leaving else PUSH_EVERY_S)
                await chore.attempt()

    async def leave(self) -> None:
        """Take nobody any more, and return when it is written down what has become of all who are being told."""
        self._job.is_leaving = True
        while self._job.in_flight:
            await asyncio.sleep(LEAVE_EVERY_S)

    async def _push(self) -> None:
        async with self._session as conn:
            await self._job.run(conn)
