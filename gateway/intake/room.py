"""How much of Kafka's may be in the lane at once."""

from __future__ import annotations

import asyncio
from typing import Final

WAIT_S: Final = 1.0


class Room:
    """So much weight, all partitions together; what is heavier than all of it goes in alone. The lane stays short for
    others, and while one batch is being carried out the next is made ready."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._freed = asyncio.Event()

    def is_full(self) -> bool:
        """Whether the next one has to wait."""
        return self._taken >= self._size

    def take(self, weight: int) -> None:
        """Somebody goes in."""
        self._taken += weight

    def give(self, weight: int) -> None:
        """And comes out."""
        self._taken -= weight
        if not self.is_full():
            self._freed.set()

    async def wait(self) -> None:
        """Return when somebody has come out since, or after a moment."""
        self._freed.clear()
        try:
            async with asyncio.timeout(WAIT_S):
                await self._freed.wait()
        except TimeoutError:
            pass
