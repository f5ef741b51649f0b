"""`/v1/devices`: where one's phones can be told while they are not connected."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from gateway.http.door import Door, Reply, Visit
from gateway.http.problems import meet_expectation
from handlers.caller import Caller
from handlers.errors import Refusal
from handlers.push.handler import DevicesHandler
from handlers.push.wire import MAX_DEVICE_ID, DeviceId, RegisterRequest

KnowUser = Callable[[Caller, str | None], Awaitable[None]]


def device_routes(door: Door, devices: DevicesHandler, *, know_user: KnowUser) -> list[web.RouteDef]:
    """Registering a device, and forgetting it. `know_user` sees to it that the caller exists, as a first connect
    would."""

    async def own_id(visit: Visit) -> int:
        if visit.caller.user_id is None:
            raise Refusal("not_found", "This token is no user's.")
        await know_user(visit.caller, visit.claims.username)
        return visit.caller.user_id

    async def post_device(visit: Visit, request: RegisterRequest) -> Reply:
        await devices.register(await own_id(visit), visit.claims, request)
        return Reply(None)

    async def delete_device(visit: Visit) -> Reply:
        await devices.forget(await own_id(visit), _device_id(visit))
        return Reply(None)

    place = "/v1/devices"
    return [
        web.post(place, door.writes(post_device, RegisterRequest), expect_handler=meet_expectation),
        web.delete(f"{place}/{{deviceId}}", door.reads(delete_device), expect_handler=meet_expectation),
    ]


def _device_id(visit: Visit) -> str:
    try:
        return msgspec.convert(visit.request.match_info["deviceId"], DeviceId)
    except msgspec.ValidationError:
        message = f"A device's id has 1 to {MAX_DEVICE_ID} characters, none of them NUL."
        raise Refusal("invalid_payload", message, field="deviceId") from None
