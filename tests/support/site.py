"""An HTTP server as the gateway wires it, on the test's database or on none, and what its answers must be."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import asyncpg
import jwt
import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from gateway.auth import Authenticator
from gateway.http.access import access_routes
from gateway.http.accounts import account_routes
from gateway.http.directory import directory_routes
from gateway.http.door import MAX_BODY_BYTES, Door
from gateway.http.events import Underway, event_routes
from gateway.http.health import health_routes
from gateway.http.problems import answer_problems
from gateway.settings import Auth, Events
from handlers.access.handler import AccessHandler
from handlers.access.identities import Identities
from handlers.caller import Claims
from handlers.deed import Delivered
from handlers.directory.handler import DirectoryHandler
from handlers.errors import Refusal
from handlers.wire import Message
from tests.support.publishing import Desk

SECRET = "a secret of more than thirty-two bytes"
USER = {"username": "john_doe"}

Client = TestClient[web.Request, web.Application]


class Balances(Message):
    balances: list[dict[str, Any]]


class Accounts:
    """Stands for wallet and inbox, which have tests of their own."""

    async def get_balances(self, user_id: int, currency: str | None = None) -> tuple[Message, int]:
        if user_id == 404:
            raise Refusal("not_found", "There is no such user.", field="userId")
        return Balances([{"currency": "LYK", "balance": 0.1, "reserved": 0}]), 12

    async def get_history(self, user_id: int, request: Any) -> tuple[Message, int]:
        return Balances([]), 12

    async def fetch(self, user_id: int, request: Any) -> Any:
        raise AssertionError("not asked here")

    async def get_state(self, user_id: int) -> tuple[Message, int]:
        return Balances([]), 12


class Topics:
    """Keeps what was published; the other events have tests of their own."""

    def __init__(self, published: list[tuple[str, bytes]]) -> None:
        self._published = published

    def topic(self, topic: str, envelope: bytes) -> None:
        self._published.append((topic, envelope))

    def events(self, events: Sequence[Delivered]) -> None: ...

    def users(self, user_ids: Sequence[int], envelope: bytes) -> None: ...


class Site:
    """One server with what its tests look at."""

    def __init__(self, client: Client, published: list[tuple[str, bytes]]) -> None:
        self.client = client
        self.published = published
        self.problems: list[str] = []
        self.is_draining = False

    async def ask(self, method: str, path: str, who: str | None = "service", **request: Any) -> ClientResponse:
        headers = {"Authorization": f"Bearer {token_of(who)}"} if who else {}
        headers |= request.pop("headers", {})
        return await self.client.request(method, path, headers=headers, **request)


def token_of(who: str, **claims: Any) -> str:
    """A token of a user ("7") or of a backend ("service", "admin")."""
    roles = [who] if not who.isdigit() else ["viewer"]
    return jwt.encode({"sub": who, "exp": time.time() + 60, "roles": roles, **claims}, SECRET, algorithm="HS256")


async def everybody(claims: Claims) -> Claims:
    """Lets in whoever has a good token, where no database may be asked for more."""
    return claims


@contextlib.asynccontextmanager
async def serving(pool: Any, *, extra: Callable[[Door], list[web.RouteDef]] = lambda door: []) -> AsyncIterator[Site]:
    published: list[tuple[str, bytes]] = []
    directory = DirectoryHandler(pool=pool, create_unknown=True)
    identities = Identities(pool=pool, create_unknown=True)
    access = AccessHandler(pool=pool, identities=identities, on_revoked=lambda: None)
    admit = everybody if isinstance(pool, SealedPool) else access.admit
    door = Door(verifier=Authenticator(Auth(secret=SECRET)), admit=admit)
    accounts = Accounts()
    desk = Desk(pool, Topics(published))
    app = web.Application(middlewares=[answer_problems], client_max_size=MAX_BODY_BYTES)
    site = Site(TestClient(TestServer(app)), published)

    async def check() -> list[str]:
        return site.problems

    app.add_routes(access_routes(door, access))
    app.add_routes(directory_routes(door, directory))
    app.add_routes(account_routes(door, wallet=accounts, inbox=accounts, know_user=directory.know_user))
    app.add_routes(event_routes(door, publish=desk.publish, limits=Events(), underway=Underway()))
    app.add_routes(health_routes(check=check, is_draining=lambda: site.is_draining))
    app.add_routes(extra(door))
    async with site.client:
        yield site


@pytest.fixture
async def site(pool: asyncpg.Pool) -> AsyncIterator[Site]:
    async with serving(pool) as served:
        yield served


class SealedPool:
    """Whoever touches the database fails: what is refused at the door stores nothing."""

    def acquire(self, *, timeout: float | None = None) -> Any:
        raise AssertionError("the database was asked")


@pytest.fixture
async def sealed() -> AsyncIterator[Site]:
    async with serving(SealedPool()) as served:
        yield served


async def problem_of(response: ClientResponse, status: int, code: str, field: str | None = None) -> dict[str, Any]:
    """The body of a response that must be this problem."""
    assert (response.status, response.content_type) == (status, "application/problem+json"), await response.text()
    body: dict[str, Any] = json.loads(await response.read())
    assert (body["code"], body.get("field"), body["status"]) == (code, field, status)
    assert body["type"] == "about:blank"
    assert body["title"]
    assert body["detail"] == body["message"]
    assert isinstance(body["retryable"], bool)
    assert response.headers["X-Request-Id"]
    return body
