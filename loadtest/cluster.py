"""`applause loadtest cluster`: what it takes to tell users who are connected to other nodes.

A cluster of its own (`applause cluster`: PostgreSQL, Valkey and Kafka too) for each number of nodes in turn. Users are
spread evenly. Backends publish events for one user each at a steady rate on every node, in turn for a user of that node
and for one of another, so the two can be compared: what the way over Kafka adds to the time, and what it costs.
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec
import typer
import uvloop

from loadtest.backend import Asked, Backend
from loadtest.crew import Door
from loadtest.histogram import Histogram
from loadtest.machine import spent
from loadtest.phone import Address, Phone, connect_all, hang_up
from loadtest.servers import PYTHON, ServerFailed, own_environ

FIRST_USER: Final = 6_000_001
START_S: Final = 120.0
STOP_S: Final = 40.0
SETTLE_S: Final = 10.0
IDLE_S: Final = 3.0
SCRAPES_APART_S: Final = 1.5  # a node's metrics may be that old
LANES: Final = 4  # connections of backends to each node
READY: Final = "Ctrl-C ends all."

_NODE: Final = re.compile(r"^node \d+ +http://([0-9.]+):(\d+) +process (\d+)", re.MULTILINE)
_ID: Final = re.compile(rb'"id":"(\d+)"')
_SAMPLE: Final = re.compile(r"^applause_fanout_(records|bytes)_total\{(.*)\} ([0-9.e+]+)$", re.MULTILINE)


class NodeAddress(NamedTuple):
    """Where a node is."""

    host: str
    port: int
    pid: int


class Cluster:
    """`applause cluster` in a process of its own. Use it as an async context manager."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self._log = folder / f"cluster-{nodes}.log"
        self._folder = folder / f"cluster-{nodes}"
        self._nodes = nodes
        self._secret = secrets.token_hex(16)
        self.nodes: list[NodeAddress] = []

    async def __aenter__(self) -> Cluster:
        ours = {
            "APPLAUSE_AUTH__SECRET": self._secret,
            "APPLAUSE_LOG__LEVEL": "warning",
            "APPLAUSE_INBOX__COMPARE_EVERY_S": "30",  # what is just on its way would be read, too
        }
        command = [*PYTHON, "-m", "gateway", "cluster", "--nodes", str(self._nodes), "--port", "0"]
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, "--data-dir", str(self._folder), env=own_environ() | ours, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_S
        while READY not in (said := self._log.read_text(errors="replace")):
            if self._process.returncode is not None or time.monotonic() > deadline:
                await self.__aexit__()
                raise ServerFailed(f"the cluster did not start: {said[-2000:]}")
            await asyncio.sleep(0.1)
        self.nodes = [NodeAddress(found[1], int(found[2]), int(found[3])) for found in _NODE.finditer(said)]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), STOP_S)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    def door(self, node: int) -> Door:
        """What a phone has to know."""
        host, port, _ = self.nodes[node]
        return Door(Address(host, port, b'42["resumed"'), self._secret)

    def cpu_s(self) -> float:
        """What the nodes have spent so far."""
        return sum(spent(node.pid, memory=False).server_s for node in self.nodes)

    async def told(self) -> Told:
        """What the nodes have told each other so far."""
        await asyncio.sleep(SCRAPES_APART_S)
        told = Told()
        for node in self.nodes:
            told += await _scraped(node)
        return told


class Told(NamedTuple):
    """Records and bytes through Kafka, of all nodes; `skipped` records were in a partition that nodes share."""

    said: float = 0
    heard: float = 0
    skipped: float = 0
    bytes: float = 0

    def __add__(self, other: tuple[float, ...]) -> Told:  # type: ignore[override]
        return Told(*(a + b for a, b in zip(self, other, strict=True)))

    def since(self, before: Told) -> Told:
        return Told(*(a - b for a, b in zip(self, before, strict=True)))


class Post:
    """What was published: who it was for, and when; and when it came."""

    def __init__(self, nodes: int) -> None:
        self.sent: list[tuple[float, bool]] = []  # (when, whether it was for another node's user)
        self.here, self.there = Histogram(), Histogram()
        self.come = 0
        self.twice = 0
        self._seen: set[int] = set()

    def begin(self, is_there: bool) -> int:
        self.sent.append((time.perf_counter(), is_there))
        return len(self.sent) - 1

    def arrived(self, number: int) -> None:
        if number in self._seen:
            self.twice += 1
            return
        self._seen.add(number)
        self.come += 1
        sent_at, is_there = self.sent[number]
        (self.there if is_there else self.here).record(time.perf_counter() - sent_at)


class Reader(Phone):
    """One user's phone."""

    __slots__ = ("_post",)

    def __init__(self, address: Address, auth: bytes, post: Post) -> None:
        super().__init__(address, auth)
        self._post = post

    def heard(self, message: bytes) -> None:
        if found := _ID.search(message):
            self._post.arrived(int(found[1]))


class Result(msgspec.Struct, rename="camel", kw_only=True):
    """One number of nodes. CPU is of the nodes alone, less what they take idle; times are from sending the request."""

    nodes: int
    rate: float
    events: int
    lost: int
    twice: int
    here_ms: tuple[float, float]  # p50, p99
    there_ms: tuple[float, float]
    bytes_per_event: float  # of those for other nodes' users
    records_per_event: float
    skipped_per_event: float
    cpu_ms_per_event: float  # of all events
    idle_cores: float


async def measure(folder: Path, nodes: int, rate: float, users: int, seconds: float) -> Result:
    """`rate` events a second on each node, `users` on each."""
    post = Post(nodes)
    async with Cluster(folder, nodes) as cluster:
        phones: list[Reader] = []
        for node in range(nodes):
            phones += await _connect(cluster.door(node), post, range(node, nodes * users, nodes))
        await asyncio.sleep(1.0)
        cpu, at = cluster.cpu_s(), time.perf_counter()
        await asyncio.sleep(IDLE_S)
        idle = (cluster.cpu_s() - cpu) / (time.perf_counter() - at)
        told = await cluster.told()
        cpu, at = cluster.cpu_s(), time.perf_counter()
        await asyncio.gather(*(_publish(cluster, node, post, rate, users, seconds) for node in range(nodes)))
        deadline = time.perf_counter() + SETTLE_S
        while post.come < len(post.sent) and time.perf_counter() < deadline:
            await asyncio.sleep(0.05)
        spent_s = cluster.cpu_s() - cpu - idle * (time.perf_counter() - at)
        told = (await cluster.told()).since(told)
        await hang_up(phones)
    there = sum(is_there for _, is_there in post.sent)
    return Result(
        nodes=nodes,
        rate=len(post.sent) / seconds,
        events=len(post.sent),
        lost=len(post.sent) - post.come,
        twice=post.twice,
        here_ms=_quantiles(post.here),
        there_ms=_quantiles(post.there),
        bytes_per_event=told.bytes / there,
        records_per_event=told.heard / there,
        skipped_per_event=told.skipped / there,
        cpu_ms_per_event=1000 * spent_s / len(post.sent),
        idle_cores=idle,
    )


async def _connect(door: Door, post: Post, numbers: Sequence[int]) -> list[Reader]:
    """Users of one node."""

    def reader(at: int) -> Reader:
        return Reader(door.address, door.auth(FIRST_USER + numbers[at]), post)

    return await connect_all(door.address, reader, len(numbers))


async def _publish(cluster: Cluster, node: int, post: Post, rate: float, users: int, seconds: float) -> None:
    """On one node, each event when it is due, over a few connections."""
    chance = random.Random(node)
    door, nodes = cluster.door(node), len(cluster.nodes)
    begun = time.perf_counter()
    due = iter(range(round(rate * seconds)))

    async def send_some() -> None:
        async with Backend(door.address.host, door.address.port, door.token("backend", "service")) as backend:
            for number in due:
                await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
                is_there = number % 2 == 1
                home = (node + chance.randrange(1, nodes)) % nodes if is_there else node
                user = FIRST_USER + home + nodes * chance.randrange(users)
                body = {"type": "news", "recipientIds": [user], "data": {"text": "x" * 100}}
                event = post.begin(is_there)
                await backend.ask(Asked("POST", "/v1/events", {**body, "id": str(event)}))

    async with asyncio.TaskGroup() as group:
        for _ in range(LANES):
            group.create_task(send_some())


async def _scraped(node: NodeAddress) -> Told:
    async with Backend(node.host, node.port, "none") as backend:
        text = (await backend.ask(Asked("GET", "/metrics", {}))).decode()
    found = {(name, labels): float(value) for name, labels, value in _SAMPLE.findall(text)}

    def total(name: str, direction: str, *kinds: str) -> float:
        return sum(
            value
            for (each, labels), value in found.items()
            if each == name and f'direction="{direction}"' in labels and (not kinds or any(k in labels for k in kinds))
        )

    return Told(
        said=total("records", "said", 'kind="one"', 'kind="all"'),
        heard=total("records", "heard", 'kind="one"', 'kind="all"'),
        skipped=total("records", "heard", 'kind="skipped"'),
        bytes=total("bytes", "heard"),
    )


def _quantiles(waits: Histogram) -> tuple[float, float]:
    return round(waits.quantile(0.5) * 1000, 2), round(waits.quantile(0.99) * 1000, 2)


def as_table(results: list[Result]) -> str:
    """For people."""
    lines = [
        f"{'nodes':>5} {'events/s':>9} {'here p50, p99':>16} {'elsewhere p50, p99':>19} {'added p50, p99':>16}"
        f" {'bytes':>7} {'records':>8} {'skipped':>8} {'CPU ms':>7} {'idle cores':>11}"
    ]
    for each in results:
        added = [there - here for here, there in zip(each.here_ms, each.there_ms, strict=True)]
        lines.append(
            f"{each.nodes:>5} {each.rate:>9.0f} {each.here_ms[0]:>8.1f} {each.here_ms[1]:>7.1f}"
            f" {each.there_ms[0]:>11.1f} {each.there_ms[1]:>7.1f} {added[0]:>8.1f} {added[1]:>7.1f}"
            f" {each.bytes_per_event:>7.0f} {each.records_per_event:>8.2f} {each.skipped_per_event:>8.2f}"
            f" {each.cpu_ms_per_event:>7.2f} {each.idle_cores:>11.2f}"
        )
    lines += [
        "Times in ms from sending the request to the phone, for a user of the same node and of another one. Bytes and",
        "records through Kafka for each event for another node's user; CPU of the nodes for each event of any kind.",
    ]
    lines += [f"{each.nodes} nodes: {each.lost} lost, {each.twice} came twice" for each in results if _is_broken(each)]
    return "\n".join(lines)


def _is_broken(result: Result) -> bool:
    return bool(result.lost or result.twice)


def cluster(
    nodes: Annotated[str, typer.Option(help="Numbers of nodes, each measured in turn.")] = "2,4,8",
    rate: Annotated[float, typer.Option(help="Events a second that backends publish on each node.", min=1)] = 50.0,
    users: Annotated[int, typer.Option(help="On each node.", min=2, max=5_000)] = 100,
    seconds: Annotated[float, typer.Option(help="Of publishing, each time.", min=1, max=3600)] = 5.0,
    json: Annotated[Path | None, typer.Option(help="Write the results there; - for standard output.")] = None,
) -> None:
    """Measure how events reach users on other nodes: the time that it adds, and what it costs with 2, 4, 8 nodes."""
    try:
        counts = [int(each) for each in nodes.split(",")]
    except ValueError:
        raise typer.BadParameter("like 2,4,8", param_hint="--nodes") from None
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="applause-loadtest-") as folder:
        for count in counts:
            try:
                results.append(uvloop.run(measure(Path(folder), count, rate, users, seconds)))
            except ServerFailed as error:
                print(f"loadtest: {error}", file=sys.stderr)
                raise typer.Exit(1) from None
    encoded = msgspec.json.format(msgspec.json.encode(results))
    if json is not None and str(json) == "-":
        sys.stdout.write(encoded.decode() + "\n")
    else:
        print(as_table(results))
        if json is not None:
            json.write_bytes(encoded)
    raise typer.Exit(1 if any(map(_is_broken, results)) else 0)
