"""`/v1/devices`: one's own phones and nobody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from gateway.http.devices import device_routes
from handlers.directory.handler import DirectoryHandler
from handlers.push.handler import DevicesHandler
from tests.support.site import SealedPool, Site, problem_of, serving

DEVICE = {"deviceId": "phone-1", "token": "abc:DEF_1-2", "platform": "ios"}


def routes(pool: Any) -> Any:
    directory = DirectoryHandler(pool=pool, create_unknown=True)
    devices = DevicesHandler(pool=pool, most_devices=2, most_token_chars=20)
    return lambda door: device_routes(door, devices, know_user=directory.know_user)


@pytest.fixture
async def site(pool: asyncpg.Pool) -> AsyncIterator[Site]:
    async with serving(pool, extra=routes(pool)) as served:
        yield served


@pytest.fixture
async def sealed() -> AsyncIterator[Site]:
    pool = SealedPool()
    async with serving(pool, extra=routes(pool)) as served:
        yield served


async def registered(conn: asyncpg.Connection) -> list[tuple[int, str, str, str]]:
    rows = await conn.fetch("SELECT user_id, device_id, token, platform FROM push_devices ORDER BY 1, 2")
    return [tuple(row) for row in rows]


async def test_a_device_is_registered_changed_and_forgotten(site: Site, conn: asyncpg.Connection) -> None:
    for token in ("first", "second"):
        answer = await site.ask("POST", "/v1/devices", "7", json=DEVICE | {"token": token})
        assert (answer.status, await answer.read()) == (204, b"")
    assert await registered(conn) == [(7, "phone-1", "second", "ios")]
    await site.ask("POST", "/v1/devices", "8", json={"deviceId": "a/b ü", "token": "x", "platform": "web"})
    for _ in range(2):
        assert (await site.ask("DELETE", "/v1/devices/phone-1", "7")).status == 204
        assert (await site.ask("DELETE", "/v1/devices/phone-1", "8")).status == 204
    assert await registered(conn) == [(8, "a/b ü", "x", "web")]
    assert (await site.ask("DELETE", "/v1/devices/a%2Fb%20%C3%BC", "8")).status == 204
    assert await registered(conn) == []


async def test_what_is_too_much_is_refused_by_name(site: Site, conn: asyncpg.Connection) -> None:
    answer = await site.ask("POST", "/v1/devices", "7", json=DEVICE | {"token": "x" * 21})
    await problem_of(answer, 400, "invalid_payload", "token")
    for name in ("one", "two"):
        assert (
            await site.ask("POST", "/v1/devices", "7", json=DEVICE | {"deviceId": name, "token": name})
        ).status == 204
    await problem_of(await site.ask("POST", "/v1/devices", "7", json=DEVICE), 409, "conflict", "deviceId")
    assert len(await registered(conn)) == 2


async def test_a_backend_has_no_phone_and_the_suspended_get_none(site: Site, conn: asyncpg.Connection) -> None:
    await problem_of(await site.ask("POST", "/v1/devices", json=DEVICE), 404, "not_found")
    await problem_of(await site.ask("POST", "/v1/devices", None, json=DEVICE), 401, "unauthorized")
    await site.ask("PUT", "/v1/users/7", json={"username": "ana", "status": "suspended"})
    await problem_of(await site.ask("POST", "/v1/devices", "7", json=DEVICE), 403, "forbidden")
    assert await registered(conn) == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "deviceId"),
        (DEVICE | {"platform": "watch"}, "platform"),
        (DEVICE | {"deviceId": ""}, "deviceId"),
        (DEVICE | {"deviceId": "x" * 129}, "deviceId"),
        (DEVICE | {"deviceId": "a\0b"}, "deviceId"),
        (DEVICE | {"token": ""}, "token"),
        (DEVICE | {"token": "a b"}, "token"),
        (DEVICE | {"token": "ü"}, "token"),
        (DEVICE | {"token": 5}, "token"),
        (DEVICE | {"userId": 8}, "userId"),
    ],
    ids=str,
)
async def test_what_is_no_device_is_refused_at_the_door(sealed: Site, body: dict[str, Any], field: str) -> None:
    await problem_of(await sealed.ask("POST", "/v1/devices", "7", json=body), 400, "invalid_payload", field)


async def test_a_name_that_is_none_is_refused(site: Site) -> None:
    await problem_of(await site.ask("DELETE", f"/v1/devices/{'x' * 129}", "7"), 400, "invalid_payload", "deviceId")
