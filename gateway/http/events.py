"""`POST /v1/events`: what backends publish."""

from __future__ import annotations

from aiohttp import web

from gateway.http.door import Door, Reply, Visit
from gateway.http.problems import meet_expectation
from handlers.live.handler import LiveHandler
from handlers.live.wire import PublishRequest


def event_routes(door: Door, live: LiveHandler) -> list[web.RouteDef]:
    """The route of backends' events."""

    async def post_event(visit: Visit, request: PublishRequest) -> Reply:
        return Reply(await live.publish_event(visit.caller.subject, request))

    handler = door.writes(post_event, PublishRequest, backends_only=True)
    return [web.post("/v1/events", handler, expect_handler=meet_expectation)]
