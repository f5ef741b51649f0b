"""One run of the gateway, from when it listens on."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack

from gateway.process import serve_until_the_end
from gateway.supervisor import Supervisor


class Node:
    """One that has nobody to drain. `on_listen` is what happens as soon as somebody may know of it."""

    drained = False

    def __init__(self, on_listen: Callable[[], None] = lambda: None) -> None:
        self._on_listen = on_listen

    async def listen(self, _: AsyncExitStack) -> int:
        self._on_listen()
        return 8080

    async def drain(self) -> None:
        self.drained = True


async def serve(node: Node, told: asyncio.Event) -> int:
    async def tell(port: int) -> None:
        assert port == 8080
        told.set()

    async with AsyncExitStack() as stack:
        return await serve_until_the_end(node, Supervisor(), stack, tell)


async def test_who_is_told_to_end_as_soon_as_it_listens_drains() -> None:
    def end() -> None:
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGTERM)

    node = Node(on_listen=end)
    assert await serve(node, asyncio.Event()) == 0
    assert node.drained


async def test_what_a_node_is_built_of_is_not_looked_at_again() -> None:
    """By the garbage collector; what comes later is."""
    built = [[] for _ in range(3)]
    threshold = gc.get_threshold()
    node = Node()
    told = asyncio.Event()
    run = asyncio.create_task(serve(node, told))
    try:
        await told.wait()
        await asyncio.sleep(0)
        looked_at = gc.get_objects()
        assert gc.get_freeze_count() > len(built)
        assert not any(each is part for each in looked_at for part in built)
        later: list[object] = []
        assert any(each is later for each in gc.get_objects())
    finally:
        gc.unfreeze()
        gc.set_threshold(*threshold)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await run == 0
    assert node.drained
