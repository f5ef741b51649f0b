"""GET /socket.io/: the HTTP handshake that turns a request into a `Connection`.

Most are plain and come from the porch (`porch.py`), read and checked. aiohttp reads the HTTP of all others; here we
check RFC 6455 section 4.2 and Engine.IO's query, answer 101 and take the transport for ourselves. Refusals are always
aiohttp's to send, and have the status and body that official servers give. The query is read for `EIO` and `transport`
only, never for a token; `X-Forwarded-Host` is never read.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NoReturn, Protocol
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from structlog.contextvars import clear_contextvars

from gateway.counts import SocketCounts
from gateway.socket.connection import Connection
from gateway.socket.hall import Hall, SocketApp, SocketLimits
from gateway.socket.handshake import Handshake, is_key
from gateway.socket.wheel import Wheel

PATH: Final = "/socket.io/"

_WEBSOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class DoorSettings(SocketLimits, Protocol):
    """The settings that the door obeys (`Settings.socket`)."""

    @property
    def allowed_origins(self) -> Collection[str]: ...
    @property
    def max_connections(self) -> int: ...
    @property
    def max_connections_per_address(self) -> int: ...
    @property
    def header_timeout_s(self) -> float: ...


class Refused(msgspec.Struct, frozen=True):
    """Why nobody is let in for the moment: HTTP 503, so that official clients come back by themselves."""

    code: str
    message: str
    retry_after_s: float = 1.0


Admit = Callable[[], Refused | None]
AddressOf = Callable[[str, Sequence[str]], str]
"""(the peer's address, the `X-Forwarded-For` lines) -> the address that a connection counts for."""


def server_options(settings: DoorSettings) -> dict[str, Any]:
    """Options for `web.AppRunner`: time for a whole header, and no access log (it would print query strings).

    aiohttp's keep-alive timer also runs from its first byte to the end of the first header, and bytes that trickle in
    don't extend it: it closes half-sent headers and idle HTTP connections alike. Until then the porch has waited.
    """
    return {"keepalive_timeout": settings.header_timeout_s, "access_log": None}


class SocketDoor:
    """Lets WebSockets in. `admit` has the last word (drain, overload, a database known to be away); `address_of` says
    for which address a connection counts."""

    def __init__(
        self,
        *,
        settings: DoorSettings,
        app: SocketApp,
        wheel: Wheel,
        admit: Admit,
        address_of: AddressOf = lambda peer, _: peer,
    ) -> None:
        self._settings = settings
        self._admit = admit
        self._address_of = address_of
        self._hall = Hall(app=app, limits=settings, wheel=wheel, loop=asyncio.get_running_loop())
        self._origins = frozenset(origin.rstrip("/").lower() for origin in settings.allowed_origins)

    @property
    def connections(self) -> Collection[Connection]:
        """All connections whose transport is open, those in handshake and those that are closing included.
        A live view: copy it before ending any."""
        return self._hall.open

    @property
    def counts(self) -> SocketCounts:
        """How connections came and went."""
        return self._hall.counts

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Serve `/socket.io/`, with and without the last slash."""
        for path in (PATH, PATH.rstrip("/")):
            router.add_route("*", path, self.handle)

    def let_in(self, transport: asyncio.Transport, handshake: Handshake, tail: bytes) -> bool:
        """Begin a connection on `transport`, with what came right behind the handshake; False, and nothing is done,
        where it is to be refused."""
        origins = () if handshake.origin is None else (handshake.origin,)
        forwarded = () if handshake.forwarded_for is None else (handshake.forwarded_for,)
        peer = transport.get_extra_info("peername")
        address = self._address_of(str(peer[0]) if peer else "", forwarded)
        if self._is_foreign(origins, handshake.host) or self._why_not_now(address) is not None:
            return False
        connection = Connection(self._hall, address, _bearer(handshake.authorization or ""))
        transport.set_protocol(connection)
        connection.start(transport, _switching_protocols(handshake.key))
        if tail:
            connection.data_received(tail)
        return True

    async def handle(self, request: web.Request) -> web.Response:
        """Answer a handshake: a refusal is returned, an accepted connection never comes back to aiohttp."""
        address = self._address_of(request.remote or "", request.headers.getall("X-Forwarded-For", []))
        refusal = self._refuse_query(request) or self._refuse_handshake(request) or self._refuse_origin(request)
        refusal = refusal or self._refuse_for_now(address)
        if refusal is not None:
            return refusal
        if request.transport is None:
            return web.Response(status=400)  # the client has gone meanwhile; nobody reads this
        connection = Connection(self._hall, address, _bearer(request.headers.get("Authorization", "")))
        clear_contextvars()  # the log's: whatever begins from here on is no request's any more
        hand_over(request, connection, _switching_protocols(request.headers["Sec-WebSocket-Key"]))

    def _refuse_query(self, request: web.Request) -> web.Response | None:
        if request.query.get("transport") != "websocket":
            return _engine_refusal(400, 0, "Transport unknown")
        if "sid" in request.query:
            return _engine_refusal(400, 1, "Session ID unknown")  # sessions only move here from polling
        if request.method != "GET":
            return _engine_refusal(405, 2, "Bad handshake method", {"Allow": "GET"})
        if request.query.get("EIO") != "4":
            return _engine_refusal(400, 5, "Unsupported protocol version")
        return None

    def _refuse_handshake(self, request: web.Request) -> web.Response | None:
        headers = request.headers
        if headers.get("Sec-WebSocket-Version", "13").strip() != "13":
            return _engine_refusal(426, 3, "Bad request", {"Sec-WebSocket-Version": "13", "Upgrade": "websocket"})
        keys = headers.getall("Sec-WebSocket-Key", [])
        sound = (
            request.version >= (1, 1)
            and "websocket" in _tokens(headers.getall("Upgrade", []))
            and "upgrade" in _tokens(headers.getall("Connection", []))
            and len(headers.getall("Sec-WebSocket-Version", [])) == 1
            and len(keys) == 1
            and is_key(keys[0])
            and not request.body_exists
        )
        return None if sound else _engine_refusal(400, 3, "Bad request")

    def _refuse_origin(self, request: web.Request) -> web.Response | None:
        if self._is_foreign(request.headers.getall("Origin", []), request.host):
            return _engine_refusal(403, 4, "Forbidden")
        return None

    def _is_foreign(self, origins: Sequence[str], host: str) -> bool:
        """Apps send no Origin; a browser's must be our own host or on the list."""
        if not origins or "*" in self._origins:
            return False
        origin = origins[0].rstrip("/").lower()
        return len(origins) > 1 or not (origin in self._origins or _is_own_host(origin, host.lower()))

    def _refuse_for_now(self, address: str) -> web.Response | None:
        refused = self._why_not_now(address)
        if refused is None:
            return None
        self._hall.counts.connects[refused.code] += 1
        return _unavailable(refused)

    def _why_not_now(self, address: str) -> Refused | None:
        return self._refuse_crowd(address) or self._admit()

    def _refuse_crowd(self, address: str) -> Refused | None:
        if len(self._hall.open) >= self._settings.max_connections:
            return Refused("overloaded", "this node holds as many connections as it may", 5.0)
        limit = self._settings.max_connections_per_address
        if limit and self._hall.by_address[address] >= limit:
            return Refused("connection_limit", "too many connections from this address", 30.0)
        return None


def hand_over(request: web.Request, connection: Connection, http_head: bytes) -> NoReturn:
    """Take the request's transport from aiohttp and give it to `connection`; ends the request's handler.

    Everything that aiohttp does not document stands in this function (tried with 3.14.5, see test_door.py):
    `_message_tail` holds what the client sent right behind its header; a RequestHandler that is told of the loss of
    its connection lets go of the request, its timers and its task, and closes no transport where it has none any more;
    and a cancelled handler sends no response. If it breaks, `web.WebSocketResponse` is the way back.
    """
    http, transport = request.protocol, request.transport
    assert transport is not None
    transport.set_protocol(connection)
    tail, http._message_tail = http._message_tail, b""
    if http.writing_paused:
        connection.pause_writing()  # an earlier response on this transport is not read yet
    if not transport.is_reading():
        transport.resume_reading()  # aiohttp stops reading where the tail has grown long
    http.transport = None
    http.connection_lost(None)
    connection.start(transport, http_head)
    if tail:
        connection.data_received(tail)
    raise asyncio.CancelledError


def _switching_protocols(key: str) -> bytes:
    digest = hashlib.sha1(key.encode() + _WEBSOCKET_GUID, usedforsecurity=False).digest()
    accept = base64.b64encode(digest)
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
    )


def _engine_refusal(status: int, code: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """A refusal as Engine.IO servers word it; the connection is closed, since its next bytes may be frames."""
    return _json_response(status, {"code": code, "message": message}, headers)


def _unavailable(refused: Refused) -> web.Response:
    body = {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "code": refused.code,
        "message": refused.message,
        "retryable": True,
        "retryAfterMs": math.ceil(refused.retry_after_s * 1000),
    }
    retry_after = {"Retry-After": str(math.ceil(refused.retry_after_s))}
    return _json_response(503, body, retry_after, "application/problem+json")


def _json_response(
    status: int, body: dict[str, Any], headers: dict[str, str] | None, content_type: str = "application/json"
) -> web.Response:
    response = web.Response(status=status, body=msgspec.json.encode(body), content_type=content_type, headers=headers)
    response.force_close()
    return response


def _bearer(authorization: str) -> str | None:
    scheme, _, token = authorization.partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _tokens(values: list[str]) -> set[str]:
    """The members of a header that is a list, in lower case."""
    return {token.strip().lower() for value in values for token in value.split(",")}


def _is_own_host(origin: str, host: str) -> bool:
    """Whether `origin` names the host that the request asks for. A proxy may have taken off TLS: the origin's scheme
    decides which port is the default one."""
    try:
        parts = urlsplit(origin)
        ours = urlsplit(f"{parts.scheme}://{host}")
        default = _DEFAULT_PORTS.get(parts.scheme)
        return (parts.hostname, parts.port or default) == (ours.hostname, ours.port or default) and bool(ours.hostname)
    except ValueError:
        return False
