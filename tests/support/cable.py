"""A network cable between one client and one service, which can be pulled."""

from __future__ import annotations

import asyncio
import contextlib


class Cable:
    """A TCP relay to `port` of this machine. While it is pulled nothing comes through and nobody is told: connections
    stay, new ones are taken and hear nothing; what was sent meanwhile arrives when it is plugged in, as TCP has it."""

    def __init__(self, port: int = 0) -> None:
        self.to = port  # may be set as late as its first connection
        self._plugged = asyncio.Event()
        self._plugged.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def __aenter__(self) -> Cable:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def port(self) -> int:
        """Where clients find it."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def pull(self) -> None:
        """Nothing comes through any more."""
        self._plugged.clear()

    def plug_in(self) -> None:
        """It does again."""
        self._plugged.set()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        writers = [writer]
        try:
            await self._plugged.wait()
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.to)
            writers.append(inner_writer)
            await asyncio.gather(self._pass(reader, inner_writer), self._pass(inner_reader, writer))
        except OSError:
            pass  # the other end hears of it
        finally:
            for each in writers:
                each.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self._plugged.wait()
            writer.write(data)
            await writer.drain()
        await self._plugged.wait()
        with contextlib.suppress(OSError):
            writer.write_eof()
