"""`POST /v1/revocations`: who is sent away."""

from __future__ import annotations

from aiohttp import web

from gateway.http.door import Door, Reply, Visit
from gateway.http.problems import meet_expectation
from handlers.access.handler import AccessHandler
from handlers.access.wire import RevokeRequest


def access_routes(door: Door, access: AccessHandler) -> list[web.RouteDef]:
    """The route of revocations, for backends."""

    async def post_revocation(visit: Visit, request: RevokeRequest) -> Reply:
        await access.revoke(request, visit.caller.subject)
        return Reply(None)

    handler = door.writes(post_revocation, RevokeRequest, backends_only=True)
    return [web.post("/v1/revocations", handler, expect_handler=meet_expectation)]
