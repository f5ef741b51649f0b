"""A server that is none: it greets phones and answers as the test says, so that it can be slow, or lie."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import WSMsgType, web

SECRET = "a secret of at least thirty-two bytes"

# (connection, number of the ack, event, payload)
OnEvent = Callable[[web.WebSocketResponse, int, str, dict[str, Any]], Awaitable[None]]
OnRequest = Callable[[str, str, Any], tuple[int, Any]]  # (method, path, body): status and answer

NOTHING_STORED: dict[str, Any] = {
    "totalLikes": 0, "totalViews": 0, "totalShares": 0, "totalComments": 0, "seq": 0, "balances": [],
    "accepted": 0, "skipped": 0, "changed": 0, "unchanged": 0, "errors": [],
}  # fmt: skip


async def paid(socket: web.WebSocketResponse, number: int, event: str, payload: dict[str, Any]) -> None:
    """Whatever comes was done, and paid."""
    award = {"points": 1, "newBalance": number + 1}
    data = {"videoId": payload.get("videoId"), "total": 1, "already": False, "award": award}
    await socket.send_str(f"43{number}{json.dumps([{'ok': True, 'data': data}])}")


def nothing(method: str, path: str, body: Any) -> tuple[int, Any]:
    """Nothing is there; a retry is answered as if it were new."""
    if path.startswith("/v1/actions/"):
        return 200, {"ok": True, "data": {"already": False, "award": {"points": 1, "newBalance": 1}}}
    return 200, NOTHING_STORED


@asynccontextmanager
async def faking(on_event: OnEvent, on_request: OnRequest = nothing) -> AsyncIterator[int]:
    """The port of a server that answers so."""

    async def talk(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str('0{"sid":"s","upgrades":[],"pingInterval":25000,"pingTimeout":20000}')
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                continue
            if message.data.startswith("40"):
                await socket.send_str('40{"sid":"x"}')
                await socket.send_str('42["welcome",{"seq":0,"epoch":"e","complete":true}]')
                await socket.send_str('42["resumed",{"seq":0}]')
            elif message.data.startswith("42"):
                number, _, rest = message.data[2:].partition("[")
                event, payload = json.loads("[" + rest)
                await on_event(socket, int(number), event, payload)
        return socket

    async def answer(request: web.Request) -> web.Response:
        status, body = on_request(request.method, request.path, await request.json())
        return web.json_response(body, status=status)

    app = web.Application(client_max_size=1 << 24)
    app.router.add_get("/socket.io/", talk)
    app.router.add_route("*", "/v1/{rest:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
