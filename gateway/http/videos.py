"""What everybody may read of a video: `/v1/videos/{id}/comments`."""

from __future__ import annotations

from aiohttp import web

from gateway.http.door import Door, Reply, Visit
from gateway.http.problems import meet_expectation
from gateway.http.queries import cursor_of, limit_of
from handlers.engagement.comments import CURSOR, CommentPages


def video_routes(door: Door, comments: CommentPages) -> list[web.RouteDef]:
    """The routes about videos that are not for backends alone."""

    async def get_comments(visit: Visit) -> Reply:
        cursor, limit = cursor_of(visit.request, CURSOR), limit_of(visit.request)
        return Reply(await comments.list(visit.item_id(), cursor, limit))

    path = "/v1/videos/{id}/comments"
    return [web.get(path, door.reads(get_comments), expect_handler=meet_expectation)]
