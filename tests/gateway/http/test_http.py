"""HTTP from outside, on the real database: rights, shapes, and a problem for everything else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import jwt
import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

import gateway.http.door
import storage.pool
from gateway.auth import Authenticator
from gateway.http.accounts import account_routes
from gateway.http.directory import directory_routes
from gateway.http.door import MAX_BODY_BYTES, Door, Reply, Visit
from gateway.http.events import event_routes
from gateway.http.health import health_routes
from gateway.http.log import server_log
from gateway.http.problems import answer_problems
from gateway.settings import Auth
from handlers.directory.handler import DirectoryHandler
from handlers.errors import Refusal
from handlers.live.handler import LiveHandler
from handlers.wire import Message

SECRET = "a secret of more than thirty-two bytes"
USER = {"username": "john_doe"}

Client = TestClient[web.Request, web.Application]


class Balances(Message):
    balances: list[dict[str, Any]]


class Accounts:
    """Stands for wallet and inbox, which have tests of their own."""

    async def get_balances(self, user_id: int) -> tuple[Message, int]:
        if user_id == 404:
            raise Refusal("not_found", "There is no such user.", field="userId")
        return Balances([{"currency": "LYK", "balance": 0.1, "reserved": 0}]), 12

    async def get_state(self, user_id: int) -> Message:
        return Balances([])


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


@contextlib.asynccontextmanager
async def serving(pool: Any, *, extra: Callable[[Door], list[web.RouteDef]] = lambda door: []) -> AsyncIterator[Site]:
    published: list[tuple[str, bytes]] = []
    directory = DirectoryHandler(pool=pool, create_unknown=True)
    door = Door(verifier=Authenticator(Auth(secret=SECRET)), is_suspended=directory.is_suspended)
    accounts = Accounts()
    app = web.Application(middlewares=[answer_problems], client_max_size=MAX_BODY_BYTES)
    site = Site(TestClient(TestServer(app)), published)

    async def check() -> list[str]:
        return site.problems

    app.add_routes(directory_routes(door, directory))
    app.add_routes(account_routes(door, wallet=accounts, inbox=accounts))
    app.add_routes(event_routes(door, LiveHandler(pool=pool, publish=lambda *sent: published.append(sent))))
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


async def test_a_user_from_put_to_me(site: Site) -> None:
    fields = {
        "username": "john_doe", "displayName": "John", "pictureUrl": "https://x/y.png", "email": "john@x.org",
        "roles": ["viewer", "creator"], "status": "active", "followingCount": 150, "followersCount": 2000, "version": 4,
    }  # fmt: skip
    put = await site.ask("PUT", "/v1/users/7", json=fields)
    assert (put.status, put.content_type, await put.json()) == (200, "application/json", {"id": 7, **fields})
    got = await site.ask("GET", "/v1/users/7", "admin")
    assert (got.status, await got.json()) == (200, {"id": 7, **fields})
    me = await site.ask("GET", "/v1/me", "7")
    assert (me.status, await me.json(), me.headers["X-Inbox-Seq"]) == (200, {"id": 7, **fields}, "0")
    older = await site.ask("PUT", "/v1/users/7", json={"followersCount": 1, "version": 3})
    assert (older.status, (await older.json())["followersCount"]) == (200, 2000)


async def test_me_creates_an_unknown_user(site: Site) -> None:
    token = token_of("9", username="niner")
    response = await site.ask("GET", "/v1/me", None, headers={"Authorization": f"bearer  {token}"})
    assert (await response.json())["username"] == "niner"
    await problem_of(await site.ask("GET", "/v1/me", "service"), 404, "not_found")


async def test_a_video_from_put_to_get(site: Site) -> None:
    await problem_of(
        await site.ask("PUT", "/v1/videos/a%2Fb", json={"ownerId": 7, "title": "x"}), 404, "not_found", "ownerId"
    )
    await site.ask("PUT", "/v1/users/7", json=USER)
    put = await site.ask("PUT", "/v1/videos/a%2Fb", json={"ownerId": 7, "title": "Amazing Dance"})
    video = {
        "videoId": "a/b", "ownerId": 7, "title": "Amazing Dance", "totalLikes": 0, "totalViews": 0, "totalShares": 0,
    }  # fmt: skip
    assert (put.status, await put.json()) == (200, video)
    assert await (await site.ask("GET", "/v1/videos/a%2Fb")).json() == video
    await problem_of(await site.ask("GET", "/v1/videos/other"), 404, "not_found")


async def test_accounts_of_a_user(site: Site) -> None:
    wallet = await site.ask("GET", "/v1/users/7/wallet")
    assert (await wallet.text(), wallet.headers["X-Inbox-Seq"]) == (
        '{"balances":[{"currency":"LYK","balance":0.1,"reserved":0}]}', "12",
    )  # fmt: skip
    assert (await site.ask("GET", "/v1/users/7/inbox")).status == 200
    await problem_of(await site.ask("GET", "/v1/users/404/wallet"), 404, "not_found", "userId")


async def test_an_event_goes_out_once(site: Site) -> None:
    event = {"id": "e1", "type": "goal", "topic": "live:match", "data": {"score": 1}}
    for body in (event, {**event, "source": "service"}):
        response = await site.ask("POST", "/v1/events", json=body)
        assert (response.status, await response.json()) == (200, {"accepted": 0, "skipped": 0})
    assert [(topic, json.loads(envelope)["id"]) for topic, envelope in site.published] == [("live:match", "e1")]
    again = await site.ask("POST", "/v1/events", json={**event, "type": "foul"})
    await problem_of(again, 409, "idempotency_conflict", "id")
    await problem_of(
        await site.ask("POST", "/v1/events", json={"id": "e2", "type": "goal", "recipientIds": [7], "data": {}}),
        400, "invalid_payload", "recipientIds",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v1/users/7"), ("GET", "/v1/users/7"), ("GET", "/v1/users/7/wallet"), ("GET", "/v1/users/7/inbox"),
        ("PUT", "/v1/videos/v"), ("GET", "/v1/videos/v"), ("POST", "/v1/events"),
    ],
)  # fmt: skip
async def test_doors_for_backends_only(sealed: Site, method: str, path: str) -> None:
    await problem_of(await sealed.ask(method, path, "7", data=b"not even JSON"), 403, "forbidden")
    anonymous = await sealed.ask(method, path, None)
    await problem_of(anonymous, 401, "unauthorized")
    assert anonymous.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "authorization",
    [
        "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Bearer x", "Bearer a b", "Bearer " + "x" * 5000,
        token_of("7"), f"Bearer {token_of('7', exp=time.time() - 61)}", f"Bearer {token_of('0')}",
        f"Bearer {token_of('7', nbf=time.time() + 600)}", f"Bearer {token_of('7', exp='soon')}",
    ],
)  # fmt: skip
async def test_bad_tokens_are_unauthorized(sealed: Site, authorization: str) -> None:
    response = await sealed.ask("GET", "/v1/me", None, headers={"Authorization": authorization})
    body = await problem_of(response, 401, "unauthorized")
    assert not body["retryable"]
    assert len(authorization) < 20 or authorization[7:] not in json.dumps(body)
    query = await sealed.ask("GET", f"/v1/me?token={token_of('7')}&access_token={token_of('7')}", None)
    await problem_of(query, 401, "unauthorized")


async def test_two_authorizations_are_none(sealed: Site) -> None:
    both = [("Authorization", f"Bearer {token_of('7')}"), ("Authorization", f"Bearer {token_of('8')}")]
    await problem_of(await sealed.client.get("/v1/me", headers=both), 401, "unauthorized")


async def test_http_takes_a_token_a_little_after_its_end(site: Site) -> None:
    token = token_of("7", exp=time.time() - 30)
    assert (await site.ask("GET", "/v1/me", None, headers={"Authorization": f"Bearer {token}"})).status == 200


@pytest.mark.parametrize("roles", [["viewer"], ["service"], ["admin"]])
async def test_a_suspended_user_is_forbidden(site: Site, roles: list[str]) -> None:
    await site.ask("PUT", "/v1/users/7", json={**USER, "status": "suspended"})
    headers = {"Authorization": f"Bearer {token_of('7', roles=roles)}"}
    await problem_of(await site.ask("GET", "/v1/me", None, headers=headers), 403, "forbidden")
    await site.ask("PUT", "/v1/users/7", json={"status": "active"})
    assert (await site.ask("GET", "/v1/me", None, headers=headers)).status == 200


BAD_USERS: list[tuple[bytes | dict[str, Any], str | None]] = [
    (b"", None),
    (b"not json", None),
    (b"\xff\xfe", None),
    (b"[" * 100_000, None),
    (b"[]", None),
    (b"null", None),
    (b'{"username":"a"} x', None),
    (b'{"username":"a","displayName":NaN}', None),
    (b'{"username":"\\ud800"}', None),
    (b'{"username":"\xff"}', None),
    ({"username": None}, "username"),
    ({"username": ""}, "username"),
    ({"username": 7}, "username"),
    ({"username": "x" * 101}, "username"),
    ({"username": "a\0b"}, "username"),
    ({**USER, "displayName": "a\0b"}, "displayName"),
    ({**USER, "email": "nobody"}, "email"),
    ({**USER, "email": "a@b\0"}, "email"),
    ({**USER, "pictureUrl": "x" * 2049}, "pictureUrl"),
    ({**USER, "roles": "viewer"}, "roles"),
    ({**USER, "roles": ["king"]}, "roles"),
    ({**USER, "roles": ["viewer,admin"]}, "roles"),
    ({**USER, "status": "deleted"}, "status"),
    ({**USER, "followingCount": -1}, "followingCount"),
    ({**USER, "followingCount": 1.5}, "followingCount"),
    ({**USER, "followingCount": "1"}, "followingCount"),
    ({**USER, "followingCount": True}, "followingCount"),
    ({**USER, "followersCount": 2**53}, "followersCount"),
    ({**USER, "followersCount": 10**30}, "followersCount"),
    ({**USER, "version": 2**63}, "version"),
    ({**USER, "display_name": "John"}, "display_name"),
    ({**USER, "id": 7}, "id"),
    ({**USER, "nobody": 1}, "nobody"),
]


@pytest.mark.parametrize(("body", "field"), BAD_USERS)
async def test_bad_users_are_refused_by_the_field_and_stored_nowhere(
    sealed: Site, body: bytes | dict[str, Any], field: str | None
) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await sealed.ask("PUT", "/v1/users/7", data=raw, headers={"Content-Type": "application/json"})
    await problem_of(response, 400, "invalid_payload", field)


async def test_a_new_user_without_a_name_is_stored_nowhere(site: Site, pool: asyncpg.Pool) -> None:
    await problem_of(await site.ask("PUT", "/v1/users/7", json={}), 400, "invalid_payload", "username")
    assert await pool.fetchval("SELECT count(*) FROM heads") == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"ownerId": "7", "title": "x"}, "ownerId"), ({"ownerId": 0, "title": "x"}, "ownerId"),
        ({"ownerId": None, "title": "x"}, "ownerId"), ({"ownerId": 7, "title": ""}, "title"),
        ({"ownerId": 7, "title": "a\0b"}, "title"), ({"ownerId": 7, "title": "x" * 501}, "title"),
        ({"ownerId": 7, "title": "x", "totalLikes": 9}, "totalLikes"),
    ],
)  # fmt: skip
async def test_bad_videos(sealed: Site, body: dict[str, Any], field: str) -> None:
    await problem_of(await sealed.ask("PUT", "/v1/videos/v", json=body), 400, "invalid_payload", field)


async def test_a_new_video_needs_owner_and_title(site: Site) -> None:
    await site.ask("PUT", "/v1/users/7", json=USER)
    await problem_of(await site.ask("PUT", "/v1/videos/v", json={"title": "x"}), 400, "invalid_payload", "ownerId")
    await problem_of(await site.ask("PUT", "/v1/videos/v", json={"ownerId": 7}), 400, "invalid_payload", "title")
    await problem_of(await site.ask("GET", "/v1/videos/v"), 404, "not_found")


@pytest.mark.parametrize(
    "user_id", ["0", "007", "-7", "7.0", "abc", "9007199254740992", "9" * 400, "%D9%A7", "7%00", "%20 7"]
)
@pytest.mark.parametrize("tail", ["", "/wallet", "/inbox"])
async def test_bad_user_ids(sealed: Site, user_id: str, tail: str) -> None:
    await problem_of(await sealed.ask("GET", f"/v1/users/{user_id}{tail}"), 400, "invalid_payload", "id")


@pytest.mark.parametrize("video_id", ["x" * 65, "a%00b", "%00"])
async def test_bad_video_ids(sealed: Site, video_id: str) -> None:
    await problem_of(await sealed.ask("GET", f"/v1/videos/{video_id}"), 400, "invalid_payload", "id")


async def test_odd_video_ids_are_only_unknown(site: Site) -> None:
    for video_id in ("x" * 64, "%FF", "%ED%A0%80", "%F0%9F%91%8F", "a%20b", "%25", "{a}", "'; --"):
        await problem_of(await site.ask("GET", f"/v1/videos/{video_id}"), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v1/users/7", {"GET", "HEAD", "PUT"}),
        ("POST", "/v1/users/7", {"GET", "HEAD", "PUT"}),
        ("GET", "/v1/events", {"POST"}),
        ("POST", "/v1/me", {"GET", "HEAD"}),
        ("OPTIONS", "/v1/me", {"GET", "HEAD"}),
        ("PATCH", "/v1/me", {"GET", "HEAD"}),
    ],
)
async def test_wrong_methods_name_the_right_ones(sealed: Site, method: str, path: str, allow: set[str]) -> None:
    response = await sealed.ask(method, path)
    await problem_of(response, 405, "invalid_payload")
    assert set(response.headers["Allow"].split(",")) == allow


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v1/nothing", "/v1/users", "/v1/users/", "/v1/users/7/", "/nothing", "/"]
)
async def test_unknown_paths(sealed: Site, path: str) -> None:
    await problem_of(await sealed.ask("GET", path), 404, "not_found")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"}, {"Content-Type": "application/json-seq"}, {"Content-Type": "application/xml"},
        {"Content-Type": ""}, {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)  # fmt: skip
async def test_other_content_types(sealed: Site, headers: dict[str, str]) -> None:
    response = await sealed.ask(
        "PUT", "/v1/users/7", data=b'{"username":"a"}', headers=headers, skip_auto_headers=["Content-Type"]
    )
    await problem_of(response, 415, "invalid_payload")


async def test_a_charset_is_no_other_content_type(site: Site) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert (await site.ask("PUT", "/v1/users/7", data=b'{"username":"a"}', headers=headers)).status == 200


async def test_bodies_have_a_bound(sealed: Site) -> None:
    headers = {"Content-Type": "application/json"}
    at_most = b'{"username":"' + b"x" * (MAX_BODY_BYTES - 15) + b'"}'
    await problem_of(
        await sealed.ask("PUT", "/v1/users/7", data=at_most, headers=headers), 400, "invalid_payload", "username"
    )
    await problem_of(
        await sealed.ask("PUT", "/v1/users/7", data=at_most + b" ", headers=headers), 413, "payload_too_large"
    )

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    await problem_of(await sealed.ask("PUT", "/v1/users/7", data=chunks(), headers=headers), 413, "payload_too_large")


async def test_a_body_that_never_arrives(sealed: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.http.door, "BODY_PATIENCE_S", 0.05)

    async def forever() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)

    response = await sealed.ask("PUT", "/v1/users/7", data=forever(), headers={"Content-Type": "application/json"})
    await problem_of(response, 408, "invalid_payload")


@pytest.mark.parametrize(("expect", "status"), [("100-continue", 200), ("200-ok", 417)])
async def test_expectations(site: Site, expect: str, status: int) -> None:
    response = await site.ask("PUT", "/v1/users/7", json=USER, headers={"Expect": expect})
    assert response.status == status
    if status == 417:
        await problem_of(response, 417, "invalid_payload")


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [("abc-123", True), ("x" * 128, True), ("x" * 129, False), ("", False), ("a b", False), ("<script>", False)],
)
async def test_request_ids(sealed: Site, given: str, is_kept: bool) -> None:
    for path, who in (("/v1/users/x", "service"), ("/v1/me", None), ("/v1/nothing", "7"), ("/livez", None)):
        response = await sealed.ask("GET", path, who, headers={"X-Request-Id": given})
        assert (response.headers["X-Request-Id"] == given) is is_kept
        assert response.headers["X-Request-Id"]


async def test_health(sealed: Site) -> None:
    for path in ("/livez", "/readyz"):
        response = await sealed.ask("GET", path, None)
        assert (response.status, await response.json()) == (200, {"status": "ok", "problems": []})
    sealed.problems = ["database away"]
    unready = await sealed.ask("GET", "/readyz", None)
    assert (unready.status, await unready.json()) == (503, {"status": "unready", "problems": ["database away"]})
    sealed.problems, sealed.is_draining = [], True
    assert (await sealed.ask("GET", "/readyz", None)).status == 503
    assert (await sealed.ask("GET", "/livez", None)).status == 200


def raising(error: Exception) -> Callable[[Door], list[web.RouteDef]]:
    """A route that fails, with a GET and a POST."""

    async def read(visit: Visit) -> Reply:
        raise error

    async def write(visit: Visit, body: dict[str, Any]) -> Reply:
        raise error

    return lambda door: [
        web.get("/v1/fails", door.reads(read)),
        web.post("/v1/fails", door.writes(write, dict[str, Any])),
    ]


async def test_faults_tell_nobody_anything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "a very private text"
    async with serving(SealedPool(), extra=raising(KeyError(secret))) as site:
        with capture_logs() as logs:
            read = await problem_of(await site.ask("GET", "/v1/fails", "service"), 500, "internal")
            write = await problem_of(
                await site.ask("POST", "/v1/fails", "service", json={"a": secret}), 500, "internal"
            )
    assert ("outcome" in read, write["outcome"]) == (False, "unknown")
    told = f"{logs} {caplog.text} {read} {write}"
    assert secret not in told
    assert token_of("service")[:20] not in told
    assert "Traceback" not in told
    assert [(log["event"], log["error"], log["route"]) for log in logs] == [("http_fault", "KeyError", "/v1/fails")] * 2
    assert "raising" in str(logs[0]["at"][-1])


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        asyncpg.AdminShutdownError("x"),
        asyncpg.InterfaceError("connection is closed"),
    ],
)
async def test_a_lost_database_is_unavailable(error: Exception) -> None:
    async with serving(SealedPool(), extra=raising(error)) as site:
        response = await site.ask("GET", "/v1/fails", "service")
        body = await problem_of(response, 503, "unavailable")
        assert (body["retryable"], body["retryAfterMs"], response.headers["Retry-After"]) == (True, 1000, "1")
        assert "outcome" not in body
        body = await problem_of(await site.ask("POST", "/v1/fails", "service", json={}), 503, "unavailable")
        assert body["outcome"] == "unknown"


async def test_a_deadlock_left_nothing_behind() -> None:
    async with serving(SealedPool(), extra=raising(asyncpg.DeadlockDetectedError("x"))) as site:
        body = await problem_of(await site.ask("POST", "/v1/fails", "service", json={}), 503, "unavailable")
        assert "outcome" not in body


async def test_refusals_carry_what_helps() -> None:
    refusal = Refusal("rate_limited", "Too many.", retry_after_ms=1500)
    async with serving(SealedPool(), extra=raising(refusal)) as site:
        response = await site.ask("GET", "/v1/fails", "service")
        body = await problem_of(response, 429, "rate_limited")
        assert (body["retryAfterMs"], response.headers["Retry-After"]) == (1500, "2")


class FrozenProxy:
    """Stands between pool and database, and lets nothing through any more once it is frozen."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def freeze(self) -> None:
        self._is_open.clear()

    def thaw(self) -> None:
        self._is_open.set()

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._to)
        for source, sink in ((reader, upstream_writer), (upstream_reader, writer)):
            task = asyncio.ensure_future(self._copy(source, sink))
            self._tasks.add(task)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                await self._is_open.wait()
                sink.write(data)
        except OSError:
            pass
        finally:
            sink.close()


@pytest.fixture
async def frozen_site(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Site, FrozenProxy]]:
    """A server whose database can be frozen, with all patience a tenth as long."""
    monkeypatch.setattr(storage.pool, "ACQUIRE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(gateway.http.door, "DEED_PATIENCE_S", 0.25)
    address = urlsplit(dsn)
    proxy = FrozenProxy(address.hostname or "", address.port or 0)
    proxied_port = await proxy.start()
    pool = await asyncpg.create_pool(dsn, host="127.0.0.1", port=proxied_port, min_size=1, max_size=2)
    async with serving(pool) as site:
        yield site, proxy
    proxy.thaw()
    pool.terminate()
    await proxy.stop()


async def test_a_frozen_database_is_unavailable_in_time_and_comes_back(frozen_site: tuple[Site, FrozenProxy]) -> None:
    site, proxy = frozen_site
    assert (await site.ask("GET", "/v1/users/7")).status == 404
    proxy.freeze()
    began = time.monotonic()
    answers: list[Awaitable[ClientResponse]] = [site.ask("GET", "/v1/users/7") for _ in range(6)]
    for response in await asyncio.gather(*answers):
        await problem_of(response, 503, "unavailable")
    assert time.monotonic() - began < 1.5
    proxy.thaw()
    await asyncio.sleep(0.1)
    assert (await site.ask("GET", "/v1/users/7")).status == 404


async def test_what_is_no_http_leaves_nothing_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    runner = web.AppRunner(web.Application(middlewares=[answer_problems]), access_log=None, logger=server_log())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    for request in (
        b"GET /v1/me HTTP/1.1\r\nHost: a\r\nAuthorization : Bearer private\r\n\r\n",
        b"BREW /v1/me?token=private HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v1/me HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer private" + b"x" * 20_000 + b"\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection(*runner.addresses[0])
        writer.write(request)
        assert b" 400 " in await reader.readline()
        writer.close()
    await runner.cleanup()
    assert "private" not in caplog.text
    assert "Traceback" not in caplog.text


def test_a_fault_in_the_server_is_named_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise KeyError("private")
    except KeyError:
        server_log().exception("Error handling request from %s", "10.0.0.1")
    assert "Error handling request from 10.0.0.1: KeyError" in caplog.text
    assert "private" not in caplog.text
    assert "Traceback" not in caplog.text
