"""A server with a small app, and a client that speaks raw bytes, for tests of the socket's door and connections."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

from gateway.settings import Socket
from gateway.socket.connection import Connection, event_frame
from gateway.socket.door import AddressOf, Refused, SocketDoor, server_options
from gateway.socket.porch import Porch
from gateway.socket.wheel import Wheel
from tests.gateway.socket.frame_maker import CLOSE, TEXT, close, text

QUERY = "/socket.io/?EIO=4&transport=websocket"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class EchoApp:
    """Accepts whoever does not send `{"refuse": …}`; keeps what it saw."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.auths: list[Any] = []
        self.bearers: list[str | None] = []
        self.events: list[tuple[str, list[Any], int | None]] = []
        self.malformed: list[tuple[int | None, str | None]] = []
        self.writable = 0
        self.lost: list[Connection] = []
        self.hold = False  # neither accept nor refuse

    def on_connect(self, connection: Connection, auth: msgspec.Raw | None) -> None:
        self.connections.append(connection)
        self.bearers.append(connection.take_bearer())
        self.auths.append(None if auth is None else msgspec.json.decode(auth))
        if self.hold:
            return
        if self.auths[-1] and "refuse" in self.auths[-1]:
            connection.refuse(b'{"message":"token_invalid","data":{"code":"token_invalid"}}')
        else:
            connection.accept(event_frame("welcome", b"{}"))

    def on_event(self, connection: Connection, name: str, args: list[msgspec.Raw], ack_id: int | None) -> None:
        self.events.append((name, [msgspec.json.decode(arg) for arg in args], ack_id))
        if name == "crash":
            raise RuntimeError("the app has a fault")
        if ack_id is not None:
            connection.ack(ack_id, msgspec.json.encode(args))

    def on_malformed(self, connection: Connection, ack_id: int | None, field: str | None) -> None:
        self.malformed.append((ack_id, field))

    def on_writable(self, connection: Connection) -> None:
        self.writable += 1

    def on_lost(self, connection: Connection) -> None:
        self.lost.append(connection)


class House:
    """A running server: its app, its door, its porch and its port. `http` has aiohttp's protocols, each of one
    connection that the porch has passed on."""

    def __init__(self, app: EchoApp, door: SocketDoor, runner: web.AppRunner, porch: Porch) -> None:
        self.app = app
        self.door = door
        self.runner = runner
        self.porch = porch
        self.http: list[asyncio.Protocol] = []
        self.port = 0

    async def client(
        self, *, query: str = QUERY, connect: bool = True, headers: str = "", tail: bytes = b""
    ) -> RawClient:
        """A client after its handshake, and after CONNECT unless that is not wanted."""
        client = await RawClient.open(self.port)
        client.writer.write(request(query=query, headers=headers) + tail)
        await client.read_handshake()
        assert (await client.text())[:1] == "0"
        if connect:
            client.send("40")
            assert (await client.text()).startswith('40{"sid":"')
            assert await client.text() == '42["welcome",{}]'
        return client

    async def exchange(self, *args: bytes) -> tuple[int, str]:
        """(status, everything) of an HTTP exchange that ends with the connection."""
        client = await RawClient.open(self.port)
        client.writer.write(b"".join(args))
        answer = (await asyncio.wait_for(client.reader.read(), 5)).decode()
        client.writer.close()
        return int(answer.split(" ", 2)[1]), answer

    async def wait_for(self, condition: Callable[[], object], within_s: float = 1.0) -> None:
        """Return as soon as `condition` holds; fail after `within_s`."""
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.005)


class RawClient:
    """Raw bytes out, frames in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int) -> RawClient:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**24))

    def send(self, message: str) -> None:
        self.writer.write(text(message))

    async def read_handshake(self) -> None:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 101 "), head
        digest = hashlib.sha1(KEY.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        assert b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n" in head

    async def frame(self) -> tuple[int, bytes]:
        """(opcode, payload) of the next frame."""
        first, size = await asyncio.wait_for(self.reader.readexactly(2), 5)
        if size > 125:
            size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
        return first & 0xF, await self.reader.readexactly(size)

    async def text(self) -> str:
        opcode, payload = await self.frame()
        assert opcode == TEXT, (opcode, payload)
        return payload.decode()

    async def rest(self) -> tuple[list[str], int | None]:
        """(texts, close code) until the end of the stream; answers the close frame as clients must."""
        texts: list[str] = []
        code = None
        while True:
            try:
                opcode, payload = await self.frame()
            except (asyncio.IncompleteReadError, ConnectionError):
                self.writer.close()
                return texts, code
            if opcode == CLOSE:
                code = int.from_bytes(payload, "big") if payload else 0
                self.writer.write(close(code or None))
            elif opcode == TEXT:
                texts.append(payload.decode())


def request(*, query: str = QUERY, method: str = "GET", headers: str = "", without: str = "", **changes: str) -> bytes:
    """A handshake; `without` leaves a header out, `changes` (with _ for -) replace values."""
    fields = {
        "Host": "test",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
    } | {name.replace("_", "-"): value for name, value in changes.items()}
    fields.pop(without, None)
    lines = [f"{method} {query} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n" + headers + "\r\n").encode()


async def _answer_plainly(_: web.Request) -> web.Response:
    return web.Response(text="done!")


@asynccontextmanager
async def serve(
    *,
    refused: Callable[[], Refused | None] = lambda: None,
    tick_s: float = 0.02,
    has_porch: bool = True,
    address_of: AddressOf = lambda peer, _: peer,
    **settings: Any,
) -> AsyncIterator[House]:
    """A server on a free port; `settings` as in `Settings.socket`. Without a porch all handshakes are aiohttp's."""
    app = EchoApp()
    site = web.Application()
    chosen = Socket(**settings)
    wheel = Wheel(asyncio.get_running_loop(), tick_s=tick_s)
    door = SocketDoor(settings=chosen, app=app, wheel=wheel, admit=refused, address_of=address_of)
    door.add_routes(site.router)
    site.router.add_get("/plain", _answer_plainly)
    runner = web.AppRunner(site, **server_options(chosen))
    await runner.setup()
    assert isinstance(runner.server, web.Server)
    make_http = runner.server

    def pass_on() -> asyncio.Protocol:
        house.http.append(make_http())
        return house.http[-1]

    porch = Porch(door=door, http=pass_on, wheel=wheel, patience_s=chosen.header_timeout_s)
    house = House(app, door, runner, porch)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(porch if has_porch else pass_on, "127.0.0.1", 0)
    house.port = server.sockets[0].getsockname()[1]
    try:
        yield house
    finally:
        server.close()
        porch.close()
        for connection in list(door.connections):
            connection._transport.abort()
        await runner.cleanup()
