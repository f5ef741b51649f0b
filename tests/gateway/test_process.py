"""One run of the gateway, from when it listens on."""

from __future__ import annotations

import asyncio
import gc
import os
import signal

from gateway.process import serve_until_the_end
from gateway.supervisor import Supervisor


class Node:
    """One that has nobody to drain."""

    drained = False

    async def drain(self) -> None:
        self.drained = True


async def test_what_a_node_is_built_of_is_not_looked_at_again() -> None:
    """By the garbage collector; what comes later is."""
    built = [[] for _ in range(3)]
    threshold = gc.get_threshold()
    node = Node()
    run = asyncio.create_task(serve_until_the_end(node, Supervisor()))
    try:
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
