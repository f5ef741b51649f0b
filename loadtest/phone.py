"""One Socket.IO client over WebSocket, as cheap as Python allows: what the client spends, the server can't.

Frames are masked with the key 0, which leaves the payload as it is; the server has to unmask it all the same.
Whatever one chunk of bytes makes a phone say leaves in one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec

CONNECT_PATIENCE_S: Final = 20.0
CONNECTING_AT_ONCE: Final = 100
NOTICE_S, EACH_NOTICE_S = 0.05, 0.0002  # a server takes that long to notice that phones are gone

_REQUEST: Final = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: %b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: bG9hZHRlc3QgYXBwbGF1cw==\r\n\r\n"
)
_NO_MASK: Final = bytes(4)
_SHORT: Final = 125
_TEXT, _PING, _CLOSE = 0x81, 0x89, 0x88
_EVENT: Final = b'42["notification"'
_WELCOME: Final = b'42["welcome"'


class PhoneFailed(Exception):
    """The server did not let the phone in, or ended its connection."""


class Address(msgspec.Struct, frozen=True):
    """Where a server listens, and the first words of the message that says that a phone may begin."""

    host: str
    port: int
    welcome: bytes


def text_frame(text: bytes) -> bytes:
    """A client's whole text frame."""
    size = len(text)
    if size <= _SHORT:
        return bytes((_TEXT, 0x80 | size)) + _NO_MASK + text
    return bytes((_TEXT, 0xFE)) + size.to_bytes(2, "big") + _NO_MASK + text


class Phone(asyncio.Protocol):
    """From the handshake to `ready`, then a subclass's `acked` and `heard` get what comes."""

    __slots__ = ("_address", "_auth", "_out", "_rest", "_upgraded", "ready", "transport")

    transport: asyncio.Transport

    def __init__(self, address: Address, auth: bytes = b"") -> None:
        self._address = address
        self._auth = auth  # JSON of CONNECT
        self._rest = b""  # of a frame that is not whole yet
        self._upgraded = False
        self._out: list[bytes] = []
        self.ready: asyncio.Future[None] | None = None

    # -- for subclasses ------------------------------------------------------------------------------------------

    def acked(self, ack_id: int, message: bytes) -> None:
        """An acknowledgement; `message` is the whole packet."""

    def heard(self, message: bytes) -> None:
        """An event; `message` is the whole packet."""

    def welcomed(self, message: bytes) -> None:
        """The packet of `welcome`; events that are resumed from come after it, before `ready`."""

    def lost(self) -> None:
        """The connection has ended after `ready`."""

    def say(self, frame: bytes) -> None:
        """Send a frame with whatever else this chunk brings about."""
        self._out.append(frame)

    def say_now(self, frame: bytes) -> None:
        """Send a frame from outside of `acked` and `heard`."""
        self.transport.write(frame)

    # -- what the event loop calls -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # it is always one
        self.transport = transport
        transport.write(_REQUEST % f"{self._address.host}:{self._address.port}".encode())

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, end = 0, len(data)
        if not self._upgraded:
            at = self._take_http_head(data)
        while at + 2 <= end:
            size, body = data[at + 1], at + 2
            if size > _SHORT:
                width = 2 if size == 126 else 8
                body += width
                if body > end:
                    break
                size = int.from_bytes(data[at + 2 : body], "big")
            if body + size > end:
                break
            if data[at] == _TEXT:
                self._take(data[body : body + size])
            elif data[at] == _CLOSE:
                self.transport.close()
            elif data[at] != _PING:
                self.transport.abort()  # nothing else is ever sent to us
            at = body + size
        if at < end:
            self._rest = data[at:]
        if self._out:
            self.transport.write(self._out[0] if len(self._out) == 1 else b"".join(self._out))
            self._out.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.ready is None:
            self.lost()
        elif not self.ready.done():
            self.ready.set_exception(PhoneFailed(f"connection lost: {self._rest[:100]!r}"))

    # -- inside --------------------------------------------------------------------------------------------------

    def _take_http_head(self, data: bytes) -> int:
        """Where the frames begin; at the end of `data` while the head is not whole."""
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0:
            self._rest = data
            return len(data)
        if not data.startswith(b"HTTP/1.1 101"):
            self._fail(data)
            return len(data)
        self._upgraded = True
        return head_end + 4

    def _take(self, message: bytes) -> None:
        kind = message[:2]
        if kind == b"43":
            self.acked(int(message[2 : message.index(b"[")]), message)
        elif kind == b"42" and self.ready is None:
            self.heard(message)
        elif message == b"2":
            self.say(text_frame(b"3"))
        elif self.ready is not None and not self.ready.done():
            self._greet(message)

    def _greet(self, message: bytes) -> None:
        assert self.ready is not None
        if message.startswith(b"0{"):
            self.say(text_frame(b"40" + self._auth))
        elif message.startswith(b"44"):
            self._fail(message)
        elif message.startswith(_EVENT):
            self.heard(message)
        elif message.startswith(_WELCOME):
            self.welcomed(message)
        if message.startswith(self._address.welcome):
            self.ready.set_result(None)
            self.ready = None

    def _fail(self, said: bytes) -> None:
        if self.ready is not None and not self.ready.done():
            self.ready.set_exception(PhoneFailed(said[:200].decode(errors="replace")))
        self.transport.abort()


P = TypeVar("P", bound=Phone)


async def connect_all(
    address: Address,
    make: Callable[[int], P],
    count: int,
    *,
    at_once: int = CONNECTING_AT_ONCE,
    arrived: Callable[[P], None] = lambda phone: None,
) -> list[P]:
    """`count` phones that are ready, `at_once` connecting at a time. Raises PhoneFailed, OSError or TimeoutError."""
    phones: list[P] = []
    numbers = iter(range(count))

    async def connect_some() -> None:
        for number in numbers:
            phones.append(await connect(address, make(number)))
            arrived(phones[-1])

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, count)):
            group.create_task(connect_some())
    return phones


async def connect(address: Address, phone: P, *, patience_s: float = CONNECT_PATIENCE_S) -> P:
    """The same phone, ready. Raises PhoneFailed, OSError or TimeoutError."""
    loop = asyncio.get_running_loop()
    ready = phone.ready = loop.create_future()
    transport: asyncio.Transport | None = None
    try:
        async with asyncio.timeout(patience_s):
            transport, _ = await loop.create_connection(lambda: phone, address.host, address.port)
            await ready
    except BaseException:
        if transport is not None:
            transport.abort()
        raise
    return phone


async def hang_up(phones: Sequence[Phone]) -> None:
    """Close all connections and let the server notice."""
    for phone in phones:
        phone.transport.abort()
    await asyncio.sleep(NOTICE_S + EACH_NOTICE_S * len(phones))
