"""One user's connection: who they are, in which order they are answered, and when it ends.

A connection's requests are answered in the order sent: its actions follow each other through the lane,
a read waits for the actions before it, and what comes after a read waits for the read.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import structlog

from gateway.auth import AuthError
from gateway.routes import Route
from gateway.socket.closing import ENDINGS, closing_body
from gateway.socket.connection import ASKED
from gateway.socket.wish import SUSPENDED, ConnectRefused, refuse_connect
from handlers.errors import Refusal, refusal_ack
from handlers.wire import Message, encode

if TYPE_CHECKING:
    from fanout.cursor import Cursor
    from gateway.socket.app import ClientApp
    from gateway.socket.connection import Connection
    from handlers.caller import Claims

log = structlog.get_logger()

EXPIRY_NOTICE_S: Final = 60.0
_ERROR_WINDOW_S: Final = 60.0
_REFUSED_WITH: Final[dict[str, ConnectRefused | AuthError]] = {
    "revoked": AuthError("token_invalid"),
    "user_suspended": SUSPENDED,
}
_COUNTED_ERRORS: Final = frozenset({"invalid_payload", "unknown_event"})


class Waiting(NamedTuple):
    """A request that waits for those before it on its connection."""

    route: Route
    request: Any
    payload: msgspec.Raw
    ack_id: int | None
    received_at: float  # on the loop's clock


class Session:
    """An accepted (or arriving) connection of a user. Small, since most of them are idle.

    It is also what delivery writes to (its Sink), and what the wheel reminds of the token's end.
    """

    __slots__ = (
        "acting", "app", "connection", "cursor", "device_id", "elsewhere", "errors", "expires_at", "generation",
        "issued_at", "newer", "over", "reading", "tick", "token_hash", "user_id", "waiting", "warned",
    )  # fmt: skip

    def __init__(self, app: ClientApp, connection: Connection, device_id: str | None) -> None:
        self.app = app
        self.connection = connection
        self.user_id = 0  # until the token was verified, and its identity looked up
        self.device_id = device_id
        self.cursor: Cursor | None = None
        self.generation = 0
        self.elsewhere = 0  # older connections of this user on other nodes
        self.newer = False  # announced a newer protocol than ours
        self.expires_at = 0.0  # on the loop's clock
        self.issued_at: int | None = None  # the token's Unix second
        self.token_hash: int | None = None  # of its `jti`, which itself would take three times the memory
        self.warned = False
        self.over = False  # the token has expired, and what was in flight then finishes
        self.acting = 0  # actions in the lane
        self.reading = False
        self.waiting: deque[Waiting] | None = None
        self.errors: list[float] | None = None
        self.tick = 0

    @property
    def is_gone(self) -> bool:
        """True once the connection has ended."""
        return self.connection.session is not self

    # -- what delivery writes to -----------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """True while the transport takes nothing more."""
        return self.connection.congested

    def write(self, frame: bytes) -> None:
        """Queue a finished frame for this turn's flush."""
        self.connection.write(frame)

    def cut(self, code: str) -> None:
        """End the connection with this closing code, in the way that spec 2 gives it."""
        self.app.wheel.cancel(self)
        if code in _REFUSED_WITH and self.connection.phase == ASKED:  # it hears of no `closing` before its `welcome`
            refuse_connect(self.connection, _REFUSED_WITH[code])
            return
        message, retryable, disconnect, close_code = ENDINGS[code]
        body = closing_body(code, message, retryable, self.app.reconnect_after_ms(code))
        closing = self.app.event_frame("closing", body)
        self.connection.end(closing=closing, disconnect=disconnect, code=close_code, reason=code)

    # -- requests --------------------------------------------------------------------------------

    def receive(self, event: str, args: list[msgspec.Raw], ack_id: int | None) -> None:
        """Take one event of the client; it is answered, now or later, whatever it is."""
        try:
            if self.over:
                raise Refusal("unauthorized", "The token has expired.")
            route, request, payload = self.app.dispatch.decode(event, args, lenient=self.newer)
            if self.in_flight >= self.app.limits.max_in_flight:
                raise Refusal("overloaded", "Too many requests wait on this connection.", retry_after_ms=100)
        except Refusal as refusal:
            self.refuse(refusal, ack_id, event)
            return
        now = self.app.loop.time()
        if self.waiting is not None or self.reading or (route.read is not None and self.acting > 0):
            if self.waiting is None:
                self.waiting = deque()
            self.waiting.append(Waiting(route, request, payload, ack_id, now))
        else:
            self._start(route, request, payload, ack_id, now, now)

    @property
    def in_flight(self) -> int:
        """Requests that are not answered yet."""
        return self.acting + self.reading + (len(self.waiting) if self.waiting else 0)

    def refuse(self, refusal: Refusal, ack_id: int | None, event: str | None = None) -> None:
        """Answer with a refusal. The tenth malformed request in a minute ends the connection."""
        self.app.dispatch.on_socket.refuse(event, refusal.code)
        if ack_id is not None:
            self.connection.ack(ack_id, refusal_ack(refusal))
        if refusal.code not in _COUNTED_ERRORS or (self.newer and refusal.code == "unknown_event"):
            return
        now = self.app.loop.time()
        self.errors = [at for at in self.errors or () if at > now - _ERROR_WINDOW_S]
        self.errors.append(now)
        if len(self.errors) >= self.app.limits.bad_requests_per_minute:
            self.cut("too_many_errors")

    def _start(
        self, route: Route, request: Any, payload: msgspec.Raw, ack_id: int | None, received_at: float, now: float
    ) -> None:
        try:
            if route.read is None:
                self.app.dispatch.submit(
                    self.user_id,
                    route,
                    request,
                    payload,
                    now=now,
                    received_at=received_at,
                    order_key=self.cursor,
                    answer=partial(self._acted, route.event, ack_id),
                )
                self.acting += 1
            else:
                self.app.dispatch.charge(self.user_id, now)
                answer = route.read(self, request)
                if isinstance(answer, Message):
                    self._answer(route.event, ack_id, answer)
                else:
                    self.reading = True
                    self.app.spawn(self._read(route.event, answer, ack_id, received_at + self.app.limits.deadline_s))
        except Refusal as refusal:
            self.refuse(refusal, ack_id, route.event)

    def _answer(self, event: str, ack_id: int | None, data: Message) -> None:
        self.app.dispatch.on_socket.done[event] += 1
        if ack_id is not None:
            self.connection.ack(ack_id, b'{"ok":true,"data":%b}' % encode(data))

    def _acted(self, event: str, ack_id: int | None, body: bytes) -> None:
        self.acting -= 1
        self.app.dispatch.on_socket.count(event, body)
        if ack_id is not None:
            self.connection.ack(ack_id, body)
        if self.waiting is not None:
            self._go_on()

    async def _read(self, event: str, answer: Awaitable[Message], ack_id: int | None, due: float) -> None:
        try:
            async with asyncio.timeout_at(due):
                self._answer(event, ack_id, await answer)
        except Refusal as refusal:
            self.refuse(refusal, ack_id, event)
        except Exception as error:
            self.refuse(self.app.refusal_of(error, event, self.user_id), ack_id, event)
        finally:
            self.reading = False
            if self.waiting is not None:
                self._go_on()

    def _go_on(self) -> None:
        while self.waiting and not self.reading:
            if self.waiting[0].route.read is not None and self.acting:
                return
            item, now = self.waiting.popleft(), self.app.loop.time()
            if now < item.received_at + self.app.limits.deadline_s:
                self._start(*item, now)
            else:
                late = Refusal("unavailable", "Those before it took too long.", retry_after_ms=1000)
                self.refuse(late, item.ack_id, item.route.event)
        if not self.waiting:
            self.waiting = None

    # -- the token's end -------------------------------------------------------------------------

    def take_token(self, claims: Claims) -> None:
        """Remember when the token ends, on the monotonic clock, and what a revocation would know it by."""
        self.expires_at = self.app.loop.time() + claims.expires_at - time.time()
        self.issued_at = None if claims.issued_at is None else math.floor(claims.issued_at)
        self.token_hash = None if claims.jti is None else hash(claims.jti)

    def watch_expiry(self, remaining_s: float) -> None:
        """Be reminded of the token's end, so far away."""
        self.warned = self.over = False
        self.app.wheel.set(self, max(remaining_s - EXPIRY_NOTICE_S, 0))

    def on_due(self) -> None:
        """The wheel: 60 s before the end a notice, at the end actions in flight finish and it is over."""
        left_s = self.expires_at - self.app.loop.time()
        if left_s <= 0:
            if self.in_flight:
                self.over = True  # or a client that is always busy would stay for ever
                self.app.wheel.set(self, 0.1)
            else:
                self.cut("token_expired")
            return
        if not self.warned and left_s <= EXPIRY_NOTICE_S:
            self.warned = True
            self.connection.write(self.app.event_frame("auth:expiring", b'{"inMs":%d}' % int(left_s * 1000)))
        self.app.wheel.set(self, left_s if self.warned else left_s - EXPIRY_NOTICE_S)
