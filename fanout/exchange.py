"""The exchange: where the lines of all workers meet, in their parent. It passes frames on and reads none of them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from fanout.line import ALL, ASK, LOST, PARENT, REFUSAL, Cutter, Frame, Writer


class Exchange:
    """Makes a line's socket for each number. `on_gone` hears of numbers whose worker has ended."""

    def __init__(self, *, on_gone: Callable[[int], None] = lambda _: None) -> None:
        self._ends: dict[int, _End] = {}
        self._on_gone = on_gone

    async def attach(self, number: int) -> socket.socket:
        """The socket for the worker of this number (or `PARENT`), in place of the one that an earlier one had.

        A socket pair: it has no path, so nobody else can come in, and it ends with either side."""
        self.detach(number)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        theirs.setblocking(False)
        end = self._ends[number] = _End(number, self)
        await asyncio.get_running_loop().create_unix_connection(lambda: end, sock=ours)
        return theirs

    def detach(self, number: int) -> None:
        """That worker has ended."""
        if (end := self._ends.pop(number, None)) is not None:
            end.close()
            self._on_gone(number)

    def close(self) -> None:
        """All lines end."""
        for number in list(self._ends):
            self.detach(number)

    def pass_on(self, frame: Frame) -> None:
        """One frame, to whom it is for. A question to somebody who is not there is refused at once."""
        encoded = frame.encode()
        if frame.to == ALL:
            for number, end in self._ends.items():
                if number not in (frame.sender, PARENT):
                    end.write(frame.kind, encoded)
        elif (end_of_one := self._ends.get(frame.to)) is not None:
            end_of_one.write(frame.kind, encoded)
        elif frame.kind == ASK and frame.sender in self._ends:
            refusal = Frame(frame.sender, frame.to, REFUSAL, frame.subject, frame.number, b"")
            self._ends[frame.sender].write(REFUSAL, refusal.encode())

    def lost(self, end: _End) -> None:
        """Its other side has closed."""
        if self._ends.get(end.number) is end:
            self.detach(end.number)


class _End(asyncio.Protocol):
    """The exchange's side of one line."""

    def __init__(self, number: int, exchange: Exchange) -> None:
        self.number = number
        self._exchange = exchange
        self._cutter = Cutter()
        self._writer: Writer | None = None

    def write(self, kind: int, frame: bytes) -> None:
        if self._writer is not None:
            self._writer.write(kind, frame)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._writer = Writer(cast("asyncio.WriteTransport", transport))

    def connection_lost(self, _: Exception | None) -> None:
        self._writer = None
        self._exchange.lost(self)

    def pause_writing(self) -> None:
        if self._writer is not None:
            self._writer.pause()

    def resume_writing(self) -> None:
        if self._writer is not None and self._writer.resume():
            self._writer.write(LOST, Frame(self.number, PARENT, LOST, 0, 0, b"").encode())

    def data_received(self, data: bytes) -> None:
        for frame in self._cutter.feed(data):
            self._exchange.pass_on(frame._replace(sender=self.number))
