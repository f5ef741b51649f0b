"""`/v1/me`, `/v1/users/{id}` and `/v1/videos/{id}`."""

from __future__ import annotations

from aiohttp import web

from gateway.http.door import Door, Reply, Visit
from gateway.http.problems import meet_expectation
from handlers.directory.handler import DirectoryHandler
from handlers.directory.wire import PutUserRequest, PutVideoRequest


def directory_routes(door: Door, directory: DirectoryHandler) -> list[web.RouteDef]:
    """The directory's routes: one's own for everybody, all others for backends."""

    async def get_me(visit: Visit) -> Reply:
        return Reply(*await directory.get_me(visit.caller, visit.claims.username))

    async def put_user(visit: Visit, request: PutUserRequest) -> Reply:
        return Reply(await directory.put_user(visit.user_id(), request, visit.caller.subject))

    async def get_user(visit: Visit) -> Reply:
        return Reply(*await directory.get_user(visit.user_id()))

    async def put_video(visit: Visit, request: PutVideoRequest) -> Reply:
        return Reply(await directory.put_video(visit.item_id(), request))

    async def get_video(visit: Visit) -> Reply:
        return Reply(await directory.get_video(visit.item_id()))

    async def delete_video(visit: Visit) -> Reply:
        await directory.delete_video(visit.item_id(), visit.caller.subject)
        return Reply(None)

    users, videos = "/v1/users/{id}", "/v1/videos/{id}"
    return [
        web.get("/v1/me", door.reads(get_me), expect_handler=meet_expectation),
        web.get(users, door.reads(get_user, backends_only=True), expect_handler=meet_expectation),
        web.put(users, door.writes(put_user, PutUserRequest, backends_only=True), expect_handler=meet_expectation),
        web.get(videos, door.reads(get_video, backends_only=True), expect_handler=meet_expectation),
        web.delete(videos, door.reads(delete_video, backends_only=True), expect_handler=meet_expectation),
        web.put(videos, door.writes(put_video, PutVideoRequest, backends_only=True), expect_handler=meet_expectation),
    ]
