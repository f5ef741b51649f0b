"""What every request under /v1 passes: who asks, may they, what do they say (spec 1, 2 and 7)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, NamedTuple, Protocol, TypeVar

import msgspec
from aiohttp import web
from structlog.contextvars import bind_contextvars

from gateway.auth import AuthError
from gateway.http.problems import problem_of_ack
from gateway.payloads import decode
from handlers.caller import Caller, Claims
from handlers.errors import Refusal
from handlers.wire import MAX_USER_ID, ItemId, Message, encode

MAX_BODY_BYTES: Final = 1_048_576
BODY_PATIENCE_S: Final = 10.0
# With a connection to wait for (2 s at most) and statements behind it, far below the 5 s that an answer may take.
DEED_PATIENCE_S: Final = 2.5

_BEARER: Final = re.compile(r"bearer +(\S+) *", re.IGNORECASE)
_GOOD: Final = b'{"ok":true'
_GOOD_DATA: Final = b'{"ok":true,"data":'
_USER_ID: Final = re.compile(r"[1-9][0-9]{0,15}")

B = TypeVar("B")


class TokenVerifier(Protocol):
    """gateway.auth.Authenticator."""

    async def verify_patiently(self, token: str, *, leeway: bool) -> Claims:
        """The claims of a good token; raises AuthError. Waits only where its key has to be fetched."""
        ...


class Visit(NamedTuple):
    """One request that the door let in."""

    request: web.Request
    claims: Claims

    @property
    def caller(self) -> Caller:
        """Who asks."""
        return self.claims.caller

    def user_id(self, name: str = "id") -> int:
        """The user of `/v1/users/{id}`, or of whatever the path calls them."""
        text = self.request.match_info[name]
        if not _USER_ID.fullmatch(text) or int(text) > MAX_USER_ID:
            raise Refusal("invalid_payload", "A user's id is a number from 1 to 2^53 - 1.", field=name)
        return int(text)

    def item_id(self) -> str:
        """The item of `/v1/videos/{id}` and its kin."""
        try:
            return msgspec.convert(self.request.match_info["id"], ItemId)
        except msgspec.ValidationError:
            raise Refusal("invalid_payload", "An id has 1 to 64 characters, none of them NUL.", field="id") from None


class Reply(NamedTuple):
    """What a deed answers: the bare object, and the reader's inbox head where it is their own state."""

    body: Message | bytes | None  # bytes: JSON already; None: 204
    inbox_seq: int | None = None
    status: int = 200


Deed = Callable[[Visit], Awaitable[Reply]]
DeedWithBody = Callable[[Visit, B], Awaitable[Reply]]
Act = Callable[[Visit, bytes], Awaitable[bytes]]  # an action's payload -> its whole acknowledgement
DeedInLane = Callable[[Visit, B], Awaitable[tuple[bytes, int]]]  # -> the acknowledgement, the status of a good one
HttpHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Door:
    """Turns deeds into aiohttp handlers. `admit` knows who may not come in though their token is good, and which user
    they are (handlers.access.handler.AccessHandler)."""

    def __init__(self, *, verifier: TokenVerifier, admit: Callable[[Claims], Awaitable[Claims]]) -> None:
        self._verifier = verifier
        self._admit = admit

    def reads(self, deed: Deed, *, backends_only: bool = False) -> HttpHandler:
        """A route without a body."""

        async def handle(request: web.Request) -> web.StreamResponse:
            claims = await self._authenticate(request, backends_only)
            async with asyncio.timeout(DEED_PATIENCE_S):
                claims = await self._admit(claims)
                return _response(await deed(Visit(request, claims)))

        return handle

    def acts(self, act: Act, *, backends_only: bool = False) -> HttpHandler:
        """A route whose JSON body is an action's payload: decoded, timed and answered by the lane."""

        async def handle(request: web.Request) -> web.StreamResponse:
            claims = await self._authenticate(request, backends_only)
            _require_json(request)
            body = await _read_body(request)
            async with asyncio.timeout(DEED_PATIENCE_S):
                claims = await self._admit(claims)
            ack = await act(Visit(request, claims), body)
            return _response(Reply(ack)) if ack.startswith(_GOOD) else problem_of_ack(ack)

        return handle

    def writes(self, deed: DeedWithBody[B], body_type: type[B], *, backends_only: bool = False) -> HttpHandler:
        """A route with a JSON body of exactly this type."""
        decoder = msgspec.json.Decoder(body_type)

        async def handle(request: web.Request) -> web.StreamResponse:
            claims = await self._authenticate(request, backends_only)
            _require_json(request)
            body = decode(decoder, await _read_body(request))
            async with asyncio.timeout(DEED_PATIENCE_S):
                claims = await self._admit(claims)
                return _response(await deed(Visit(request, claims), body))

        return handle

    def submits(self, deed: DeedInLane[B], body_type: type[B], *, backends_only: bool = False) -> HttpHandler:
        """The same where the lane answers, which keeps the time itself; the reply is the acknowledgement's data."""
        decoder = msgspec.json.Decoder(body_type)

        async def handle(request: web.Request) -> web.StreamResponse:
            claims = await self._authenticate(request, backends_only)
            _require_json(request)
            body = decode(decoder, await _read_body(request))
            async with asyncio.timeout(DEED_PATIENCE_S):
                claims = await self._admit(claims)
            ack, status = await deed(Visit(request, claims), body)
            if not ack.startswith(_GOOD):
                return problem_of_ack(ack)
            return _response(Reply(ack[len(_GOOD_DATA) : -1], status=status))

        return handle

    async def _authenticate(self, request: web.Request, backends_only: bool) -> Claims:
        given = request.headers.getall("Authorization", [])
        bearer = _BEARER.fullmatch(given[0]) if len(given) == 1 else None
        try:
            claims = await self._verifier.verify_patiently(bearer[1] if bearer else "", leeway=True)
        except AuthError as error:
            if error.code == "unavailable":
                raise Refusal("unavailable", error.message, retry_after_ms=1000) from None
            raise Refusal("unauthorized", error.message) from None
        if claims.caller.user_id is not None:
            bind_contextvars(user_id=claims.caller.user_id)  # lines that are logged on its way name them
        if backends_only and not claims.caller.is_backend:
            raise Refusal("forbidden", "This is for backends and admins.")
        return claims


def _require_json(request: web.Request) -> None:
    if request.content_type != "application/json" or "Content-Encoding" in request.headers:
        raise web.HTTPUnsupportedMediaType


async def _read_body(request: web.Request) -> bytes:
    """The whole body; aiohttp raises its own 413 above the application's `client_max_size`."""
    try:
        async with asyncio.timeout(BODY_PATIENCE_S):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except web.RequestPayloadError:
        raise Refusal("invalid_payload", "The body did not arrive whole.") from None


def _response(reply: Reply) -> web.Response:
    headers = {} if reply.inbox_seq is None else {"X-Inbox-Seq": str(reply.inbox_seq)}
    if reply.body is None:
        return web.Response(status=HTTPStatus.NO_CONTENT, headers=headers)
    body = reply.body if isinstance(reply.body, bytes) else encode(reply.body)
    return web.Response(status=reply.status, body=body, content_type="application/json", headers=headers)
