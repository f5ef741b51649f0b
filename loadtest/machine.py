"""CPU time and memory of processes, read from /proc."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final, NamedTuple

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PARENT, _USER, _SYSTEM, _CHILDREN_USER, _CHILDREN_SYSTEM = 1, 11, 12, 13, 14  # fields of stat after the name


class Usage(NamedTuple):
    """Cores in use on average: of the server's own process, of its children (its PostgreSQL), and of this client."""

    server: float
    database: float
    client: float


def rss_kib(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ProcessLookupError(pid)


def cpu_s(pid: int) -> float:
    """CPU seconds of one process."""
    stat = _stat(pid)
    return (int(stat[_USER]) + int(stat[_SYSTEM])) / _TICKS_PER_S


def descendants_cpu_s(pid: int) -> float:
    """CPU seconds of all processes below `pid`, and of those of them that have ended and were waited for."""
    children: dict[int, list[int]] = {}
    spent: dict[int, float] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = _stat(int(entry))
            except (OSError, IndexError):
                continue  # it has just ended
            children.setdefault(int(stat[_PARENT]), []).append(int(entry))
            ticks = sum(int(stat[at]) for at in (_USER, _SYSTEM, _CHILDREN_USER, _CHILDREN_SYSTEM))
            spent[int(entry)] = ticks / _TICKS_PER_S
    total, below = 0.0, list(children.get(pid, ()))
    while below:
        child = below.pop()
        total += spent[child]
        below += children.get(child, ())
    return total


class Meter:
    """What server and client spend between `start` and `usage`."""

    def __init__(self, server_pid: int) -> None:
        self._pid = server_pid
        self.start()

    def start(self) -> None:
        """Count from now."""
        self._at, self._spent = time.perf_counter(), self._read()

    def usage(self) -> Usage:
        """Cores in use since `start`."""
        elapsed = max(time.perf_counter() - self._at, 1e-9)
        return Usage(*((now - before) / elapsed for now, before in zip(self._read(), self._spent, strict=True)))

    def _read(self) -> tuple[float, float, float]:
        return cpu_s(self._pid), descendants_cpu_s(self._pid), time.process_time()


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
