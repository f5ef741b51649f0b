"""The port: aiohttp's server on it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web

from gateway.http.log import server_log
from gateway.settings import Settings
from gateway.socket.door import server_options


async def listen(app: web.Application, settings: Settings, stack: AsyncExitStack, *, is_shared: bool) -> int:
    """Serve `app` until the stack is left; returns the port. `is_shared`: beside others of the same parent.

    Raises OSError where it can't be had."""
    server = settings.server
    runner = web.AppRunner(app, handle_signals=False, logger=server_log(), **server_options(settings.socket))
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(
        runner,
        server.host,
        server.port,
        backlog=_longest_backlog(),
        shutdown_timeout=1.0,
        reuse_port=is_shared or None,
    )
    await site.start()
    port: int = runner.addresses[0][1]
    return port


def _longest_backlog() -> int:
    """The system's maximum: with a short one a storm of connects becomes a storm of SYN retries."""
    try:
        return int(Path("/proc/sys/net/core/somaxconn").read_text())
    except (OSError, ValueError):
        return 4096
