"""The data folder of a self-contained Applause: who holds it, its secrets, where PostgreSQL's files lie.

pg/             PostgreSQL's data; as root it belongs to the unprivileged user that runs PostgreSQL
pg.log          what PostgreSQL wrote
pg.password     of its superuser `applause`
secret          signs tokens where no other secret is configured
applause.lock   held with flock by the one process that uses the folder
server.json     who that is, and where its PostgreSQL listens
"""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from pathlib import Path

import msgspec


class Holder(msgspec.Struct, frozen=True):
    """Who uses a data folder. Ports are TCP ports on this machine; `serving_port` is None for commands like audit."""

    pid: int
    database_port: int | None = None
    serving_port: int | None = None


class FolderBusy(Exception):
    """Another live process uses the data folder; `holder` is who, as far as it is known."""

    def __init__(self, path: Path, holder: Holder | None) -> None:
        super().__init__(f"the data folder {path} is in use by {_described(holder)}")
        self.path = path
        self.holder = holder


def _described(holder: Holder | None) -> str:
    if holder is None:
        return "another process, which is just starting"
    serving = f", serving on port {holder.serving_port}" if holder.serving_port else ""
    database = f", its PostgreSQL on port {holder.database_port}" if holder.database_port else ""
    return f"process {holder.pid}{serving}{database}"


class DataFolder:
    """Paths and private files of one data folder. Making one touches no disk."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.postgres = self.path / "pg"
        self.postgres_log = self.path / "pg.log"
        self._password = self.path / "pg.password"
        self._secret = self.path / "secret"
        self._lock = self.path / "applause.lock"
        self._holder = self.path / "server.json"

    def create(self) -> None:
        """Make the folder where it is missing, for its owner alone. An existing one keeps its permissions."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def password(self) -> str:
        """The database superuser's password; generated on first use."""
        return kept_text(self._password)

    def signing_secret(self) -> str:
        """The secret that signs this folder's tokens; generated on first use."""
        return kept_text(self._secret)

    def known_signing_secret(self) -> str | None:
        """The same where there is one already."""
        return self._secret.read_text() if self._secret.exists() else None

    def lock(self) -> FolderLock:
        """Take the folder for this process. Raises FolderBusy where another one has it."""
        self.create()
        fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise FolderBusy(self.path, self.noted_holder()) from None
        # What stands there is of a process that has ended: nobody may take it for ours.
        self._holder.unlink(missing_ok=True)
        return FolderLock(fd, self._holder)

    def is_held(self) -> bool:
        """Whether a live process uses the folder. The kernel drops the lock with its process, so it is never stale."""
        try:
            fd = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            # Shared, for an instant: two that look don't see each other, and a server that starts tries again.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def noted_holder(self) -> Holder | None:
        """Who noted itself last; it lives if the folder `is_held`."""
        try:
            return msgspec.json.decode(self._holder.read_bytes(), type=Holder)
        except (FileNotFoundError, msgspec.DecodeError):
            return None


class FolderLock:
    """A data folder held by this process, until `release` or the end of the process."""

    def __init__(self, fd: int, note: Path) -> None:
        self._fd = fd
        self._note = note

    def announce(self, holder: Holder) -> None:
        """Tell others who holds the folder."""
        _write_whole(self._note, msgspec.json.encode(holder))

    def release(self) -> None:
        """Give the folder back. Safe to call twice."""
        if self._fd < 0:
            return
        self._note.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1


def kept_text(path: Path) -> str:
    """What the file holds; a missing one gets a random text first. Two that race agree on one."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = _written_aside(path, secrets.token_urlsafe(32).encode())
        try:
            os.link(part, path)  # fails where another process was quicker; its text holds then
        except FileExistsError:
            pass
        finally:
            part.unlink()
    return path.read_text()


def _write_whole(path: Path, content: bytes) -> None:
    """Replace a file so that a reader sees the old or the new content and nothing between."""
    _written_aside(path, content).replace(path)


def _written_aside(path: Path, content: bytes) -> Path:
    """A temporary neighbour of `path`, readable by its owner alone, with its content on disk."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)
    return Path(name)
