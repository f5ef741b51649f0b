"""`/livez`: this process answers. `/readyz`: and it can serve."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from handlers.wire import Message, encode

CHECK_PATIENCE_S: Final = 2.0


class Health(Message):
    """`problems` is empty where `status` is `ok`."""

    status: str
    problems: list[str]


def health_routes(*, check: Callable[[], Awaitable[list[str]]], is_draining: Callable[[], bool]) -> list[web.RouteDef]:
    """Both without a token. `check` names, in a few words each, what is missing for service."""

    async def get_livez(_: web.Request) -> web.StreamResponse:
        return _answer([])

    async def get_readyz(_: web.Request) -> web.StreamResponse:
        return _answer(["draining"] if is_draining() else await _problems(check))

    return [web.get("/livez", get_livez), web.get("/readyz", get_readyz)]


async def _problems(check: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """The check's answer; a check that fails or hangs is a problem of its own, not a fault of this door."""
    try:
        async with asyncio.timeout(CHECK_PATIENCE_S):
            return await check()
    except Exception as error:  # whatever it was, the answer is: not ready
        return [f"check failed: {type(error).__name__}"]


def _answer(problems: list[str]) -> web.Response:
    body = Health("unready" if problems else "ok", problems)
    return web.Response(status=503 if problems else 200, body=encode(body), content_type="application/json")
