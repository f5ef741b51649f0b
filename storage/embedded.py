"""A PostgreSQL of one's own in a data folder: started, watched, restarted and stopped with this process.

Only the binaries of a packaged PostgreSQL are used. The server listens on 127.0.0.1, asks for a password, and writes
durably like any other. It ends with this process however that ends, `kill -9` included, and is restarted in place,
on the same port, should it end alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Self

import asyncpg
import structlog

from storage import child
from storage.binaries import MIN_VERSION, Binaries, NoPostgres, User, copy_for_others, find
from storage.child import POLL_S, EmbeddedFailed
from storage.db import is_connection_lost
from storage.folder import DataFolder, FolderBusy, FolderLock, Holder

EmbeddedBusy = FolderBusy

SUPERUSER: Final = "applause"
DATABASE: Final = "applause"
SERVER_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "wal_compression": "on",
    "max_wal_size": "2GB",
    "jit": "off",
    "log_checkpoints": "off",
}
NOBODY: Final = 65_534

LOCK_PATIENCE_S: Final = 0.5  # longer than another command looks whether the folder is held
READY_PATIENCE_S: Final = 120.0  # recovery after a crash replays up to max_wal_size
ORPHAN_PATIENCE_S: Final = 5.0
RESTART_BACKOFF_S: Final = (0.0, 0.2, 0.5, 1.0, 2.0)
# Fast shutdown, then immediate shutdown, then none of its choice. What was committed survives each of them.
STOP: Final = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))


def running_dsn(data_dir: Path) -> str | None:
    """The address of the PostgreSQL that another process runs in this folder, or None where none does."""
    folder = DataFolder(data_dir)
    if not folder.is_held():
        return None
    holder = folder.noted_holder()
    return _dsn(folder, holder.database_port) if holder and holder.database_port else None


def _dsn(folder: DataFolder, port: int) -> str:
    # Without TLS, which this server has not, so that no client looks for certificates in a home it may not enter.
    return f"postgresql://{SUPERUSER}:{folder.password()}@127.0.0.1:{port}/{DATABASE}?sslmode=disable"


class EmbeddedPostgres:
    """One PostgreSQL in one data folder, also as an async context manager.

    `serving_port` is told to whoever asks for a folder in use; `settings` are added to PostgreSQL's own.
    Start it on the thread that lives as long as the process (Linux ends the server with the thread that started it).
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        binaries: Path | None = None,
        serving_port: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = DataFolder(data_dir)
        self._configured_binaries = binaries
        self._serving_port = serving_port
        self._settings = {**SERVER_SETTINGS, **(settings or {})}
        self._log = structlog.get_logger()
        self._lock: FolderLock | None = None
        self._binaries: Binaries | None = None
        self._user: User | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._stopping = False

    @property
    def dsn(self) -> str:
        """The server's address with its password. It stays the same over restarts. Call after `start`."""
        return _dsn(self.folder, self._port)

    @property
    def pid(self) -> int:
        """The process id of PostgreSQL's main process. Call after `start`."""
        assert self._server is not None, "not started"
        return self._server.pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> str:
        """Prepare the folder where it is new, start PostgreSQL, and return its dsn once it answers.

        Raises EmbeddedBusy (another process has the folder), NoPostgres or EmbeddedFailed.
        """
        self._stopping = False
        self._lock = await self._take_folder()
        try:
            self._user = _server_user(self.folder)
            self._binaries = _usable_binaries(self._configured_binaries, self._user)
            await self._prepare()
            await self._start_on_a_free_port()
            await self._create_database()
        except BaseException:
            await self.stop()
            raise
        self._lock.announce(Holder(os.getpid(), self._port, self._serving_port))
        return self.dsn

    async def stop(self) -> None:
        """Stop PostgreSQL, open transactions rolled back, and release the folder. Safe to call twice."""
        self._stopping = True
        try:
            if self._server is not None:
                await child.end(self._server, *STOP)
                self._server = None
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    async def keep_running(self) -> None:
        """Start PostgreSQL again whenever it ends by itself, until `stop`. To be run by a supervisor."""
        failures = 0
        while not self._stopping:
            assert self._server is not None, "not started"
            await child.exited(self._server)
            if self._stopping:
                return
            self._log.error("postgres.ended", exit_status=self._server.returncode)
            await asyncio.sleep(RESTART_BACKOFF_S[min(failures, len(RESTART_BACKOFF_S) - 1)])
            try:
                await self._launch(self._port)
                failures = 0
            except EmbeddedFailed as error:
                if self._stopping:
                    return
                failures += 1
                self._log.error("postgres.restart_failed", reason=str(error))

    async def _take_folder(self) -> FolderLock:
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                return self.folder.lock()
            except EmbeddedBusy:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.05)

    async def _prepare(self) -> None:
        assert self._binaries is not None
        child.bound_log(self.folder.postgres_log)
        for abandoned in self.folder.path.glob("pg.new.*"):  # by a process killed on its first start
            shutil.rmtree(abandoned)
        if not self.folder.postgres.exists():
            await self._initialise()
        self._take_over_copied_data()
        made_by = int((self.folder.postgres / "PG_VERSION").read_text())
        if made_by != (found := self._binaries.version()):
            raise NoPostgres(
                f"{self.folder.postgres} was made by PostgreSQL {made_by}, but {self._binaries.bin} is {found}: "
                f"set APPLAUSE_DATABASE__BINARIES to version {made_by}, or dump and restore"
            )

    async def _initialise(self) -> None:
        """Make the database aside and move it into place whole, so that there never is half of one."""
        assert self._binaries is not None
        new = Path(tempfile.mkdtemp(dir=self.folder.path, prefix="pg.new."))
        self._give(new)
        with tempfile.TemporaryFile(dir=self.folder.path) as password, _opened(new) as data:
            password.write(self.folder.password().encode())
            password.flush()
            self._give(password.fileno())
            options = ["-U", SUPERUSER, "-A", "scram-sha-256", "--pwfile", _path_of(password.fileno())]
            options += ["-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
            command = [str(self._binaries.initdb), "-D", self._path(new, data), *options]
            process = self._spawn(command, keep=(data, password.fileno()), end_with=signal.SIGKILL)
            await child.exited(process)
        if process.returncode:
            raise self._failed(f"initdb ended with status {process.returncode}")
        # One sync of everything instead of initdb's own one for each of a thousand files.
        await asyncio.to_thread(os.sync)
        new.rename(self.folder.postgres)

    async def _start_on_a_free_port(self) -> None:
        for attempt in range(3):
            self._port = child.free_port()
            try:
                return await self._launch(self._port)
            except EmbeddedFailed:  # another process may have been quicker to take the port
                if attempt == 2:
                    raise

    async def _launch(self, port: int) -> None:
        assert self._binaries is not None
        await _previous_ended(self.folder.postgres)
        if self._stopping:  # nobody would end what is started now
            raise EmbeddedFailed("PostgreSQL is being stopped")
        settings = {**self._settings, "port": str(port)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with _opened(self.folder.postgres) as data:
            command = [str(self._binaries.postgres), "-D", self._path(self.folder.postgres, data), *options]
            # SIGINT is PostgreSQL's fast shutdown.
            self._server = self._spawn(command, keep=(data,), end_with=signal.SIGINT)
        await self._ready(self._server)

    async def _ready(self, server: subprocess.Popen[bytes]) -> None:
        """Return when it answers; it may be stopped meanwhile."""
        deadline = time.monotonic() + READY_PATIENCE_S
        while time.monotonic() < deadline:
            if server.poll() is not None:
                raise self._failed(f"PostgreSQL ended with status {server.returncode}")
            try:
                connection = await asyncpg.connect(self.dsn, database="postgres", timeout=5)
            except (OSError, asyncpg.PostgresError) as error:
                if not is_connection_lost(error):
                    raise
                await asyncio.sleep(POLL_S)
                continue
            return await connection.close()
        await child.end(server, *STOP)
        raise self._failed(f"PostgreSQL did not answer within {READY_PATIENCE_S:.0f} s")

    async def _create_database(self) -> None:
        connection = await asyncpg.connect(self.dsn, database="postgres", timeout=10)
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f"CREATE DATABASE {DATABASE}")
        finally:
            await connection.close()

    def _take_over_copied_data(self) -> None:
        """Give PostgreSQL its data where root has put it back without owners, as `cp -r` does."""
        if self._user is not None and self.folder.postgres.stat().st_uid == 0:
            for parent, _, files in os.walk(self.folder.postgres):
                for place in (Path(parent), *(Path(parent, name) for name in files)):
                    os.chown(place, self._user.uid, self._user.gid, follow_symlinks=False)

    def _give(self, place: Path | int) -> None:
        if self._user is not None:
            os.chown(place, self._user.uid, self._user.gid)

    def _path(self, folder: Path, opened: int) -> str:
        """How PostgreSQL names its folder: as another user by descriptor, whatever the folders above let it enter."""
        return str(folder) if self._user is None else _path_of(opened)

    def _spawn(self, command: list[str], *, keep: tuple[int, ...], end_with: signal.Signals) -> subprocess.Popen[bytes]:
        return child.spawn(command, log=self.folder.postgres_log, end_with=end_with, user=self._user, keep=keep)

    def _failed(self, what: str) -> EmbeddedFailed:
        return child.failed(what, self.folder.postgres_log)


def _server_user(folder: DataFolder) -> User | None:
    """Whom PostgreSQL runs as: us; where we are root, the owner of its data, of the folder, or nobody."""
    if os.geteuid() != 0:
        return None
    for place in (folder.postgres, folder.path):
        if place.exists() and (owner := place.stat()).st_uid != 0:
            return User(owner.st_uid, owner.st_gid)
    return User(NOBODY, NOBODY)


def _usable_binaries(configured: Path | None, user: User | None) -> Binaries:
    binaries = find(configured)
    if user is not None and not binaries.usable_by(user):
        binaries = copy_for_others(binaries)
    if (version := binaries.version()) < MIN_VERSION:
        raise NoPostgres(f"{binaries.bin} is PostgreSQL {version}; {MIN_VERSION} is the oldest that will do")
    return binaries


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _path_of(fd: int) -> str:
    """A path to what this process has opened, for a child that inherits it but may not enter the folders above."""
    return f"/proc/self/fd/{fd}" if sys.platform == "linux" else f"/dev/fd/{fd}"


async def _previous_ended(data: Path) -> None:
    """Wait until processes of an earlier server in this folder are gone, and clear the note it left.

    After a `kill -9` of our predecessor its PostgreSQL is still shutting down; we hold the folder's lock, so nobody
    wants it any more. Without /proc this is left to PostgreSQL, which refuses to start then.
    """
    note = data / "postmaster.pid"
    if sys.platform != "linux" or not note.exists():
        return
    started = time.monotonic()
    while remaining := _processes_in(data):
        waited = time.monotonic() - started
        if waited > 2 * ORPHAN_PATIENCE_S:
            raise EmbeddedFailed(f"an earlier PostgreSQL does not end: processes {remaining} in {data}")
        if waited > ORPHAN_PATIENCE_S:
            for pid in remaining:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGQUIT)
        await asyncio.sleep(5 * POLL_S)
    note.unlink(missing_ok=True)  # its process id may be somebody else's by now, which would stop PostgreSQL


def _processes_in(data: Path) -> list[int]:
    """Processes of PostgreSQL whose working folder is this one, as every one of its processes' is."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and _is_postgres(entry) and (entry / "cwd").samefile(data):
                found.append(int(entry.name))
    return found


def _is_postgres(process: Path) -> bool:
    """Whether that entry of /proc is a PostgreSQL that has not ended (one without a reaper stays as a zombie)."""
    name, _, rest = (process / "stat").read_text().partition("(")[2].rpartition(")")
    return name == "postgres" and rest.split()[0] != "Z"
