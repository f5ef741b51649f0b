"""`/v1/notifications`: one's own, newest first, with what is unread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from gateway.http.door import Door, Reply, Visit
from gateway.http.problems import meet_expectation
from gateway.http.queries import cursor_of, limit_of
from handlers.caller import Caller
from handlers.errors import Refusal
from handlers.inbox.notifications import NotificationsHandler
from handlers.inbox.wire import SeenRequest

KnowUser = Callable[[Caller, str | None], Awaitable[None]]

_CURSOR: Final = r"[0-9]{1,16}"


def notification_routes(door: Door, notifications: NotificationsHandler, *, know_user: KnowUser) -> list[web.RouteDef]:
    """The list, the count, and up to where it was seen. `know_user` sees to it that the caller exists, as a first
    connect would."""

    async def own_id(visit: Visit) -> int:
        if visit.caller.user_id is None:
            raise Refusal("not_found", "This token is no user's.")
        await know_user(visit.caller, visit.claims.username)
        return visit.caller.user_id

    async def get_list(visit: Visit) -> Reply:
        cursor, limit = cursor_of(visit.request, _CURSOR), limit_of(visit.request)
        return Reply(*await notifications.list(await own_id(visit), cursor, limit))

    async def get_unread(visit: Visit) -> Reply:
        return Reply(*await notifications.get_unread(await own_id(visit)))

    async def post_seen(visit: Visit, request: SeenRequest) -> Reply:
        return Reply(await notifications.mark_seen(await own_id(visit), request))

    place = "/v1/notifications"
    return [
        web.get(place, door.reads(get_list), expect_handler=meet_expectation),
        web.get(f"{place}/unread", door.reads(get_unread), expect_handler=meet_expectation),
        web.post(f"{place}/seen", door.writes(post_seen, SeenRequest), expect_handler=meet_expectation),
    ]
