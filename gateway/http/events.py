"""`POST /v1/events`: what backends publish."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from gateway.http.door import Door, HttpHandler, Visit
from gateway.http.problems import meet_expectation
from handlers.events.request import CheckedEvent, EventLimits, checked
from handlers.events.wire import PublishRequest


class Underway:
    """How many are publishing just now: between their request's head and their answer."""

    def __init__(self) -> None:
        self._count = 0

    def is_any(self) -> bool:
        """Whether anybody is."""
        return self._count > 0

    def noted(self, handle: HttpHandler) -> HttpHandler:
        """The handler, its requests counted while they run."""

        async def handle_noted(request: web.Request) -> web.StreamResponse:
            self._count += 1
            try:
                return await handle(request)
            finally:
                self._count -= 1

        return handle_noted


def event_routes(
    door: Door,
    *,
    publish: Callable[[CheckedEvent], Awaitable[bytes]],
    limits: EventLimits,
    underway: Underway,
) -> list[web.RouteDef]:
    """The route of backends' events: 200 where it is stored or sent, 202 where it reaches inboxes by and by."""

    async def post_event(visit: Visit, request: PublishRequest) -> tuple[bytes, HTTPStatus]:
        event = checked(visit.caller.subject, request, limits)
        return await publish(event), HTTPStatus.ACCEPTED if event.is_long else HTTPStatus.OK

    handler = underway.noted(door.submits(post_event, PublishRequest, backends_only=True))
    return [web.post("/v1/events", handler, expect_handler=meet_expectation)]
