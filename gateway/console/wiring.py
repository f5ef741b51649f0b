"""The demo beside the rest of the site."""

from __future__ import annotations

from aiohttp import web

from gateway.console.demo import CarryOut, Demo
from gateway.http.site import Handlers
from gateway.settings import Auth


async def add_demo(app: web.Application, auth: Auth, handlers: Handlers, *, carry_out: CarryOut) -> None:
    """Seed its stage and serve its page."""
    claims = {name: value for name, value in (("iss", auth.issuer), ("aud", auth.audience)) if value}
    stage = Demo(
        directory=handlers.directory,
        conversations=handlers.conversations,
        carry_out=carry_out,
        secret=auth.secret,
        claims=claims,
    )
    await stage.seed()
    app.add_routes(stage.routes())
