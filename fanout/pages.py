"""Pages of inboxes, read together: what all pumps want at the moment takes a few statements, not one or three each.

A storm of reconnects is thousands of pumps that want a page at once. Each gets its turn in the order of asking, and one
page in it, so that a long inbox holds nobody up; each statement is bounded, so that memory and latency are; and no more
than `READERS` run at a time, so that a storm leaves the database to others too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from fanout.cursor import Cursor
from fanout.tasks import Spawn

READERS: Final = 2  # one is read by the database while another is rendered here
EVENTS_AT_ONCE: Final = 1_000  # of one statement, about; more gain nothing

Page = list[tuple[int, bytes]]
"""Events as (seq, envelope JSON), in order and without a gap."""


class Wanted(NamedTuple):
    """The user's events `after < seq <= upto`."""

    user_id: int
    after: int
    upto: int


ReadPages = Callable[[Sequence[Wanted], int], Awaitable[Sequence[Page | None]]]
"""(wanted, limit) -> of each a page of at most `limit`, from `after + 1` on, or from further up where retention has
overtaken. None says: not this time, ask again; the first one always gets its page."""


class ReadFailed(Exception):
    """A page could not be read; the message has the name of the reason."""


class Pages:
    """Reads for cursors. Readers run as tasks of `spawn`, and only while somebody waits."""

    def __init__(self, *, read_pages: ReadPages, spawn: Spawn, limit: int) -> None:
        self._read_pages = read_pages
        self._spawn = spawn
        self._limit = limit
        self._waiting: deque[tuple[Cursor, asyncio.Future[Page]]] = deque()
        self._readers = 0
        self._is_coming = False  # a reader was started that has not looked yet

    async def next_of(self, cursor: Cursor) -> Page:
        """What comes after the cursor, up to its goal; it must not move meanwhile. For one that goes, nothing is read.
        Raises ReadFailed, as do all that were in the same statement."""
        answer: asyncio.Future[Page] = asyncio.get_running_loop().create_future()
        self._waiting.append((cursor, answer))
        self._start_reader()
        return await answer

    def _start_reader(self) -> None:
        if not self._is_coming and self._readers < READERS:
            self._is_coming = True
            self._readers += 1
            self._spawn(self._read())

    async def _read(self) -> None:
        try:
            while taken := self._take():
                await self._answer(taken)
        finally:
            self._readers -= 1

    def _take(self) -> list[tuple[Cursor, asyncio.Future[Page]]]:
        """Those who come next, as many as fit into a statement."""
        self._is_coming = False
        taken, room = [], EVENTS_AT_ONCE
        while self._waiting and room > 0:
            cursor, answer = self._waiting.popleft()
            if cursor.gone and not answer.done():
                answer.set_result([])
            elif not answer.done():
                taken.append((cursor, answer))
                room -= min(cursor.goal() - cursor.at, self._limit)
        if self._waiting:
            self._start_reader()
        return taken

    async def _answer(self, taken: list[tuple[Cursor, asyncio.Future[Page]]]) -> None:
        try:
            wanted = [Wanted(cursor.user_id, cursor.at, cursor.goal()) for cursor, _ in taken]
            pages = await self._read_pages(wanted, self._limit)
            again = []
            for asking, page in zip(taken, pages, strict=True):
                if page is None:
                    again.append(asking)
                elif not asking[1].done():
                    asking[1].set_result(page)
            self._waiting.extendleft(reversed(again))
        except Exception as error:  # whatever it is, nobody must wait for ever
            for _, answer in taken:
                if not answer.done():
                    answer.set_exception(ReadFailed(type(error).__name__))
