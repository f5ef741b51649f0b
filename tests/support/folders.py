"""Folders that cost little: in memory, or copied from one that is ready."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/dev/shm")
ROOM_BYTES: Final = 4 * 2**30  # what a run's databases may need, many times over


def has_memory() -> bool:
    """Whether there is a file system in memory with room for a run's folders, and programs may run there."""
    if not os.access(MEMORY, os.W_OK):
        return False
    return shutil.disk_usage(MEMORY).free >= ROOM_BYTES and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC


def prepare(data_dir: Path) -> None:
    """Make a data folder with a PostgreSQL of the current schema, as `applause serve` would find it at its second
    start; one that is there stays as it is. What a first start does takes two seconds of CPU more, and has tests of its
    own: tests/storage/test_embedded.py, tests/gateway/test_command.py, tests/journeys/test_cluster_command.py."""
    if not data_dir.exists():
        subprocess.run(["cp", "-a", _ready_folder(), data_dir], check=True)  # with owners, which copytree forgets


def own_environment() -> dict[str, str]:
    """Ours without what would lead a server to another database or other settings. Whom it may trust over TLS is left
    out, too: nobody here speaks it, and reading the system's authorities is a tenth of what a start costs."""
    foreign = {"DATABASE_URL", "REDIS_URL", "KAFKA_BOOTSTRAP_SERVERS"}
    own = {name: value for name, value in os.environ.items() if name not in foreign and "APPLAUSE_" not in name}
    return own | {"SSL_CERT_FILE": os.devnull}


@cache
def _ready_folder() -> Path:
    parent = Path(tempfile.mkdtemp(prefix="applause-tests-", dir=MEMORY if has_memory() else None))
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    folder = parent / "data"
    command = [sys.executable, "-m", "gateway", "migrate", "--data-dir", str(folder)]
    subprocess.run(command, check=True, capture_output=True, env=own_environment())
    return folder
