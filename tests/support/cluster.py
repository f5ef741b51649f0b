"""Several gateway processes on one database, as a small cluster runs them; each can be frozen and killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support.folders import own_environment

SECRET: Final = "the cluster's secret of more than 32 bytes"
READY: Final = "Applause is ready at "
START_S: Final = 90.0  # patience on a busy machine
STOP_S: Final = 20.0


class NodeProcess:
    """One `applause serve` of the cluster."""

    def __init__(self, dsn: str, log: Path, **settings: object) -> None:
        self._log = log
        environment = own_environment() | {"DATABASE_URL": dsn, "APPLAUSE_AUTH__SECRET": SECRET}
        environment |= {f"APPLAUSE_{name}": str(value) for name, value in settings.items()}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve", "--port", "0"], stdout=output, stderr=output, env=environment
            )
        self.url = ""

    async def ready(self) -> None:
        """Return when it listens."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            _, found, rest = self.log.partition(READY)
            if found and "\n" in rest:
                self.url = rest.split("\n", 1)[0].strip()
                return
            await asyncio.sleep(0.02)
        pytest.fail(f"a node did not get ready (exit status {self.process.poll()}):\n{self.log[-4000:]}")

    @property
    def log(self) -> str:
        """Everything that it wrote."""
        return self._log.read_text(errors="replace")

    def freeze(self) -> None:
        """Stop it in the middle of whatever it does; it knows nothing of it."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.process.pid, signal.SIGCONT)

    async def stop(self) -> int:
        """As an operator stops it; the exit status. One that does not end is killed."""
        if self.process.poll() is None:
            self.thaw()
            self.process.terminate()
        try:
            return await asyncio.to_thread(self.process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"a node still ran {STOP_S:.0f} s after SIGTERM:\n{self.log[-4000:]}")


@asynccontextmanager
async def cluster(dsn: str, folder: Path, nodes: int = 2, **settings: object) -> AsyncIterator[list[NodeProcess]]:
    """That many nodes on one database whose schema is current; those that are still in the list at the end stop
    cleanly."""
    started = [NodeProcess(dsn, folder / f"node{number}.log", **settings) for number in range(nodes)]
    try:
        await asyncio.gather(*(node.ready() for node in started))
        yield started
    finally:
        statuses = await asyncio.gather(*(node.stop() for node in started))
    assert statuses == [0] * len(started)
