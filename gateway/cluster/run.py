"""`applause cluster`: nodes, PostgreSQL, Valkey and Kafka on this machine, to try a cluster and to break it.

Whatever ends by itself is started again, on the same port and data; Ctrl-C ends all, the nodes first.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import structlog

from fanout.tasks import Backoff
from gateway import logs
from gateway.cluster.jars import default_folder
from gateway.cluster.kafka import EmbeddedKafka, kafka_missing
from gateway.cluster.node import NodeProcess
from gateway.cluster.service import EmbeddedService
from gateway.cluster.valkey import EmbeddedValkey, valkey_missing
from gateway.console.demo import PEOPLE
from gateway.ground import database, stop_signal
from gateway.settings import Settings
from gateway.supervisor import Supervisor
from handlers.directory.wire import PutUserRequest
from storage import child
from storage.child import EmbeddedFailed

log = structlog.get_logger()

NODES: Final = 3  # unless told otherwise; at least two
RESTART_FIRST_S, RESTART_MOST_S = 0.5, 5.0


Sign = Callable[[int, Sequence[str]], str]
"""Makes a token of a user's id and roles."""


class ServiceMissing(Exception):
    """Kafka or Valkey can't run here; the message says what to install."""


class Part(Protocol):
    """What is kept running."""

    @property
    def name(self) -> str: ...

    async def start(self) -> Any: ...

    async def ended(self) -> int: ...


async def run(settings: Settings, *, config: Path | None, sign: Sign, with_kafka: bool, nodes: int = NODES) -> int:
    """Run it until SIGTERM or SIGINT (0), or until what it stands on dies (1).

    Raises ServiceMissing, EmbeddedFailed or FolderBusy.
    """
    logs.configure(settings.log.level, settings.log.format)
    missing = (kafka_missing(_jar_folder(settings)), valkey_missing()) if with_kafka else ()
    if why := list(filter(None, missing)):
        raise ServiceMissing("\n  ".join([*why, "or run it without Kafka and Valkey: applause cluster --no-kafka"]))
    if with_kafka and not (jar_folder := _jar_folder(settings) or default_folder()).exists():
        _say([f"Fetching Kafka into {jar_folder}, once: 44 MB"])
    _say([f"Starting {nodes} nodes and what they stand on"])
    stop = stop_signal()
    async with AsyncExitStack() as stack:
        supervisor = Supervisor()
        stack.push_async_callback(supervisor.stop)
        cluster = Cluster(settings, config, supervisor, with_kafka=with_kafka, nodes=nodes)
        starting = asyncio.create_task(cluster.start(stack))
        died = asyncio.create_task(supervisor.died())
        waited: list[asyncio.Future[Any]] = [stop, died]
        await asyncio.wait([*waited, starting], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            _say(cluster.described(sign))
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        starting.cancel()
        died.cancel()
        await asyncio.wait([starting, died])
        if not stop.done():
            log.error("service_died", reason=str(died.result()))
        _say(["Ending: nodes first, then what they stand on."])
    return 0 if stop.done() else 1


class Cluster:
    """The processes and how to reach them."""

    def __init__(
        self, settings: Settings, config: Path | None, supervisor: Supervisor, *, with_kafka: bool, nodes: int
    ) -> None:
        self._settings = settings
        self._config = config
        self._supervisor = supervisor
        folder = settings.data_path.absolute()
        self._folder = folder
        self._services: list[EmbeddedService] = []
        if with_kafka:
            kafka = EmbeddedKafka(folder / "kafka", jar_folder=_jar_folder(settings))
            self._services += [EmbeddedValkey(folder / "valkey"), kafka]
        self._nodes: list[NodeProcess] = []
        self._count = nodes
        self._dsn = ""

    async def start(self, stack: AsyncExitStack) -> None:
        """Start all, return when all serve, and keep them running; leaving the stack ends them, the nodes first."""
        ports = self._ports()
        self._dsn = await database(self._settings, stack, self._supervisor)
        for service in self._services:
            stack.push_async_callback(service.stop)
        await _all(*(service.start() for service in self._services))
        self._nodes = [self._node(number, port) for number, port in enumerate(ports, start=1)]
        stack.push_async_callback(self._stop_nodes)
        await _all(*(node.start() for node in self._nodes))
        stack.push_async_callback(self._supervisor.stop)  # before all others: what ends now shall not be started again
        parts: list[Part] = [*self._services, *self._nodes]
        for part in parts:
            self._supervisor.start(part.name, _keep_running(part))

    def described(self, sign: Sign) -> list[str]:
        """For a person: what runs where, and what to try."""
        first, second = self._nodes[:2]
        lines = [f"{node.name}      {node.url}  process {node.pid}, log {node.log}" for node in self._nodes]
        lines.append(f"PostgreSQL  {self._dsn}")
        lines += [f"{each.name:<10}  {each.address}  process {each.pid}, log {each.log}" for each in self._services]
        lines += [
            "",
            f"Two phones on different nodes: open {first.url}/ and {second.url}/ side by side, and like on",
            "Ada's phone in one window: Grace hears of it in both.",
            "With a client of your own, io(url, {transports: ['websocket'], auth: {token}}), for an hour as:",
            *(f"{person.username:<10}  {sign(user, _roles(person))}" for user, person in PEOPLE.items()),
            "",
            "Kill any of them (kill -9): it comes back where it was. Ctrl-C ends all.",
        ]
        return lines

    def _ports(self) -> Sequence[int]:
        first = self._settings.server.port
        if not first:
            return [child.free_port() for _ in range(self._count)]
        ports = range(first, first + self._count)
        if taken := [port for port in ports if not child.is_free(port)]:
            raise EmbeddedFailed(f"port {taken[0]} is in use: choose another first port with --port")
        return ports

    def _node(self, number: int, port: int) -> NodeProcess:
        host = self._settings.server.host
        arguments = ["demo", "--host", host, "--port", str(port)]
        if self._config is not None:
            arguments += ["--config", str(self._config.absolute())]
        return NodeProcess(
            f"node {number}",
            f"http://{host}:{port}",
            arguments,
            log=self._folder / f"node{number}.log",
            environment=self._environment(),
            drain_s=self._settings.drain.timeout_s,
        )

    def _environment(self) -> Mapping[str, str]:
        """Ours, so that settings of ours are theirs too, and where the services are."""
        given = {"DATABASE_URL": self._dsn}
        names = {"Valkey": "REDIS_URL", "Kafka": "KAFKA_BOOTSTRAP_SERVERS"}
        given |= {names[service.name]: service.address for service in self._services}
        own = {name: value for name, value in os.environ.items() if not name.startswith("APPLAUSE_AUTH__SECRET")}
        return own | given | {"APPLAUSE_AUTH__SECRET": self._settings.auth.secret}

    async def _stop_nodes(self) -> None:
        await asyncio.gather(*(node.stop() for node in self._nodes))


async def _all(*starts: Coroutine[Any, Any, Any]) -> None:
    """Return when all have started. None goes on after one has failed."""
    tasks = [asyncio.create_task(start) for start in starts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _keep_running(part: Part) -> None:
    """Serve until cancelled: start it again whenever it ends by itself."""
    backoff = Backoff(first=RESTART_FIRST_S, most=RESTART_MOST_S)
    while True:
        log.error("cluster.ended", part=part.name, exit_status=await part.ended())
        while True:
            await asyncio.sleep(backoff.next())
            try:
                await part.start()
                break
            except EmbeddedFailed as error:
                log.error("cluster.restart_failed", part=part.name, reason=str(error))
        backoff.reset()


def _jar_folder(settings: Settings) -> Path | None:
    return Path(settings.cluster.kafka_jars).expanduser().absolute() if settings.cluster.kafka_jars else None


def _roles(person: PutUserRequest) -> Sequence[str]:
    assert not isinstance(person.roles, msgspec.UnsetType)
    return person.roles


def _say(lines: list[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
