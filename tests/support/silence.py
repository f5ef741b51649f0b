"""What asyncio says in the log about what a deed left behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any


async def in_silence(deed: Callable[[], Awaitable[None]]) -> None:
    """Do it. Fails where asyncio has a fault to tell when all that the deed made is gone: an exception that nobody has
    looked at is told by then, and not before."""
    faults: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    told_before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, fault: faults.append(fault))
    try:
        await deed()
        gc.collect()
        await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(told_before)
    assert faults == []
