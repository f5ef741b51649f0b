"""The FCM provider against a real HTTP server that plays Google: the token endpoint and the messages'."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.push.fcm import GRANT, SCOPE, BadCredentials, FcmProvider, ServiceAccount, read_account
from gateway.push.wiring import provider_of
from gateway.settings import BadSettings, Push, Settings
from gateway.supervisor import Supervisor
from handlers.push.provider import Answer

MESSAGE = {"token": "the-phone", "notification": {"title": "ana", "body": "hello"}, "data": {"seq": "1"}}
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()


class Google:
    """Says what it is told to, and keeps what it was asked."""

    def __init__(self) -> None:
        self.pushes: list[tuple[str, str, Any]] = []  # path, bearer, body
        self.assertions: list[dict[str, Any]] = []
        self.says: list[web.Response | str] = []  # of the next pushes; "hang", "cut"
        self.token_says: list[web.Response | str] = []
        self.expires_in = 3600
        self.now = 0.0
        self.hung = asyncio.Event()
        app = web.Application()
        app.add_routes([web.post("/token", self._token), web.post("/v1/projects/{project}/messages:send", self._send)])
        self.server = TestServer(app)

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        assert form["grant_type"] == GRANT
        uri = str(self.server.make_url("/token"))
        claims = jwt.decode(str(form["assertion"]), KEY.public_key(), algorithms=["RS256"], audience=uri)
        self.assertions.append(claims)
        if self.token_says:
            return await self._say(self.token_says.pop(0), request)
        token = f"access-{len(self.assertions)}"
        return web.json_response({"access_token": token, "expires_in": self.expires_in, "token_type": "Bearer"})

    async def _send(self, request: web.Request) -> web.StreamResponse:
        self.pushes.append((request.path, request.headers["Authorization"], await request.json()))
        if self.says:
            return await self._say(self.says.pop(0), request)
        return web.json_response({"name": "projects/p/messages/1"})

    async def _say(self, what: web.Response | str, request: web.Request) -> web.StreamResponse:
        if what == "hang":
            await self.hung.wait()
        if isinstance(what, str):
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        return what


def refusal(status: int, code: str = "", **headers: str) -> web.Response:
    details = [{"@type": "type.googleapis.com/google.rpc.Help"}]
    if code:
        details.append({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code})
    return web.json_response({"error": {"code": status, "details": details}}, status=status, headers=headers)


@pytest.fixture
async def google() -> AsyncIterator[Google]:
    made = Google()
    async with made.server:
        yield made
        made.hung.set()


def account_of(google: Google) -> ServiceAccount:
    return ServiceAccount("a project", "robot@example.com", PEM, str(google.server.make_url("/token")))


@pytest.fixture
async def fcm(google: Google) -> AsyncIterator[FcmProvider]:
    supervisor = Supervisor()
    provider = FcmProvider(
        url=str(google.server.make_url("/")),
        account=account_of(google),
        timeout_s=40,
        most_connections=4,
        spawn=supervisor.spawn,
        clock=lambda: google.now,
    )
    yield provider
    await provider.close()
    await supervisor.stop()


async def test_a_push_is_one_post_with_an_access_token(google: Google, fcm: FcmProvider) -> None:
    assert await fcm.send(MESSAGE) == Answer("sent")
    assert google.pushes == [("/v1/projects/a project/messages:send", "Bearer access-1", {"message": MESSAGE})]
    [claims] = google.assertions
    assert (claims["iss"], claims["scope"], claims["exp"] - claims["iat"]) == ("robot@example.com", SCOPE, 3600)
    assert abs(claims["iat"] - time.time()) < 3600


async def test_the_access_token_is_kept_and_renewed_once_for_all(google: Google, fcm: FcmProvider) -> None:
    assert await asyncio.gather(*(fcm.send(MESSAGE) for _ in range(5))) == [Answer("sent")] * 5
    google.now = 3600 - 61
    await fcm.send(MESSAGE)
    assert len(google.assertions) == 1
    google.now = 3600 - 59
    await asyncio.gather(*(fcm.send(MESSAGE) for _ in range(5)))
    assert len(google.assertions) == 2
    assert google.pushes[-1][1] == "Bearer access-2"


@pytest.mark.parametrize(
    ("status", "code", "headers", "expected"),
    [
        (404, "UNREGISTERED", {}, Answer("gone")),
        (403, "SENDER_ID_MISMATCH", {}, Answer("gone")),
        (400, "INVALID_ARGUMENT", {}, Answer("refused")),
        (413, "", {}, Answer("refused")),
        (302, "", {"Location": "/elsewhere"}, Answer("refused")),
        (429, "QUOTA_EXCEEDED", {"Retry-After": "30"}, Answer("later", 30)),
        (429, "", {}, Answer("later", 5)),
        (429, "", {"Retry-After": "9999999"}, Answer("later", 3600)),
        (503, "UNAVAILABLE", {"Retry-After": "7"}, Answer("later", 7, is_away=True)),
        (401, "THIRD_PARTY_AUTH_ERROR", {}, Answer("later", 5, is_away=True)),
        (403, "", {}, Answer("later", 5, is_away=True)),
        (404, "", {}, Answer("later", 5, is_away=True)),
        (500, "INTERNAL", {}, Answer("unknown")),
        (502, "", {}, Answer("unknown")),
    ],
)
async def test_what_its_answers_mean(
    google: Google, fcm: FcmProvider, status: int, code: str, headers: dict[str, str], expected: Answer
) -> None:
    google.says = [refusal(status, code, **headers)]
    assert await fcm.send(MESSAGE) == expected
    assert await fcm.send(MESSAGE) == Answer("sent")
    assert len(google.pushes) == 2, "no push is repeated by the provider"


async def test_a_refused_access_token_is_asked_for_anew(google: Google, fcm: FcmProvider) -> None:
    google.says = [refusal(401)]
    await fcm.send(MESSAGE)
    await fcm.send(MESSAGE)
    assert [bearer for _, bearer, _ in google.pushes] == ["Bearer access-1", "Bearer access-2"]


@pytest.mark.parametrize(
    "said",
    [
        web.json_response({"error": "invalid_grant"}, status=400),
        web.Response(text="<html>"),
        web.json_response({"access_token": 5}),
        "cut",
    ],
    ids=["refused", "no JSON", "no token", "cut off"],
)
async def test_without_an_access_token_nothing_was_delivered(
    google: Google, fcm: FcmProvider, said: web.Response | str
) -> None:
    google.token_says = [said]
    assert await asyncio.gather(*(fcm.send(MESSAGE) for _ in range(3))) == [Answer("later", 5, is_away=True)] * 3
    assert (len(google.assertions), google.pushes) == (1, [])
    assert await fcm.send(MESSAGE) == Answer("sent")


async def test_a_push_that_is_cut_off_may_have_arrived(google: Google, fcm: FcmProvider) -> None:
    google.says = ["cut"]
    assert await fcm.send(MESSAGE) == Answer("unknown")
    assert len(google.pushes) == 1
    assert await fcm.send(MESSAGE) == Answer("sent")


async def test_one_that_is_not_answered_may_have_too(google: Google) -> None:
    supervisor = Supervisor()
    hasty = FcmProvider(
        url=str(google.server.make_url("")), account=account_of(google), timeout_s=4, most_connections=4,
        spawn=supervisor.spawn,
    )  # fmt: skip
    try:
        assert await hasty.send(MESSAGE) == Answer("sent")
        google.says = ["hang"]
        hanging = asyncio.create_task(hasty.send(MESSAGE))
        while len(google.pushes) < 2:
            await asyncio.sleep(0.01)
        assert await hasty.send(MESSAGE) == Answer("sent"), "others go on meanwhile"
        assert await hanging == Answer("unknown")
        google.token_says = ["hang"]
        hasty._held = None
        assert await hasty.send(MESSAGE) == Answer("later", 5, is_away=True)
    finally:
        await hasty.close()
        await supervisor.stop()


async def test_where_nobody_listens_nothing_was_delivered(google: Google) -> None:
    supervisor = Supervisor()
    lost = FcmProvider(
        url=f"http://127.0.0.1:{unused_port()}", account=account_of(google), timeout_s=40, most_connections=4,
        spawn=supervisor.spawn,
    )  # fmt: skip
    assert await lost.send(MESSAGE) == Answer("later", 5, is_away=True)
    await lost.close()
    await supervisor.stop()


GOOD = {"type": "service_account", "project_id": "p", "client_email": "e", "private_key": PEM, "token_uri": "https://t"}


def test_credentials_are_read(tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    file.write_text(json.dumps(GOOD))
    assert read_account(file) == ServiceAccount("p", "e", PEM, "https://t")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", json.dumps(GOOD | {"private_key": "hunter2"}), json.dumps(GOOD | {"token_uri": 5})],
    ids=["empty", "a list", "nothing", "no key", "no address"],
)
async def test_bad_credentials_end_the_start_and_are_not_quoted(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key.json"
    file.write_text(text)
    settings = Settings(push=Push(provider="fcm", fcm_credentials_file=str(file)))
    with pytest.raises(BadSettings, match=r"push\.fcm_credentials_file: .*key\.json") as refused:
        provider_of(settings, Supervisor())
    assert "hunter2" not in str(refused.value)
    with pytest.raises(BadCredentials, match="No such file"):
        read_account(tmp_path / "elsewhere.json")
