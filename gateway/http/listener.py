"""The port: the porch on it, and aiohttp's server behind."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web

from gateway.http.log import server_log
from gateway.settings import Settings
from gateway.socket.door import SocketDoor, server_options
from gateway.socket.porch import Porch
from gateway.socket.wheel import Wheel


async def listen(
    app: web.Application, door: SocketDoor, wheel: Wheel, settings: Settings, stack: AsyncExitStack, *, is_shared: bool
) -> int:
    """Serve `app` and `door` until the stack is left; returns the port. `is_shared`: beside others of the same parent.

    Raises OSError where it can't be had."""
    runner = web.AppRunner(
        app, handle_signals=False, logger=server_log(), shutdown_timeout=1.0, **server_options(settings.socket)
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    assert runner.server is not None
    porch = Porch(door=door, http=runner.server, wheel=wheel, patience_s=settings.socket.header_timeout_s)
    stack.callback(porch.close)
    server = await asyncio.get_running_loop().create_server(
        porch,
        settings.server.host,
        settings.server.port,
        backlog=_longest_backlog(),
        reuse_port=is_shared or None,
    )
    stack.callback(server.close)
    port: int = server.sockets[0].getsockname()[1]
    return port


def _longest_backlog() -> int:
    """The system's maximum: with a short one a storm of connects becomes a storm of SYN retries."""
    try:
        return int(Path("/proc/sys/net/core/somaxconn").read_text())
    except (OSError, ValueError):
        return 4096
