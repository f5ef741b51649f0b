"""CPU time and memory of processes, read from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final, NamedTuple

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_KIB: Final = os.sysconf("SC_PAGESIZE") // 1024
_USER, _SYSTEM, _CHILDREN_USER, _CHILDREN_SYSTEM = 11, 12, 13, 14  # fields of stat after the name
_DATABASE: Final = "postgres"


class Spent(NamedTuple):
    """CPU seconds so far, and KiB of memory now, of a server with its workers and of its PostgreSQL."""

    server_s: float = 0.0
    database_s: float = 0.0
    server_kib: int = 0
    database_kib: int = 0


class _Process(NamedTuple):
    name: str
    stat: list[str]

    @property
    def own_s(self) -> float:
        return sum(int(self.stat[at]) for at in (_USER, _SYSTEM)) / _TICKS_PER_S

    @property
    def with_ended_children_s(self) -> float:
        ticks = sum(int(self.stat[at]) for at in (_USER, _SYSTEM, _CHILDREN_USER, _CHILDREN_SYSTEM))
        return ticks / _TICKS_PER_S


def rss_kib(pid: int) -> int:
    """Resident memory of a process."""
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ProcessLookupError(pid)


def spent(pid: int, *, memory: bool = True) -> Spent:
    """What a server has spent so far; nothing of a process that is gone or unknown (0)."""
    if not pid:
        return Spent()
    try:
        server_s, server_kib = _process(pid).own_s, rss_kib(pid) if memory else 0
    except (OSError, IndexError):
        return Spent()
    database_s, own_kib, shared_kib = 0.0, 0, 0
    for child, process in _below(pid):
        is_database = process.name.startswith(_DATABASE)
        if is_database:
            database_s += process.with_ended_children_s
        else:
            server_s += process.with_ended_children_s
        if memory:
            resident, shared = _memory_kib(child)
            if is_database:
                own_kib, shared_kib = own_kib + resident - shared, max(shared_kib, shared)
            else:
                server_kib += resident
    return Spent(server_s, database_s, server_kib, own_kib + shared_kib)


def _below(pid: int) -> Iterator[tuple[int, _Process]]:
    """All descendants of a process. Only they are read, since a busy machine has many others."""
    below = _children(pid)
    while below:
        child = below.pop()
        try:
            process = _process(child)
        except (OSError, IndexError):
            continue  # it has just ended
        yield child, process
        below += _children(child)


def _children(pid: int) -> list[int]:
    """The children that any of its threads has started."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    except OSError:
        pass  # it has just ended
    return found


def _memory_kib(pid: int) -> tuple[int, int]:
    """Resident memory of a process, and how much of that it shares (or could: files, PostgreSQL's buffers)."""
    try:
        _, resident, shared, *_ = _read(f"/proc/{pid}/statm").split()
    except OSError:
        return 0, 0  # it has just ended
    return int(resident) * _PAGE_KIB, int(shared) * _PAGE_KIB


def _process(pid: int) -> _Process:
    head, _, stat = _read(f"/proc/{pid}/stat").rpartition(")")
    return _Process(head.partition("(")[2], stat.split())


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
