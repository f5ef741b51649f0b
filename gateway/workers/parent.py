"""Several workers on one port: their parent, which holds what they share and keeps them running.

The parent has the database where it is our own, the port's reservation, presence of an embedded database's workers,
and the exchange over which workers tell each other what is new; it serves nobody itself. A worker that dies or hangs
is started again, with back-off, and its clients reconnect by themselves, to whichever worker the kernel gives them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Final

import msgspec
import structlog
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from fanout.exchange import Exchange
from fanout.line import PARENT, Line
from fanout.presence_unix import PresenceDesk
from fanout.tasks import Backoff
from gateway import logs
from gateway.ground import database, stop_signal, topics
from gateway.names import new_name
from gateway.settings import Settings
from gateway.supervisor import Supervisor
from gateway.workers.port import reserve, say_ready
from gateway.workers.scrape import answer_scrapes
from gateway.workers.team import PING, READY
from storage.child import bound_to_parent

log = structlog.get_logger()

POLL_S: Final = 0.02
RESTART_FIRST_S, RESTART_MOST_S = 0.1, 5.0
STEADY_S: Final = 30.0  # after as long a worker's death is its first again
PING_EVERY_S: Final = 2.5
MISSED_PINGS: Final = 4  # in a row, until a worker counts as stuck: one is missed when the whole machine stood still
END_S: Final = 2.5  # what workers get beyond the time for draining, so that the whole ends within 3 s of it


class WorkerFailed(Exception):
    """A worker ended before it was ready for the first time; its own lines in the log say why."""


async def serve(settings: Settings, *, demo: bool) -> int:
    """Run workers until SIGTERM or SIGINT (0 if they ended well), or until what they stand on dies (1)."""
    logs.configure(settings.log.level, settings.log.format)
    stop = stop_signal()
    async with AsyncExitStack() as stack:
        port = reserve(settings.server.host, settings.server.port, stack.enter_context(ExitStack()))
        server = msgspec.structs.replace(settings.server, port=port)
        settings = msgspec.structs.replace(settings, server=server)
        supervisor = Supervisor()
        dsn = await database(settings, stack, supervisor)
        await topics(settings)
        workers = Workers(settings, dsn, supervisor, demo=demo)
        stack.push_async_callback(supervisor.stop)
        stack.push_async_callback(workers.end)
        await workers.open()
        starting = asyncio.create_task(workers.start())
        died = asyncio.create_task(supervisor.died())
        waited: list[asyncio.Future[Any]] = [stop, died, starting]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            if (failure := starting.exception()) is not None:
                log.error("service_died", reason=str(failure))
                return 1
            say_ready(server.host, port)
            await asyncio.wait(waited[:2], return_when=asyncio.FIRST_COMPLETED)
        starting.cancel()
        died.cancel()
        if not stop.done():
            log.error("service_died", reason=str(died.result()))
        return 0 if await workers.drain() and stop.done() else 1


class Workers:
    """The processes. `start`, then `drain`; `end` whatever happened."""

    def __init__(self, settings: Settings, dsn: str, supervisor: Supervisor, *, demo: bool) -> None:
        self._settings = settings
        self._dsn = dsn
        self._supervisor = supervisor
        self._demo = demo
        self._team = new_name()
        self._exchange = Exchange(on_gone=self._forget)
        self._line = Line(PARENT, supervisor.spawn)
        self._desk = PresenceDesk(self._line)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._ready: dict[int, asyncio.Event] = {}
        self._stopping = False
        self._restarts = 0
        answer_scrapes(self._registry(), self._line)
        self._line.answer(READY, self._hear_ready)

    async def open(self) -> None:
        """The parent's own line."""
        await self._line.open(await self._exchange.attach(PARENT))

    async def start(self) -> None:
        """Start all, and return when all listen; from then on they are kept running. Raises WorkerFailed."""
        numbers = range(self._settings.server.workers)
        for number in numbers:
            await self._launch(number)
        await asyncio.gather(*(self._first_ready(number) for number in numbers))
        for number in numbers:
            self._supervisor.start(f"worker {number}", self._keep_running(number))
            self._supervisor.start(f"watch of worker {number}", self._watch(number))

    def is_ready(self, number: int) -> bool:
        """Whether that worker listens."""
        return self._ready[number].is_set()

    async def drain(self) -> bool:
        """All drain together; whether all ended well. Who does not end in time is killed."""
        self._stopping = True
        running = {number: each for number, each in self._processes.items() if each.poll() is None}
        log.info("draining_workers", workers=len(running))
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._settings.drain.timeout_s + END_S):
                await asyncio.gather(*(_exited(process) for process in running.values()))
        except TimeoutError:
            late = [number for number, process in running.items() if process.poll() is None]
            log.error("workers_killed", workers=late)
        # One that was just being started has nobody to drain yet, and ends by the signal itself.
        return all(process.poll() in (0, -signal.SIGTERM) for process in running.values())

    async def end(self) -> None:
        """Whoever still runs ends now; the lines are closed."""
        self._stopping = True
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        self._exchange.close()

    # -- one worker --------------------------------------------------------------------------------------------------

    async def _launch(self, number: int) -> None:
        self._ready[number] = asyncio.Event()
        with await self._exchange.attach(number) as line:
            self._processes[number] = self._spawn(number, line.fileno())

    def _spawn(self, number: int, line: int) -> subprocess.Popen[bytes]:
        mandate = {
            "settings": self._settings,
            "dsn": self._dsn,
            "demo": self._demo,
            "number": number,
            "team": self._team,
            "line": line,
        }
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "gateway.workers.worker",
                str(number),
            ],  # the number is for whoever lists processes
            stdin=subprocess.PIPE,
            pass_fds=[line],
            start_new_session=True,  # Ctrl-C in a terminal reaches the parent alone, which drains them
            # One system call and nothing that takes a lock, so threads can't harm it.
            preexec_fn=bound_to_parent(signal.SIGKILL),  # noqa: PLW1509
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as stdin:  # it may have ended already
            stdin.write(msgspec.json.encode(mandate))  # less than a pipe holds, so this does not wait
        return process

    async def _first_ready(self, number: int) -> None:
        while not self.is_ready(number):
            if (status := self._processes[number].poll()) is not None:
                raise WorkerFailed(f"worker {number} ended with status {status} before it was ready")
            await asyncio.sleep(POLL_S)

    async def _keep_running(self, number: int) -> None:
        """Serve until cancelled: start it again whenever it ends by itself."""
        backoff = Backoff(first=RESTART_FIRST_S, most=RESTART_MOST_S)
        while True:
            began = time.monotonic()
            await _exited(self._processes[number])
            if self._stopping:
                await asyncio.sleep(math.inf)
            self._exchange.detach(number)
            log.error("worker_died", number=number, exit_status=self._processes[number].returncode)
            if time.monotonic() - began > STEADY_S:
                backoff.reset()
            await asyncio.sleep(backoff.next())
            if self._stopping:
                continue
            self._restarts += 1
            await self._launch(number)

    async def _watch(self, number: int) -> None:
        """Serve until cancelled: a worker whose loop does not turn any more still gets its part of the connects."""
        missed = 0
        while True:
            await asyncio.sleep(PING_EVERY_S)
            if not self.is_ready(number):
                missed = 0
                continue
            try:
                async with asyncio.timeout(PING_EVERY_S):
                    await self._line.ask(number, PING)
                missed = 0
            except OSError:  # a time-out included
                missed += 1
            if missed == MISSED_PINGS and self._processes[number].poll() is None:
                log.error("worker_stuck", number=number)
                self._processes[number].kill()
                missed = 0

    async def _hear_ready(self, number: int, _: bytes) -> bytes:
        self._ready[number].set()
        return b""

    def _registry(self) -> CollectorRegistry:
        """The parent's own numbers."""
        registry = CollectorRegistry()
        registry.register(_Readings(lambda: self._restarts))
        ProcessCollector(namespace="applause", registry=registry)
        return registry

    def _forget(self, number: int) -> None:
        if number != PARENT:
            self._ready[number].clear()
            self._desk.forget(number)


class _Readings(Collector):
    def __init__(self, restarts: Callable[[], int]) -> None:
        self._restarts = restarts

    def collect(self) -> Iterator[Metric]:
        what = "Workers started again after they died or hung."
        yield CounterMetricFamily("applause_worker_restarts", what, value=self._restarts())


async def _exited(process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        await asyncio.sleep(POLL_S)
