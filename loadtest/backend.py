"""HTTP as another backend speaks it: one request at a time over one kept-alive connection, nothing parsed twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple

import msgspec


class RequestFailed(Exception):
    """An answer that is not 2xx."""


class Asked(NamedTuple):
    """One request with its JSON."""

    method: str
    path: str
    body: dict[str, Any]


class Backend:
    """One connection with a backend's token. Use it as an async context manager."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self._host = host
        self._port = port
        self._head = f"Host: {host}:{port}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        self._head += "Content-Length: "

    async def __aenter__(self) -> Backend:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    async def ask(self, asked: Asked) -> bytes:
        """The answer's body. Raises RequestFailed."""
        body = msgspec.json.encode(asked.body)
        head = f"{asked.method} {asked.path} HTTP/1.1\r\n{self._head}{len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer_head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer_head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        answer = await self._reader.readexactly(length)
        if answer_head[9:10] != b"2":
            raise RequestFailed(f"{asked.method} {asked.path}: {answer[:200]!r}")
        return answer


async def ask_all(host: str, port: int, token: str, requests: Sequence[Asked], *, at_once: int = 8) -> None:
    """Send all requests over `at_once` connections, in no particular order."""
    waiting = iter(requests)

    async def ask_some() -> None:
        async with Backend(host, port, token) as backend:
            for asked in waiting:
                await backend.ask(asked)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(ask_some())
