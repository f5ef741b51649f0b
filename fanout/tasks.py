"""How this room starts tasks: only through the function that wiring hands in, so that every task has an owner."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Coroutine, Iterable
from typing import Any, Final, Protocol

CANCEL_AGAIN_S: Final = 0.1


class Spawn(Protocol):
    """Starts a task and keeps it (the event loop holds tasks weakly), reporting what it raises."""

    def __call__(self, work: Coroutine[Any, Any, None], /) -> asyncio.Task[None]: ...


class Backoff:
    """Waiting times in seconds that double from `first` to `most`, each shortened at random by up to a half, so that
    thousands who lost the same database don't return in step."""

    def __init__(self, *, first: float, most: float) -> None:
        self._first, self._most = first, most
        self._next = first

    def next(self) -> float:
        seconds, self._next = self._next, min(self._next * 2, self._most)
        return seconds * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._next = self._first


async def set_or_late(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or after so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel until they have ended. Until Python 3.12 `asyncio.wait_for`, which drivers use, may take a cancellation
    for its own."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
