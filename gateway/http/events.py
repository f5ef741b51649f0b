"""`POST /v1/events`: what backends publish."""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import web

from gateway.http.door import Door, Reply, Visit
from gateway.http.problems import meet_expectation
from handlers.events.handler import EventsHandler
from handlers.events.wire import AcceptedAnswer, PublishRequest


def event_routes(door: Door, events: EventsHandler) -> list[web.RouteDef]:
    """The route of backends' events: 200 where it is stored or sent, 202 where it reaches inboxes by and by."""

    async def post_event(visit: Visit, request: PublishRequest) -> Reply:
        answer = await events.publish_event(visit.caller.subject, request)
        return Reply(answer, status=HTTPStatus.ACCEPTED if isinstance(answer, AcceptedAnswer) else HTTPStatus.OK)

    handler = door.writes(post_event, PublishRequest, backends_only=True)
    return [web.post("/v1/events", handler, expect_handler=meet_expectation)]
