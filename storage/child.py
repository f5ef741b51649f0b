"""A server of our own as a child of this process: on a port of its own, with a log, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from storage.binaries import User

# Below the range that systems take for outgoing connections: while a server restarts, nobody else's connection gets
# its port, nor does a client of ours that tries to reconnect connect to itself.
PORTS: Final = range(20_000, 30_000)
MAX_LOG_BYTES: Final = 16 * 2**20
LOG_LINES_SHOWN: Final = 8
POLL_S: Final = 0.01
BARE_ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}  # PG* of ours: other servers
_PR_SET_PDEATHSIG: Final = 1


class EmbeddedFailed(Exception):
    """A server of our own could not be prepared or started; the message holds the end of its log."""


def spawn(
    command: Sequence[str | os.PathLike[str]],
    *,
    log: Path,
    end_with: signal.Signals,
    user: User | None = None,
    keep: tuple[int, ...] = (),
    environment: Mapping[str, str] = BARE_ENVIRONMENT,
) -> subprocess.Popen[bytes]:
    """Start a program that writes to `log`, gets `end_with` when this process ends, and inherits the files of `keep`.

    It has a session of its own, so that Ctrl-C in a terminal reaches us alone and we can end things in order. Linux
    ends it with the thread that started it.
    """
    log_fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(log_fd, "ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=environment,
            umask=0o077,
            start_new_session=True,
            pass_fds=keep,
            # One system call and nothing that takes a lock, so threads can't harm it.
            preexec_fn=bound_to_parent(end_with),  # noqa: PLW1509
            user=None if user is None else user.uid,
            group=None if user is None else user.gid,
            extra_groups=None if user is None else [],
        )


def bound_to_parent(end_with: signal.Signals) -> Callable[[], None] | None:
    """What a child does before it becomes another program: ask the kernel for a signal when its parent ends.

    It must run after the change of user, which clears the request; subprocess calls it in that order.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, int(end_with), 0, 0, 0)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(1)

    return bind


def free_port() -> int:
    """A port on which nobody listens just now."""
    for port in random.sample(PORTS, 100):
        if is_free(port):
            return port
    raise EmbeddedFailed(f"no free port between {PORTS.start} and {PORTS.stop}")


def is_free(port: int) -> bool:
    """Whether a server could listen on that port."""
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return True
    return False


def bound_log(log: Path) -> None:
    """Put a log aside that has grown large, in the place of the one before it."""
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))


def failed(what: str, log: Path) -> EmbeddedFailed:
    """What went wrong, with the end of the log."""
    lines = log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
    return EmbeddedFailed("\n  ".join([f"{what}; {log} ends with:", *lines]))


async def exited(process: subprocess.Popen[bytes]) -> None:
    """Return when the process has ended."""
    while process.poll() is None:
        await asyncio.sleep(POLL_S)


def orderly(patience_s: float) -> tuple[tuple[signal.Signals, float], ...]:
    """Steps of `end` for what drains on SIGTERM, also where it is frozen."""
    return (signal.SIGTERM, 0.0), (signal.SIGCONT, patience_s), (signal.SIGKILL, 5.0)


async def end(process: subprocess.Popen[bytes], *steps: tuple[signal.Signals, float]) -> None:
    """Send one signal after the other, each with its patience in seconds, until the process has ended."""
    for stop_signal, patience_s in steps:
        if process.poll() is None:
            process.send_signal(stop_signal)
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(exited(process), patience_s)
