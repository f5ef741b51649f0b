"""A PostgreSQL for the peers: of the same kind and settings as ours, with our own schema, users and videos.

An `applause serve` on a folder of its own keeps it running and is otherwise idle: the peers' databases are others than
its own. One is prepared as an operator does it (`applause migrate`, then a gateway that is told of users and videos
over HTTP), and each run of a peer gets a copy of it.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import asyncpg
import msgspec

from loadtest.servers import AUDIT_S, PYTHON, Applause, Server, ServerFailed, own_environ

PREPARED: Final = "prepared"
COMMAND_S: Final = 60.0


class _Holder(msgspec.Struct):
    """What a data folder's server.json says."""

    database_port: int


class Host(Applause):
    """The gateway that runs PostgreSQL and does nothing else."""

    name = "host"


class Preparer(Server):
    """A gateway on the database to be prepared, for as long as that takes."""

    name = "preparer"
    takes_bulk = True

    def __init__(self, folder: Path, dsn: str, secret: Path) -> None:
        command = [*PYTHON, "-m", "gateway", "serve", "--port", "0"]
        environ = {"DATABASE_URL": dsn, "APPLAUSE_AUTH__SECRET": secret.read_text().strip()}
        super().__init__(command, folder, welcome=b'42["resumed"', secret=secret, environ=environ)


class PeerDatabases:
    """Databases by name. `start` first, `stop` at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._host: Host | None = None
        self._copies = 0

    @property
    def secret(self) -> Path:
        """The file with the secret that signs the peers' tokens."""
        assert self._host is not None, "not started"
        return self._host.data_dir / "secret"

    @property
    def host_pid(self) -> int:
        """The process below which PostgreSQL runs."""
        assert self._host is not None, "not started"
        return self._host.pid

    async def start(self, seed: Callable[[Server], Awaitable[None]]) -> None:
        """Start PostgreSQL and prepare the database that all others are copies of. Raises ServerFailed."""
        self._folder.mkdir(exist_ok=True)
        self._host = Host(self._folder)
        await self._host.started()
        await self._execute(f"CREATE DATABASE {PREPARED}")
        if said := await self._command("migrate", PREPARED):
            raise ServerFailed(f"applause migrate: {said}")
        preparer = Preparer(self._folder, self.dsn(PREPARED), self.secret)
        try:
            await preparer.started()
            await seed(preparer)
        finally:
            await preparer.stop()

    async def stop(self) -> None:
        """Stop PostgreSQL. Safe without a start."""
        if self._host is not None:
            await self._host.stop()

    async def copy(self) -> str:
        """The name of a new database with what was prepared and nothing else."""
        self._copies += 1
        name = f"peer_{self._copies}"
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {PREPARED}")
        return name

    async def drop(self, name: str) -> None:
        """Remove a copy that is no longer used."""
        await self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def audit(self, name: str) -> str:
        """What `applause audit` found in it; empty where there is no fault."""
        return await self._command("audit", name)

    def dsn(self, name: str) -> str:
        """The address of a database."""
        assert self._host is not None, "not started"
        data = self._host.data_dir
        holder = msgspec.json.decode((data / "server.json").read_bytes(), type=_Holder)
        password = (data / "pg.password").read_text()
        return f"postgresql://applause:{password}@127.0.0.1:{holder.database_port}/{name}?sslmode=disable"

    async def _execute(self, sql: str, name: str = "postgres") -> None:
        conn = await asyncpg.connect(self.dsn(name), timeout=COMMAND_S)
        try:
            await conn.execute(sql, timeout=COMMAND_S)
        finally:
            await conn.close()

    async def _command(self, command: str, name: str) -> str:
        """What an `applause` command on a database says, where it fails."""
        done = await asyncio.to_thread(
            subprocess.run,
            [*PYTHON, "-m", "gateway", command],
            cwd=self._folder,
            env=own_environ() | {"DATABASE_URL": self.dsn(name)},
            capture_output=True,
            text=True,
            timeout=AUDIT_S,
            check=False,
        )
        return "" if done.returncode == 0 else (done.stdout + done.stderr).strip() or f"status {done.returncode}"
