"""The line of one worker to the others under the same parent: frames over a Unix socket to the parent's exchange
(`fanout/exchange.py`), which passes them on.

What is *said* is a hint: it goes to all other workers at once, and is dropped where the socket is full, which every end
that missed something is told. What is *asked* is answered by one, named by number, and never dropped: whoever asks
waits for the answer, so there are few at a time.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Final, NamedTuple, cast

from fanout.tasks import Spawn

MOST_WORKERS: Final = 64
PARENT: Final = 254  # the parent has a line, too
ALL: Final = 255  # all workers but the sender; not the parent
SAY, ASK, ANSWER, REFUSAL, LOST = range(5)
"""What a frame is: a hint, a question, its answer, that there is none, and that hints were dropped."""

MOST_WAITING: Final = 8 * 2**20  # bytes that wait for a slow reader until hints to it are dropped
LEAST_WAITING: Final = 2**20  # and from which on they are not any more

_HEADER: Final = struct.Struct(">IBBBBI")  # bytes of the body, to, sender, kind, subject, number

log = logging.getLogger(__name__)

Hear = Callable[[bytes], None]
Give = Callable[[int, bytes], Awaitable[bytes]]
"""Answers a question: (who asks, what) -> what is so."""


class Unreachable(ConnectionError):
    """Nobody answers at that number."""


class Frame(NamedTuple):
    """One message. `subject` says whom at the other end it is for, `number` which question an answer belongs to."""

    to: int
    sender: int
    kind: int
    subject: int
    number: int
    body: bytes

    def encode(self) -> bytes:
        return _HEADER.pack(len(self.body), self.to, self.sender, self.kind, self.subject, self.number) + self.body


class Cutter:
    """Cuts a stream of bytes into frames. Pure. Both ends are ours, so nothing is refused."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        rest = self._rest
        rest += data
        at = 0
        while len(rest) - at >= _HEADER.size:
            size, to, sender, kind, subject, number = _HEADER.unpack_from(rest, at)
            end = at + _HEADER.size + size
            if len(rest) < end:
                break
            yield Frame(to, sender, kind, subject, number, bytes(rest[at + _HEADER.size : end]))
            at = end
        del rest[:at]


class Writer:
    """Writes frames to one socket. `pause` and `resume` are what its protocol is told."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        transport.set_write_buffer_limits(high=MOST_WAITING, low=LEAST_WAITING)
        self._transport = transport
        self._full = False
        self._dropped = False

    def write(self, kind: int, frame: bytes) -> None:
        """One frame, encoded: it may be for many."""
        if self._full and kind == SAY:
            self._dropped = True
        elif not self._transport.is_closing():
            self._transport.write(frame)

    def pause(self) -> None:
        self._full = True

    def resume(self) -> bool:
        """Whether something was dropped meanwhile."""
        self._full = False
        dropped, self._dropped = self._dropped, False
        return dropped

    def close(self) -> None:
        """What is written still leaves."""
        self._transport.close()


class Line(asyncio.Protocol):
    """One end. Its subjects are few, and each has one who hears, and one who answers."""

    def __init__(self, number: int, spawn: Spawn) -> None:
        self.number = number
        self._spawn = spawn
        self._cutter = Cutter()
        self._writer: Writer | None = None
        self._hearers: dict[int, Hear] = {}
        self._givers: dict[int, Give] = {}
        self._gap: dict[int, Callable[[], None]] = {}
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self, end: socket.socket) -> None:
        """Use the socket that the exchange has made for this number."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=end)

    async def ended(self) -> None:
        """Return when the other end is gone."""
        await asyncio.shield(self._ended)

    def close(self) -> None:
        """Say no more; what is said already still leaves."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    # -- hints -------------------------------------------------------------------------------------------------------

    def hear(self, subject: int, hear: Hear, gap: Callable[[], None]) -> None:
        """What is said about `subject` goes to `hear` from now on; `gap`: something about whatever was dropped."""
        self._hearers[subject] = hear
        self._gap[subject] = gap

    def ignore(self, subject: int) -> None:
        """And no more."""
        self._hearers.pop(subject, None)
        self._gap.pop(subject, None)

    def say(self, subject: int, body: bytes) -> None:
        """To all other workers. Never waits, never fails."""
        self._write(Frame(ALL, self.number, SAY, subject, 0, body))

    # -- questions ---------------------------------------------------------------------------------------------------

    def answer(self, subject: int, give: Give) -> None:
        """Who answers questions about `subject`. What it raises is logged, and the asker is refused."""
        self._givers[subject] = give

    async def ask(self, to: int, subject: int, body: bytes = b"") -> bytes:
        """The answer of one. Raises Unreachable where there is nobody; waits for as long as it takes."""
        if self._writer is None:
            raise Unreachable("the line is closed")
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._write(Frame(to, self.number, ASK, subject, number, body))
        try:
            return await answer
        finally:
            del self._asked[number]

    # -- the protocol ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._writer = Writer(cast("asyncio.WriteTransport", transport))

    def connection_lost(self, _: Exception | None) -> None:
        self._writer = None
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(Unreachable("the line has ended"))
        if not self._ended.done():
            self._ended.set_result(None)

    def pause_writing(self) -> None:
        if self._writer is not None:
            self._writer.pause()

    def resume_writing(self) -> None:
        if self._writer is not None and self._writer.resume():
            self._write(Frame(ALL, self.number, LOST, 0, 0, b""))

    def data_received(self, data: bytes) -> None:
        for frame in self._cutter.feed(data):
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        if frame.kind == SAY:
            if (hear := self._hearers.get(frame.subject)) is not None:
                hear(frame.body)
        elif frame.kind == LOST:
            for gap in list(self._gap.values()):
                gap()
        elif frame.kind == ASK:
            self._spawn(self._give(frame))
        elif (asked := self._asked.get(frame.number)) is not None and not asked.done():
            if frame.kind == ANSWER:
                asked.set_result(frame.body)
            else:
                asked.set_exception(Unreachable(f"number {frame.sender} does not answer"))

    async def _give(self, question: Frame) -> None:
        kind, body = REFUSAL, b""
        if (give := self._givers.get(question.subject)) is not None:
            try:
                kind, body = ANSWER, await give(question.sender, question.body)
            except Exception as error:  # whoever asks must not wait for ever
                log.warning("a question of a worker failed: %s", type(error).__name__)
        self._write(Frame(question.sender, self.number, kind, question.subject, question.number, body))

    def _write(self, frame: Frame) -> None:
        if self._writer is not None:
            self._writer.write(frame.kind, frame.encode())
