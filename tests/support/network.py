"""A network between a client and the server that loses what it likes: acks, both directions, or the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Final, Literal

Fate = Literal["pass", "drop", "cut", "half-close", "late"]
"""What becomes of an ack: `drop`: it alone is lost; `cut`: the connection breaks instead; `half-close`: its end comes
instead, without a close frame; `late`: it comes after half a second, and so does all behind it."""

LATE_S: Final = 0.5
_SMALL, _LONG = 126, 127


class Network:
    """A TCP relay to the server's `port` that reads the server's WebSocket frames."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._fates: Iterator[Fate] = iter(())
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.dark = False  # takes everything and delivers nothing, and lets nobody in
        self.lost: list[bytes] = []  # acks that did not get through

    async def __aenter__(self) -> Network:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def meet(self, fates: Iterable[Fate]) -> None:
        """What the next acks meet with; those after them pass."""
        self._fates = iter(fates)

    def cut(self) -> None:
        """Break all connections as they are."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, inner_writer}
        await asyncio.gather(self._up(reader, inner_writer), self._down(inner_reader, writer))

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                if not self.dark:
                    writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            while head.startswith(b"HTTP/1.1 101"):
                await self._deliver(*await _frame(reader), writer)
            writer.write(await reader.read())
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            if not writer.is_closing():
                writer.close()

    async def _deliver(self, frame: bytes, payload: bytes, writer: asyncio.StreamWriter) -> None:
        fate = next(self._fates, "pass") if payload.startswith(b"43") else "pass"
        if fate == "late":
            await asyncio.sleep(LATE_S)
        if fate in ("pass", "late"):
            if not self.dark:
                writer.write(frame)
                await writer.drain()
            return
        self.lost.append(payload)
        if fate == "cut":
            self.cut()
        elif fate == "half-close" and not writer.is_closing():
            writer.write_eof()


async def _frame(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """One of the server's frames, which are not masked: (all of it, its payload)."""
    head = await reader.readexactly(2)
    size = head[1] & 0x7F
    if size in (_SMALL, _LONG):
        long = await reader.readexactly(2 if size == _SMALL else 8)
        head, size = head + long, int.from_bytes(long, "big")
    payload = await reader.readexactly(size)
    return head + payload, payload
