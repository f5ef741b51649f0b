"""One run of the gateway, from its database to its exit status."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final

import structlog

from gateway import logs
from gateway.ground import database, stop_signal, topics
from gateway.settings import Settings
from gateway.supervisor import Supervisor
from gateway.wiring import Node
from gateway.workers.port import say_ready

log = structlog.get_logger()

# So many young objects before the garbage collector looks at them: more than a full batch of the lane has, which else
# walks through the collector several times while all of it is in use. Almost nothing here is ever a cycle.
YOUNG_OBJECTS: Final = 20_000


async def serve(settings: Settings, *, demo: bool) -> int:
    """Run the gateway until SIGTERM or SIGINT (0) or until one of its services dies (1)."""
    logs.configure(settings.log.level, settings.log.format)
    async with AsyncExitStack() as stack:
        supervisor = Supervisor()
        stack.push_async_callback(supervisor.stop)  # again further down; this one is for a start that fails
        dsn = await database(settings, stack, supervisor)
        await topics(settings)
        node = Node(settings, dsn, supervisor)
        await node.start(stack, demo=demo)

        async def tell(port: int) -> None:
            say_ready(settings.server.host, port)

        return await serve_until_the_end(node, supervisor, stack, tell)


async def serve_until_the_end(
    node: Node, supervisor: Supervisor, stack: AsyncExitStack, tell: Callable[[int], Awaitable[None]]
) -> int:
    """Open the doors, `tell` the port, and serve. The exit status: 0 after a drain, 1 where a service of the node has
    died. Who is told to end before this ends without a word to anybody."""
    stop = stop_signal()  # before anybody may count on a drain
    await tell(await node.listen(stack))
    _spare_the_collector()
    died = asyncio.create_task(supervisor.died())
    waited: list[asyncio.Future[Any]] = [stop, died]
    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    if stop.done():
        died.cancel()
        await node.drain()
        return 0
    log.error("service_died", reason=str(died.result()))
    return 1


def _spare_the_collector() -> None:
    """What a node consists of stays as long as it runs: the collector need not walk through it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)
