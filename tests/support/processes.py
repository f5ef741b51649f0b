"""PostgreSQL's processes and workers as a test sees them from outside: to kill, to freeze, and to prove that none is
left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Final

from storage.folder import DataFolder

PATIENCE_S: Final = 10.0


def postmaster_of(data_dir: Path) -> int:
    """The main process of the PostgreSQL that runs in this data folder."""
    return int((DataFolder(data_dir).postgres / "postmaster.pid").read_text().split("\n", 1)[0])


def processes_in(data_dir: Path) -> list[int]:
    """All processes of that PostgreSQL: its data are their working folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").samefile(DataFolder(data_dir).postgres):
                found.append(int(entry.name))
    return found


def freeze(data_dir: Path) -> None:
    """Stop all of that PostgreSQL in the middle of whatever it does; its main process first, which makes the others."""
    os.kill(postmaster_of(data_dir), signal.SIGSTOP)
    for pid in processes_in(data_dir):  # looked for only now: one that was just being made would go on
        os.kill(pid, signal.SIGSTOP)


def thaw(data_dir: Path) -> None:
    """Let it go on."""
    for pid in processes_in(data_dir):
        os.kill(pid, signal.SIGCONT)


def workers_of(parent: int) -> dict[int, int]:
    """Workers that run under a parent: number -> process id."""
    found = {}
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{child}/cmdline").read_text().split("\0")
            if "gateway.workers.worker" in command:
                found[int(command[command.index("gateway.workers.worker") + 1])] = int(child)
    return found


def runs(pid: int) -> bool:
    """Whether that process is there, and not just waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def none_is_left(data_dir: Path) -> None:
    """Return when no process of that PostgreSQL runs any more."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while processes_in(data_dir):
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"left after {PATIENCE_S} s: {processes_in(data_dir)}") from None


def nothing_broke(log: str) -> None:
    """Of a process whose log this is: it met no error that its code does not know."""
    before, found, after = log.partition("Traceback")
    assert not found, f"...{before[-2000:]}{found}{after[:4000]}..."
