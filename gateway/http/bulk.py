"""`/v1/users/bulk` and `/v1/videos/bulk`: what a backend brings along when it begins, and at night."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from gateway.http.door import Door, Reply, Visit
from gateway.http.problems import meet_expectation
from gateway.payloads import decode
from handlers.directory.bulk import BulkHandler
from handlers.directory.wire import BulkUsersRequest, BulkVideosRequest, UserRow, VideoRow
from handlers.errors import Refusal

MOST_ROWS: Final = 1_000

_USER = msgspec.json.Decoder(UserRow)
_VIDEO = msgspec.json.Decoder(VideoRow)


def bulk_routes(door: Door, bulk: BulkHandler) -> list[web.RouteDef]:
    """Both, for backends."""

    async def post_users(visit: Visit, request: BulkUsersRequest) -> Reply:
        return Reply(await bulk.put_users(_rows(_USER, request.users, "users"), visit.caller.subject))

    async def post_videos(_: Visit, request: BulkVideosRequest) -> Reply:
        return Reply(await bulk.put_videos(_rows(_VIDEO, request.videos, "videos")))

    users = door.writes(post_users, BulkUsersRequest, backends_only=True)
    videos = door.writes(post_videos, BulkVideosRequest, backends_only=True)
    return [
        web.post("/v1/users/bulk", users, expect_handler=meet_expectation),
        web.post("/v1/videos/bulk", videos, expect_handler=meet_expectation),
    ]


def _rows(decoder: msgspec.json.Decoder[Any], raws: Sequence[msgspec.Raw], field: str) -> list[Any]:
    """Each row decoded by itself, or the Refusal that it earns."""
    if len(raws) > MOST_ROWS:
        raise Refusal("payload_too_large", f"At most {MOST_ROWS} rows at once.", field=field)
    return [_row(decoder, raw) for raw in raws]


def _row(decoder: msgspec.json.Decoder[Any], raw: msgspec.Raw) -> Any:
    try:
        return decode(decoder, raw)
    except Refusal as refusal:
        return refusal
