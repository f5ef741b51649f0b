"""What Kafka and Valkey of our own share: a folder that one process uses, kept ports, a log, start and stop."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final, Self

from storage import child
from storage.child import POLL_S, EmbeddedFailed
from storage.folder import FolderBusy

# After a `kill -9` of our predecessor its server ends by itself; it holds the folder until then.
LOCK_PATIENCE_S: Final = 5.0
READY_PATIENCE_S: Final = 90.0  # a JVM on a busy machine
GONE_PATIENCE_S: Final = 5.0
ASK_EVERY_S: Final = 0.02
KILL_S: Final = 5.0


class EmbeddedService(abc.ABC):
    """One server in one folder, also as an async context manager; a second process is refused (FolderBusy).

    `start` after `stop`, or after its process was killed, finds the same data, and listens on the same ports unless
    somebody else has taken them meanwhile. Start it on the thread that lives as long as the process (Linux ends the
    server with the thread that started it).
    """

    name: ClassVar[str]
    ports_needed: ClassVar[int] = 1
    end_with_us: ClassVar[signal.Signals]  # what it gets when this process is killed
    stop_patience_s: ClassVar[float]

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.log = self.folder / f"{self.name.lower()}.log"
        self.ports: tuple[int, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    @property
    def pid(self) -> int:
        """The process id of the server. Call after `start`."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    @abc.abstractmethod
    def address(self) -> str:
        """Where clients find it."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> str:
        """Start the server and return its address once it answers. Raises EmbeddedFailed or FolderBusy."""
        if self._process is not None:  # it has been killed, and a large one takes a moment to be gone
            try:
                await asyncio.wait_for(child.exited(self._process), GONE_PATIENCE_S)
            except TimeoutError:
                raise EmbeddedFailed(f"{self.name} runs already: process {self.pid}") from None
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._lock is None:
            self._lock = await self._take_folder()
        try:
            child.bound_log(self.log)
            await self._start_on_kept_ports()
        except BaseException:
            await self.stop()
            raise
        return self.address

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        assert self._process is not None, "not started"
        await child.exited(self._process)
        return self._process.returncode

    async def stop(self) -> None:
        """Stop the server and release the folder. Safe to call twice, and where it is frozen or has been killed."""
        try:
            if self._process is not None:
                await child.end(self._process, *child.orderly(self.stop_patience_s))
                self._process = None
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    @abc.abstractmethod
    async def prepare(self) -> Sequence[str | os.PathLike[str]]:
        """Make what it needs in the folder for `ports`; the command that runs it in the foreground."""

    @abc.abstractmethod
    async def answers(self) -> bool:
        """Whether it serves clients now. May raise OSError."""

    async def _take_folder(self) -> int:
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + LOCK_PATIENCE_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise FolderBusy(self.folder, None) from None
                    await asyncio.sleep(5 * POLL_S)
                else:
                    return lock
        except BaseException:
            os.close(lock)
            raise

    async def _start_on_kept_ports(self) -> None:
        note = self.folder / "ports"
        if not self.ports and note.exists():
            self.ports = tuple(int(port) for port in note.read_text().split())
        for attempt in range(3):
            if len(self.ports) != self.ports_needed or not all(map(child.is_free, self.ports)):
                self.ports = tuple(child.free_port() for _ in range(self.ports_needed))
            try:
                await self._launch()
            except EmbeddedFailed:
                if attempt == 2 or all(map(child.is_free, self.ports)):
                    raise  # otherwise another process was quicker to take a port
            else:
                note.write_text(" ".join(map(str, self.ports)))
                return

    async def _launch(self) -> None:
        command = await self.prepare()
        assert self._lock is not None
        # It inherits the lock, so that the folder is taken until the last of us has ended.
        self._process = child.spawn(command, log=self.log, end_with=self.end_with_us, keep=(self._lock,))
        deadline = time.monotonic() + READY_PATIENCE_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise child.failed(f"{self.name} ended with status {self._process.returncode}", self.log)
            with contextlib.suppress(OSError):
                if await self.answers():
                    return
            await asyncio.sleep(ASK_EVERY_S)
        await child.end(self._process, (signal.SIGKILL, KILL_S))
        raise child.failed(f"{self.name} did not answer within {READY_PATIENCE_S:.0f} s", self.log)
