"""The stock python-socketio server on aiohttp and uvloop: acks, a room, and nothing else. No tokens, no database.

Tuned as its documentation advises: WebSocket only, uvloop, no logging, no CORS checks, handlers in the reading task
where they don't wait. It runs on the same interpreter as the gateway.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import socketio  # type: ignore[import-untyped]
import uvloop
from aiohttp import web


def build() -> web.Application:
    """The same events as the gateway's, as far as they store nothing, and `POST /v1/events`."""
    server = socketio.AsyncServer(
        async_mode="aiohttp", transports=["websocket"], cors_allowed_origins=[], async_handlers=False
    )

    async def subscribe(sid: str, payload: dict[str, Any]) -> dict[str, Any]:
        await server.enter_room(sid, payload["topic"])
        return {"ok": True, "data": {"topic": payload["topic"]}}

    async def unsubscribe(sid: str, payload: dict[str, Any]) -> dict[str, Any]:
        return {"ok": True, "data": {"topic": payload["topic"]}}

    async def publish(request: web.Request) -> web.Response:
        event = await request.json()
        envelope = {
            "id": event["id"],
            "seq": None,
            "type": event["type"],
            "eventType": f"notification:{event['type']}",
            "recipientIds": [],
            "data": event["data"],
            "timestamp": "2026-01-01T00:00:00.000Z",
        }
        await server.emit("notification", envelope, room=event["topic"])
        return web.json_response({"accepted": 0, "skipped": 0})

    server.on("topic:subscribe", subscribe)
    server.on("topic:unsubscribe", unsubscribe)
    app = web.Application()
    server.attach(app)
    app.router.add_post("/v1/events", publish)
    return app


async def serve() -> None:
    """Serve on a free port of the loopback until the process is ended."""
    runner = web.AppRunner(build(), access_log=None)
    await runner.setup()
    backlog = int(Path("/proc/sys/net/core/somaxconn").read_text())
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=backlog).start()
    host, port = runner.addresses[0][:2]
    sys.stdout.write(f"Stock python-socketio is ready at http://{host}:{port}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve())
