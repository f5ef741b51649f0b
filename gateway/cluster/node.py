"""One node of a cluster on this machine: an `applause demo` in a process of its own."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aiohttp

from storage import child

READY_PATIENCE_S: Final = 60.0
ASK_EVERY_S: Final = 0.05
# Beyond its time for draining: a node ends within 3 s of it.
STOP_PATIENCE_S: Final = 5.0


class NodeProcess:
    """Start it, let `ended` say when it ends by itself, start it again, stop it."""

    def __init__(
        self, name: str, url: str, arguments: list[str], *, log: Path, environment: Mapping[str, str], drain_s: float
    ) -> None:
        self.name = name
        self.url = url
        self.log = log
        self._command = [sys.executable, "-P", "-m", "gateway", *arguments]
        self._environment = environment
        self._stop_patience_s = drain_s + STOP_PATIENCE_S
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    async def start(self) -> None:
        """Return when it serves. Raises EmbeddedFailed with the end of its log."""
        child.bound_log(self.log)
        # To drain would take longer than what it stands on lives once we are killed.
        self._process = child.spawn(self._command, log=self.log, end_with=signal.SIGKILL, environment=self._environment)
        deadline = time.monotonic() + READY_PATIENCE_S
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    raise child.failed(f"{self.name} ended with status {self._process.returncode}", self.log)
                if await self._is_ready(http):
                    return
                await asyncio.sleep(ASK_EVERY_S)
        await self.stop()
        raise child.failed(f"{self.name} was not ready within {READY_PATIENCE_S:.0f} s", self.log)

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        assert self._process is not None, "not started"
        await child.exited(self._process)
        return self._process.returncode

    async def stop(self) -> None:
        """Let it drain. Safe to call twice, and where it is frozen or was never started."""
        if self._process is not None:
            await child.end(self._process, *child.orderly(self._stop_patience_s))

    async def _is_ready(self, http: aiohttp.ClientSession) -> bool:
        try:
            async with http.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False
