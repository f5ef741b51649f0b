"""The stock python-socketio server on aiohttp: acks, a room, and nothing else. No tokens, no database.

Tuned as its documentation advises: uvloop, handlers in the reading task where they don't wait, a fast JSON module, no
CORS checks; or, with `--plain`, as it comes. WebSocket only and without logs both times, on the same interpreter as the
gateway.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
import socketio  # type: ignore[import-untyped]
import uvloop
from aiohttp import web

PLAIN = "--plain"


class FastJson:
    """msgspec as the JSON module that python-socketio asks for."""

    @staticmethod
    def dumps(value: Any, **_: Any) -> str:
        """Compact, as python-socketio wants it by `separators`."""
        return msgspec.json.encode(value).decode()

    @staticmethod
    def loads(text: str, **_: Any) -> Any:
        """Any JSON value."""
        return msgspec.json.decode(text)


def build(*, tuned: bool) -> web.Application:
    """The same events as the gateway's, as far as they store nothing, and `POST /v1/events`."""
    advice = {"async_handlers": False, "cors_allowed_origins": [], "json": FastJson} if tuned else {}
    server = socketio.AsyncServer(async_mode="aiohttp", transports=["websocket"], **advice)

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


async def serve(*, tuned: bool) -> None:
    """Serve on a free port of the loopback until the process is ended."""
    runner = web.AppRunner(build(tuned=tuned), access_log=None)
    await runner.setup()
    backlog = int(Path("/proc/sys/net/core/somaxconn").read_text())
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=backlog).start()
    host, port = runner.addresses[0][:2]
    sys.stdout.write(f"Stock python-socketio is ready at http://{host}:{port}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def main(arguments: list[str]) -> None:
    """`python -m loadtest.peers.stock [--plain]`."""
    if PLAIN in arguments:
        asyncio.run(serve(tuned=False))
    else:
        uvloop.run(serve(tuned=True))


if __name__ == "__main__":
    main(sys.argv[1:])
