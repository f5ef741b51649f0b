"""The servers under test, as processes of their own on the loopback."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from loadtest.crew import Door
from loadtest.machine import Spent, spent
from loadtest.phone import Address

START_S: Final = 60.0
KAFKA_START_S: Final = 300.0  # the first time it is fetched
STOP_S: Final = 20.0
AUDIT_S: Final = 120.0

PYTHON: Final = (sys.executable, "-P")

_KAFKA_READY: Final = re.compile(r"Kafka is ready at (\S+)")
_READY: Final = re.compile(r" is ready at http://([0-9.]+):(\d+)")
_UNLIMITED: Final = {
    "APPLAUSE_LIMITS__ACTIONS_PER_SECOND": "1000000",
    "APPLAUSE_LOG__LEVEL": "warning",
}


def own_environ() -> dict[str, str]:
    """This process's environment without what would configure a server of somebody else's."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("APPLAUSE_")}
    for name in ("DATABASE_URL", "REDIS_URL", "KAFKA_BOOTSTRAP_SERVERS"):
        ours.pop(name, None)
    return ours


class ServerFailed(Exception):
    """A server did not start, or a command about it failed; the message has what it said."""


class Server:
    """One running server. `token` signs a caller's token; servers that ask for none ignore it."""

    name: str
    is_durable = False
    takes_bulk = False

    def __init__(
        self,
        command: list[str],
        folder: Path,
        *,
        welcome: bytes,
        secret: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._log = folder / f"{self.name}.log"
        self._secret_file = secret
        self._secret = ""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=own_environ() | _UNLIMITED | dict(environ or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.address = Address("", 0, welcome)

    @property
    def pid(self) -> int:
        """The server's own process."""
        return self._process.pid

    def spent(self, *, memory: bool = True) -> Spent:
        """What it and its database have spent so far."""
        return spent(self.pid, memory=memory)

    async def started(self) -> None:
        """Return when the server says that it is ready. Raises ServerFailed."""
        deadline = time.monotonic() + START_S
        while not (found := _READY.search(self._log.read_text(errors="replace"))):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ServerFailed(f"{self.name} did not start: {self._log.read_text(errors='replace')[-2000:]}")
            await asyncio.sleep(0.05)
        self.address = Address(found[1], int(found[2]), self.address.welcome)
        if self._secret_file is not None:
            self._secret = self._secret_file.read_text().strip()

    async def stop(self) -> None:
        """End the server; after `STOP_S` by force."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(self._process.wait, STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    @property
    def door(self) -> Door:
        """What a load process has to know."""
        return Door(self.address, self._secret)

    def token(self, subject: str, *roles: str) -> str:
        """A token of a user (digits) or a backend."""
        return self.door.token(subject, *roles)

    def auth(self, user_id: int, *, last_seq: int | None = None) -> bytes:
        """The JSON of a user's CONNECT."""
        return self.door.auth(user_id, last_seq=last_seq)


class Applause(Server):
    """Ours, with a PostgreSQL of its own in `folder`/data, as one process or as `workers` that share a port. A phone
    may begin when it has resumed."""

    name = "applause"
    is_durable = True
    takes_bulk = True

    def __init__(self, folder: Path, workers: int = 1, *, environ: Mapping[str, str] | None = None) -> None:
        self.name = self.name if workers == 1 else f"{self.name} × {workers}"
        self.data_dir = folder / "data"
        command = [*PYTHON, "-m", "gateway", "serve", "--port", "0", "--data-dir", str(self.data_dir)]
        command += ["--workers", str(workers)]
        secret = self.data_dir / "secret"
        super().__init__(command, folder, welcome=b'42["resumed"', secret=secret, environ=environ)

    async def audit(self) -> str:
        """What `applause audit` found, while the server runs; empty where there is no fault."""
        command = [*PYTHON, "-m", "gateway", "audit", "--data-dir", str(self.data_dir)]
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            cwd=self.data_dir.parent,
            capture_output=True,
            text=True,
            timeout=AUDIT_S,
            check=False,
        )
        return "" if done.returncode == 0 else (done.stdout + done.stderr).strip()


class Kafka:
    """Where the scenario `intake` writes: a Kafka of our own in `folder`/kafka, or `servers` that run already (then
    `pid` is 0). Use it as an async context manager."""

    def __init__(self, folder: Path, *, servers: str = "", prefix: str = "loadtest") -> None:
        self._folder = folder
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None
        self.servers = servers

    async def __aenter__(self) -> Kafka:
        if not self.servers:
            await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(self._process.wait, STOP_S)

    @property
    def pid(self) -> int:
        """Of the process that has started it."""
        return 0 if self._process is None else self._process.pid

    @property
    def environ(self) -> dict[str, str]:
        """What a gateway has to know to read from there."""
        return {"KAFKA_BOOTSTRAP_SERVERS": self.servers, "APPLAUSE_KAFKA__PREFIX": self._prefix}

    def topic(self, name: str) -> str:
        """A topic's full name."""
        return f"{self._prefix}.{name}"

    async def _start(self) -> None:
        log = self._folder / "kafka.log"
        process = self._process = self._spawn(log)
        deadline = time.monotonic() + KAFKA_START_S
        while not (found := _KAFKA_READY.search(log.read_text(errors="replace"))):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerFailed(f"Kafka did not start: {log.read_text(errors='replace')[-2000:]}")
            await asyncio.sleep(0.05)
        self.servers = found[1]

    def _spawn(self, log: Path) -> subprocess.Popen[bytes]:
        command = [*PYTHON, "-m", "gateway.cluster.kafka", str(self._folder / "kafka")]
        with log.open("wb") as output:
            return subprocess.Popen(command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


class Stock(Server):
    """python-socketio's own server (`loadtest.peers.stock`). A phone may begin when its CONNECT is answered."""

    name = "stock"

    def __init__(self, folder: Path) -> None:
        super().__init__([*PYTHON, "-m", "loadtest.peers.stock"], folder, welcome=b"40{")


class Elsewhere(Server):
    """A gateway that runs already, not ours to start or to stop, whose tokens are signed with a secret that we know.
    What it spends is unknown; `pid` is 0."""

    name = "applause"
    is_durable = True
    takes_bulk = True

    def __init__(self, url: str, secret: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url!r} is not like http://host:port")
        self.address = Address(parts.hostname, parts.port or 80, b'42["resumed"')
        self._secret = secret

    @property
    def pid(self) -> int:
        return 0

    async def started(self) -> None:
        """It is."""

    async def stop(self) -> None:
        """It is not ours."""
