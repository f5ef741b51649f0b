"""The product's side of a socket: CONNECT to welcome, events to dispatch, and every way to leave."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from fanout.delivery import Delivery
from fanout.hub import Hub
from gateway.auth import Authenticator, AuthError, KeyUnknown
from gateway.dispatch import Dispatch
from gateway.socket.arrivals import Arrivals, Arriving
from gateway.socket.evictions import Evictions
from gateway.socket.session import Session
from gateway.socket.wish import PROTOCOL, SUSPENDED, ConnectRefused, Wish, read_wish, refuse_connect
from handlers.access.handler import AccessHandler
from handlers.access.identities import Identities
from handlers.errors import Refusal
from handlers.inbox.envelope import timestamp_of
from handlers.inbox.rules import is_complete
from handlers.messaging.typing import Typing
from handlers.wire import Message, RefreshAck, RefreshRequest
from storage.arrivals import Arrival
from storage.db import is_connection_lost

if TYPE_CHECKING:
    from gateway.settings import Settings
    from gateway.socket.connection import Connection
    from gateway.socket.wheel import Wheel
    from handlers.caller import Claims

log = structlog.get_logger()


class WelcomeLimits(Message):
    max_message_bytes: int
    actions_per_second: float


class Reconnect(Message):
    max_delay_ms: int


class Welcome(Message):
    """The first event after the CONNECT reply."""

    user_id: int
    node: str
    protocol: int
    epoch: str
    seq: int
    oldest_seq: int
    complete: bool
    server_time: str
    token_expires_in_ms: int
    limits: WelcomeLimits
    reconnect: Reconnect


class SessionLimits(msgspec.Struct, frozen=True):
    """What one connection may have open."""

    max_in_flight: int
    bad_requests_per_minute: int
    max_per_user: int
    deadline_s: float  # from the receipt of a request on


TOO_MANY: Final = "connection_limit", "This user has too many connections."


class ClientApp:
    """What `gateway.socket.connection` calls. `epoch` gives the database's history of now."""

    def __init__(
        self,
        *,
        settings: Settings,
        node: str,
        epoch: Callable[[], str],
        authenticator: Authenticator,
        identities: Identities,
        hub: Hub,
        wheel: Wheel,
        event_frame: Callable[[str, bytes], bytes],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._settings = settings
        self._node = node
        self._epoch = epoch
        self._authenticator = authenticator
        self._identities = identities
        self._hub = hub
        self.wheel = wheel
        self.loop = asyncio.get_running_loop()  # to ask for it each time is a system call
        self.event_frame = event_frame
        self.spawn = spawn
        self.limits = SessionLimits(
            settings.socket.max_in_flight,
            settings.socket.bad_requests_per_minute,
            settings.socket.max_connections_per_user,
            settings.lane.deadline_s,
        )
        # Parts that in turn know this app: wiring ties the knot with `complete`.
        self.dispatch: Dispatch
        self._delivery: Delivery
        self._arrivals: Arrivals
        self._access: AccessHandler
        self._evictions: Evictions
        self._announce: Callable[[int, str, int], None]
        self._left: Callable[[int, int], None]
        self._typing: Typing

    def complete(
        self,
        *,
        dispatch: Dispatch,
        delivery: Delivery,
        arrivals: Arrivals,
        access: AccessHandler,
        evictions: Evictions,
        announce: Callable[[int, str, int], None],
        left: Callable[[int, int], None],
        typing: Typing,
    ) -> None:
        """Hand in what could not exist before this app. `announce` ends the older connections of a device that
        has connected, on every node; `left` tells presence of a connection (user, generation) that has ended."""
        self.dispatch = dispatch
        self._delivery = delivery
        self._arrivals = arrivals
        self._access = access
        self._evictions = evictions
        self._announce = announce
        self._left = left
        self._typing = typing

    # -- SocketApp -------------------------------------------------------------------------------

    def on_connect(self, connection: Connection, auth: msgspec.Raw | None) -> None:
        """CONNECT: verify the token, enter the hub, then ask the database."""
        bearer = connection.take_bearer()  # in any case, so that it does not stay in memory
        try:
            wish = read_wish(auth)
            session = connection.session = Session(self, connection, wish.device_id)
            session.newer = wish.protocol > PROTOCOL
            token = wish.token or bearer or ""
            try:
                self._enter(session, wish, self._authenticator.verify(token, leeway=False))
            except KeyUnknown:
                self.spawn(self._enter_later(session, wish, token))
        except (ConnectRefused, AuthError) as refused:
            refuse_connect(connection, refused)

    def on_event(self, connection: Connection, name: str, args: list[msgspec.Raw], ack_id: int | None) -> None:
        """EVENT of an accepted connection."""
        connection.session.receive(name, args, ack_id)

    def on_malformed(self, connection: Connection, ack_id: int | None, field: str | None) -> None:
        """An EVENT that could not be read."""
        connection.session.refuse(Refusal("invalid_payload", "This is not a valid event.", field=field), ack_id)

    def on_writable(self, connection: Connection) -> None:
        """The transport takes more again."""
        session = connection.session
        if session is not None and session.cursor is not None:
            self._delivery.writable(session.cursor)

    def on_lost(self, connection: Connection) -> None:
        """The connection is gone, whatever ended it."""
        session: Session | None = connection.session
        if session is None:
            return
        connection.session = None
        self.wheel.cancel(session)
        session.waiting = None
        if session.cursor is not None:
            self._delivery.detach(session.cursor)
            self._typing.left(session)
        if session.generation:
            self._left(session.user_id, session.generation)

    # -- arriving --------------------------------------------------------------------------------

    async def _enter_later(self, session: Session, wish: Wish, token: str) -> None:
        """The token's key is not known: enter when its issuer has been asked."""
        try:
            claims = await self._authenticator.verify_patiently(token, leeway=False)
            if not session.is_gone:
                self._enter(session, wish, claims)
        except (ConnectRefused, AuthError) as refused:
            refuse_connect(session.connection, refused)

    def _enter(self, session: Session, wish: Wish, claims: Claims) -> None:
        session.take_token(claims)
        user_id = self._identities.known(claims)
        if user_id is not None:
            self._seat(session, user_id)
        self._arrivals.add(Arriving(session, claims, wish.last_seq, wish.epoch))

    def _seat(self, session: Session, user_id: int) -> None:
        """Into the hub, before the head is read and the token checked: nothing can slip in between."""
        device_id = session.device_id
        others = sum(1 for cursor in self._hub.cursors_of(user_id) if not device_id or cursor.device_id != device_id)
        if others >= self.limits.max_per_user:
            raise ConnectRefused(*TOO_MANY)
        session.user_id = user_id
        session.cursor = self._delivery.attach(user_id, session, device_id or "")

    def seat_identity(self, arriving: Arriving, user_id: int | None) -> None:
        """The database has said whose identity it is (None: nobody's)."""
        session = arriving.session
        if session.is_gone:
            return
        try:
            if user_id is None:
                raise AuthError("token_invalid")
            self._seat(session, user_id)
        except (ConnectRefused, AuthError) as refused:
            refuse_connect(session.connection, refused)

    def welcome(self, arriving: Arriving, found: Arrival | None) -> None:
        """The database has answered: accept, or refuse with what it said."""
        session = arriving.session
        assert session.cursor is not None
        if session.cursor.gone:
            if session.generation:  # presence learnt of it after the connection was lost
                self._left(session.user_id, session.generation)
            return
        if found is None:
            refuse_connect(session.connection, AuthError("token_invalid"))
            return
        if found.status != "active":
            refuse_connect(session.connection, SUSPENDED)
            return
        if session.elsewhere and session.elsewhere + self._older_here(session) >= self.limits.max_per_user:
            refuse_connect(session.connection, ConnectRefused(*TOO_MANY))
            return
        session.cursor.generation = session.generation
        at, complete = self._position(arriving, found)
        remaining_s = session.expires_at - self.loop.time()
        body = msgspec.json.encode(self._welcome(session.user_id, found, complete, remaining_s))
        session.connection.accept(self.event_frame("welcome", body))
        session.watch_expiry(remaining_s)
        self._delivery.start(session.cursor, at, found.seq, lambda seq: self._resumed(session, seq))
        if session.device_id:
            self._announce(session.user_id, session.device_id, session.generation)

    def _older_here(self, session: Session) -> int:
        """How many accepted connections its user has on this node; not those of the same device, which end."""
        device_id = session.device_id
        here = self._hub.cursors_of(session.user_id)
        return sum(1 for each in here if each.generation and (not device_id or each.device_id != device_id))

    def turn_away(self, arriving: Arriving) -> None:
        """The database is away: close without a packet, so that official clients come back by themselves."""
        arriving.session.connection.drop()

    def _position(self, arriving: Arriving, found: Arrival) -> tuple[int, bool]:
        """(where the cursor starts, complete)."""
        if arriving.last_seq is None:
            return found.seq, True
        same_history = arriving.epoch is None or arriving.epoch == self._epoch()
        if same_history and is_complete(arriving.last_seq, found.seq, found.oldest_seq):
            return arriving.last_seq, True
        return found.seq, False

    def _welcome(self, user_id: int, found: Arrival, complete: bool, remaining_s: float) -> Welcome:
        return Welcome(
            user_id=user_id,
            node=self._node,
            protocol=PROTOCOL,
            epoch=self._epoch(),
            seq=found.seq,
            oldest_seq=found.oldest_seq,
            complete=complete,
            server_time=timestamp_of(datetime.now(UTC)),
            token_expires_in_ms=max(int(remaining_s * 1000), 0),
            limits=WelcomeLimits(self._settings.socket.max_message_bytes, self._settings.limits.actions_per_second),
            reconnect=Reconnect(int(self._settings.drain.reconnect_spread_s * 1000)),
        )

    def _resumed(self, session: Session, seq: int) -> None:
        session.connection.write(self.event_frame("resumed", b'{"seq":%d}' % seq))

    # -- what a client asks of its own connection -------------------------------------------------

    async def refresh(self, session: Session, request: RefreshRequest) -> RefreshAck:
        """`auth:refresh`: a later expiry for the same user; a bad token leaves the old deadline."""
        try:
            claims = await self._authenticator.verify_patiently(request.token, leeway=False)
        except AuthError as error:
            if error.code == "unavailable":
                raise Refusal("unavailable", error.message, retry_after_ms=1000) from None
            raise Refusal("unauthorized", error.message, field="token") from None
        await self._check_standing(session, claims)
        session.take_token(claims)
        remaining_s = claims.expires_at - time.time()
        session.watch_expiry(remaining_s)
        return RefreshAck(int(remaining_s * 1000))

    async def _check_standing(self, session: Session, claims: Claims) -> None:
        """Refuse a fresh token that is another user's or revoked; in the step after this it is the session's.

        Whatever was revoked while the database answered is either in the answer, or will be looked for among the tokens
        of sessions; where such a look came in between, it missed this one, so ask again.
        """
        looks = -1
        while looks != self._evictions.applied:
            looks = self._evictions.applied
            standing = await self._access.standing(claims)
        if standing.user_id != session.user_id:
            raise Refusal("unauthorized", "The token is another user's.", field="token")
        if standing.is_revoked:
            raise Refusal("unauthorized", "The token is not valid.", field="token")

    def refusal_of(self, error: Exception, event: str, user_id: int) -> Refusal:
        """An unexpected error of a read, as the caller is told of it."""
        if isinstance(error, TimeoutError) or is_connection_lost(error):
            return Refusal("unavailable", "The database does not answer.", retry_after_ms=1000)
        log.error("read_failed", action=event, user_id=user_id, error=type(error).__name__)
        return Refusal("internal", "Something went wrong.")

    def reconnect_after_ms(self, code: str) -> int | None:
        """When a client that is told to go may come back: spread, so that they don't come at once."""
        if code in ("draining", "unavailable"):
            return random.randint(0, int(self._settings.drain.reconnect_spread_s * 1000))
        return None
