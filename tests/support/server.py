"""A real `applause serve` in a process of its own, as an operator starts and stops it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import asyncpg
import jwt
import pytest

from storage.audit import audit
from storage.db import connect
from storage.embedded import running_dsn
from tests.support.folders import own_environment, prepare

START_S: Final = 60  # the first start initialises a database
STOP_S: Final = 20
READY: Final = "Applause is ready at "


class Answer(NamedTuple):
    """What HTTP said."""

    status: int
    body: Any
    headers: Mapping[str, str]


class Gateway:
    """One `applause serve` with an embedded PostgreSQL in `data_dir`. It can be started again after a stop, and then
    listens on the port that it had."""

    def __init__(self, data_dir: Path, **settings: object) -> None:
        """`settings` are of the form SECTION__KEY=value."""
        self.data_dir = data_dir
        self._log_path = data_dir.with_suffix(".log")
        self._environment = own_environment() | {f"APPLAUSE_{name}": str(value) for name, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    # -- the process -------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Of its process, or of the parent where there are workers."""
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """Everything that it wrote, all runs."""
        return self._log_path.read_text(errors="replace")

    def start(self) -> None:
        """Start it and return when it is ready."""
        prepare(self.data_dir)
        begins_at = self._log_path.stat().st_size if self._log_path.exists() else 0
        with self._log_path.open("ab") as log:
            command = self._command("serve", "--port", str(self.port))
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            _, found, rest = self.log[begins_at:].partition(READY)
            if found and "\n" in rest:
                self.port = int(rest.splitlines()[0].rpartition(":")[2])
                return
            time.sleep(0.02)
        status = self._process.poll()
        self.stop()
        pytest.fail(f"`applause serve` did not get ready (exit status {status}):\n{self.log[-4000:]}")

    def terminate(self) -> None:
        """SIGTERM, without waiting for what comes of it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: it gets no chance to do anything."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def wait(self, timeout_s: float = STOP_S) -> int:
        """The exit status; a process that outlives `timeout_s` is killed, and the test fails."""
        assert self._process is not None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            pytest.fail(f"`applause serve` still ran {timeout_s} s after SIGTERM:\n{self.log[-4000:]}")

    def stop(self) -> int:
        """Stop it as an operator does; the exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self.terminate()
        return self.wait()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another `applause` command on the same folder, such as `audit`."""
        return subprocess.run(
            self._command(*arguments), env=self._environment, capture_output=True, text=True, timeout=60, check=False
        )

    def _command(self, name: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "gateway", name, *arguments, "--data-dir", str(self.data_dir)]

    # -- from outside ------------------------------------------------------------------------------------------------

    def token(self, subject: int | str, *roles: str, ttl_s: float = 3600, **claims: Any) -> str:
        """A token that this server accepts; `claims` are added, None takes one away."""
        now = time.time()
        given = {
            "sub": str(subject),
            "roles": list(roles),
            "iat": int(now),
            "exp": now + ttl_s,
            "jti": uuid.uuid4().hex,
        }
        given = {name: value for name, value in (given | claims).items() if value is not None}
        return jwt.encode(given, (self.data_dir / "secret").read_text(), algorithm="HS256")

    async def ask(self, method: str, path: str, body: object = None, *, token: str | None = None) -> Answer:
        """One HTTP request, by a backend unless `token` says otherwise ("" sends none)."""
        bearer = self.token("backend", "service") if token is None else token
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, self.url + path, headers=headers, json=body) as response,
        ):
            content = await response.read()
            return Answer(response.status, json.loads(content) if content else None, response.headers)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection to its database, for what a test can't bring about from outside."""
        dsn = running_dsn(self.data_dir)
        assert dsn is not None, "the server does not run"
        conn = await connect(dsn)
        try:
            yield conn
        finally:
            await conn.close()

    async def findings(self) -> list[str]:
        """What `applause audit` would print, without the 0.7 s of a new process."""
        async with self.database() as conn:
            return [str(finding) for finding in await audit(conn)]


@asynccontextmanager
async def running(data_dir: Path, **settings: object) -> AsyncIterator[Gateway]:
    """A server of this test's own, for those that stop it or need settings of their own."""
    gateway = Gateway(data_dir, **settings)
    await asyncio.to_thread(gateway.start)
    try:
        yield gateway
    finally:
        await asyncio.to_thread(gateway.stop)
