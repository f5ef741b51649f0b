"""Who knocks: a new connection, until its first bytes say what it wants.

A plain handshake goes straight to the socket's door. Everything else, refusals included, is aiohttp's, which gets the
transport and every byte as if it had been there from the beginning. Only documented calls of both are used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.socket.door import SocketDoor
from gateway.socket.handshake import read_handshake
from gateway.socket.wheel import Wheel


class Porch:
    """Makes a protocol for each new connection: what `loop.create_server` wants. `http` makes aiohttp's; who says
    nothing for `patience_s` is sent away."""

    def __init__(
        self, *, door: SocketDoor, http: Callable[[], asyncio.Protocol], wheel: Wheel, patience_s: float
    ) -> None:
        self.door = door
        self.http = http
        self.wheel = wheel
        self.patience_s = patience_s
        self.waiting: set[Newcomer] = set()

    def __call__(self) -> Newcomer:
        return Newcomer(self)

    def close(self) -> None:
        """Send away who has said nothing yet."""
        for newcomer in tuple(self.waiting):
            newcomer.on_due()


class Newcomer(asyncio.Protocol):
    """One connection that has said nothing yet."""

    __slots__ = ("_porch", "_transport", "tick")

    _transport: asyncio.Transport

    def __init__(self, porch: Porch) -> None:
        self._porch = porch
        self.tick = 0  # the wheel's

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # it is always one
        self._transport = transport
        self._porch.waiting.add(self)
        self._porch.wheel.set(self, self._porch.patience_s)

    def data_received(self, data: bytes) -> None:
        self._go_in()
        handshake = read_handshake(data)
        if handshake is None or not self._porch.door.let_in(self._transport, handshake, data[handshake.size :]):
            self._pass_on(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._go_in()

    def on_due(self) -> None:
        """The wheel: it has waited long enough."""
        self._transport.abort()

    def _go_in(self) -> None:
        self._porch.waiting.discard(self)
        self._porch.wheel.cancel(self)

    def _pass_on(self, data: bytes) -> None:
        http = self._porch.http()
        self._transport.set_protocol(http)
        http.connection_made(self._transport)
        http.data_received(data)
