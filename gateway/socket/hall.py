"""What all connections of one door share, and what they ask of the app that they serve."""

from __future__ import annotations

import asyncio
import base64
import logging
import random
from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

from gateway.counts import SocketCounts
from gateway.socket import frames, packets

if TYPE_CHECKING:
    import msgspec

    from gateway.socket.connection import Connection
    from gateway.socket.wheel import Wheel

log = logging.getLogger(__name__)

FLUSH_BYTES: Final = 65536  # a turn's writes beyond this leave at once, so that `congested` is true in time


class SocketLimits(Protocol):
    """The settings that a connection obeys (`Settings.socket`)."""

    @property
    def ping_interval_s(self) -> float: ...
    @property
    def ping_timeout_s(self) -> float: ...
    @property
    def connect_timeout_s(self) -> float: ...
    @property
    def max_message_bytes(self) -> int: ...
    @property
    def send_queue_bytes(self) -> int: ...
    @property
    def send_queue_age_s(self) -> float: ...


class SocketApp(Protocol):
    """What the connections serve. All calls are synchronous and must be quick; one that raises ends its connection."""

    def on_connect(self, connection: Connection, auth: msgspec.Raw | None) -> None:
        """The first CONNECT of the default namespace: `accept` or `refuse`, now or later."""

    def on_event(self, connection: Connection, name: str, args: list[msgspec.Raw], ack_id: int | None) -> None:
        """An EVENT; reserved names come here too. A Raw is a view that keeps its whole message alive."""

    def on_malformed(self, connection: Connection, ack_id: int | None, field: str | None) -> None:
        """An EVENT packet whose JSON is not ["name", …]."""

    def on_writable(self, connection: Connection) -> None:
        """The peer has read what congested its connection."""

    def on_lost(self, connection: Connection) -> None:
        """The end, exactly once and in the loop turn after it began; only where `on_connect` was called."""


class Flusher:
    """Writes of one loop turn leave together: each connection that wrote is flushed once, at the turn's end."""

    __slots__ = ("_dirty", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._dirty: list[Connection] = []

    def add(self, connection: Connection) -> None:
        """Flush `connection` when this turn is over."""
        if not self._dirty:
            self._loop.call_soon(self._flush)
        self._dirty.append(connection)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            try:
                connection.flush()
            except Exception:  # one transport's fault must not keep the others waiting
                log.exception("a flush failed")


class Hall:
    """What all connections of one door share: the app, the limits, the clock, and the frames that never change."""

    __slots__ = (
        "app",
        "by_address",
        "counts",
        "flush_bytes",
        "flusher",
        "limits",
        "loop",
        "open",
        "ping",
        "wheel",
    )

    def __init__(self, *, app: SocketApp, limits: SocketLimits, wheel: Wheel, loop: asyncio.AbstractEventLoop) -> None:
        self.app = app
        self.limits = limits
        self.wheel = wheel
        self.loop = loop
        self.flusher = Flusher(loop)
        self.flush_bytes = min(FLUSH_BYTES, limits.send_queue_bytes)
        self.open: set[Connection] = set()  # until the transport is gone
        self.by_address: Counter[str] = Counter()
        self.ping = frames.text_frame(packets.PING_PACKET)
        self.counts = SocketCounts()

    def enter(self, connection: Connection) -> None:
        """Count `connection` until `leave`."""
        self.open.add(connection)
        self.by_address[connection.address] += 1

    def leave(self, connection: Connection) -> None:
        """Its transport is gone. Called once."""
        self.open.remove(connection)
        self.by_address[connection.address] -= 1
        if not self.by_address[connection.address]:
            del self.by_address[connection.address]

    def open_frame(self) -> bytes:
        """The Engine.IO handshake. Its sid serves polling only, so nobody keeps it."""
        packet = packets.open_packet(
            new_sid(),
            ping_interval_ms=round(self.limits.ping_interval_s * 1000),
            ping_timeout_ms=round(self.limits.ping_timeout_s * 1000),
            max_message_bytes=self.limits.max_message_bytes,
        )
        return frames.text_frame(packet)


def new_sid() -> str:
    """A fresh session id of 120 bits, safe in JSON. It is a name and no secret: nothing here takes one, so it costs no
    system call."""
    return base64.urlsafe_b64encode(random.randbytes(15)).decode()
