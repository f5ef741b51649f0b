"""Items and awards over HTTP: who may, and what a wrong request is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from gateway.http.catalogue import catalogue_routes
from handlers.catalogue.current import CurrentAwards
from handlers.catalogue.handler import CatalogueHandler
from tests.support.site import USER, Site, problem_of, serving


@pytest.fixture
async def shop(pool: asyncpg.Pool) -> AsyncIterator[Site]:
    catalogue = CatalogueHandler(pool=pool, max_amount=1000, current=CurrentAwards())
    async with serving(pool, extra=lambda door: catalogue_routes(door, catalogue)) as site:
        await site.ask("PUT", "/v1/users/7", json=USER)
        yield site


async def test_an_item_from_put_to_get(shop: Site, conn: asyncpg.Connection) -> None:
    put = await shop.ask("PUT", "/v1/items/red%2Frose", json={"name": "A rose", "price": 2.50, "currency": "LYK"})
    assert (put.status, await put.text()) == (
        200, '{"itemId":"red/rose","name":"A rose","price":2.5,"currency":"LYK"}',
    )  # fmt: skip
    got = await shop.ask("GET", "/v1/items/red%2Frose", "7")
    assert (got.status, await got.json()) == (200, await put.json())
    await problem_of(await shop.ask("GET", "/v1/items/thorn"), 404, "not_found")
    assert await conn.fetchval("SELECT who FROM audit_log") == "service"


@pytest.mark.parametrize("price", ["0", "-1", "1e2", '"1"', "0.001", "1000.01", "null"])
async def test_a_price_is_an_amount(shop: Site, price: str) -> None:
    body = f'{{"name": "A rose", "price": {price}}}'.encode()
    answer = await shop.ask("PUT", "/v1/items/rose", data=body, headers={"Content-Type": "application/json"})
    await problem_of(answer, 400, "invalid_payload", "price")


async def test_an_award_from_put_to_history(shop: Site) -> None:
    path = "/v1/awards/comment_posted"
    got = await shop.ask("GET", path, "admin")
    assert (got.status, await got.text()) == (200, '{"points":2,"threshold":100,"dailyCap":5}')
    put = await shop.ask("PUT", path, "admin", json={"points": 0.1, "threshold": 10, "dailyCap": 3})
    assert (put.status, await put.text()) == (200, '{"points":0.1,"threshold":10,"dailyCap":3}')
    page = await (await shop.ask("GET", f"{path}/history?limit=1", "admin")).json()
    assert [(row["points"], row["dailyCap"], row["changedBy"]) for row in page["history"]] == [(0.1, 3, "admin")]
    rest = await (await shop.ask("GET", f"{path}/history?cursor={page['nextCursor']}", "admin")).json()
    assert [(row["points"], row["changedBy"]) for row in rest["history"]] == [(2, None)]
    assert rest["nextCursor"] is None


@pytest.mark.parametrize(
    ("method", "path", "who", "status"),
    [
        ("PUT", "/v1/items/rose", "7", 403),
        ("PUT", "/v1/items/rose", "admin", 200),
        ("PUT", "/v1/items/rose", None, 401),
        ("GET", "/v1/items/rose", None, 401),
        ("GET", "/v1/awards/video_liked", "7", 403),
        ("GET", "/v1/awards/video_liked", "service", 403),
        ("PUT", "/v1/awards/video_liked", "7", 403),
        ("PUT", "/v1/awards/video_liked", "service", 403),
        ("GET", "/v1/awards/video_liked/history", "7", 403),
        ("GET", "/v1/awards/video_liked/history", "service", 403),
        ("GET", "/v1/awards/video_liked/history", "admin", 200),
    ],
)
async def test_who_may(shop: Site, method: str, path: str, who: str | None, status: int) -> None:
    body: dict[str, Any] = {"name": "A rose", "price": 1} if "items" in path else {"points": 1}
    answer = await shop.ask(method, path, who, **({"json": body} if method == "PUT" else {}))
    assert answer.status == status


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "field"),
    [
        ("PUT", "/v1/awards/video_watched", {"points": 1}, "not_found", "action"),
        ("GET", "/v1/awards/video_watched", None, "not_found", "action"),
        ("GET", "/v1/awards/a%00b", None, "not_found", "action"),
        ("GET", "/v1/awards/video_watched/history", None, "not_found", "action"),
        ("GET", "/v1/awards/video_liked/history?limit=0", None, "invalid_payload", "limit"),
        ("GET", "/v1/awards/video_liked/history?cursor=x", None, "invalid_payload", "cursor"),
        ("PUT", "/v1/awards/video_liked", {"points": -1}, "invalid_payload", "points"),
        ("PUT", "/v1/awards/video_liked", {"points": 1000.01}, "invalid_payload", "points"),
        ("PUT", "/v1/awards/video_liked", {"threshold": -1}, "invalid_payload", "threshold"),
        ("PUT", "/v1/awards/video_liked", {"dailyCap": 1}, "invalid_payload", "dailyCap"),
        ("PUT", "/v1/awards/video_liked", {"cap": 1}, "invalid_payload", "cap"),
        ("PUT", "/v1/items/" + "x" * 65, {"name": "A", "price": 1}, "invalid_payload", "id"),
        ("PUT", "/v1/items/rose", {"name": "A\0", "price": 1}, "invalid_payload", "name"),
        ("PUT", "/v1/items/rose", {"price": 1}, "invalid_payload", "name"),
    ],
)
async def test_what_is_wrong_is_named(shop: Site, method: str, path: str, body: Any, code: str, field: str) -> None:
    answer = await shop.ask(method, path, "admin", **({"json": body} if body is not None else {}))
    await problem_of(answer, 404 if code == "not_found" else 400, code, field)
