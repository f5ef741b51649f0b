"""`applause loadtest cluster`: what it takes to tell users who are connected to other nodes.

A cluster of its own (`applause cluster`: PostgreSQL, Valkey and Kafka too) for each number of nodes in turn. Users are
spread evenly. Backends publish at a steady rate on every node, each event for as many users of that node as of others,
so the two can be compared, event by event: what the way over Kafka adds to the time, and what it costs. Times are from
when an event was due to be sent, so an event that waits for a stalled server counts with its waiting; all are of one
clock, that of this process. What is published while caches and plans are cold counts for nothing.
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
IDLE_S: Final = 3.0  # at most: no longer than the load
SCRAPES_APART_S: Final = 1.5  # a node's metrics may be that old
LANES: Final = 16  # connections of backends to each node
READY: Final = "Ctrl-C ends all."

_NODE: Final = re.compile(r"^node \d+ +http://([0-9.]+):(\d+) +process (\d+)", re.MULTILINE)
_ID: Final = re.compile(rb'"id":"([0-9a-f]{8})-(\d+)"')
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


class Sent:
    """One event: when it was due, whom it is for, and when it came to them."""

    __slots__ = ("come", "due", "there")

    def __init__(self, due: float, here: Sequence[int], there: Sequence[int]) -> None:
        self.due = due
        self.come: dict[int, float] = dict.fromkeys([*here, *there], 0.0)  # user -> when, or 0
        self.there = frozenset(there)


class Post:
    """What was published, and what came of it."""

    def __init__(self) -> None:
        self._name = secrets.token_hex(4).encode()  # so that it does not take an earlier one's events for its own
        self.sent: list[Sent] = []
        self.expected = self.there = self.come = self.twice = 0  # events to users, of those to others' users

    def begin(self, due: float, here: Sequence[int], there: Sequence[int]) -> str:
        """The event's id."""
        self.sent.append(Sent(due, here, there))
        self.expected += len(here) + len(there)
        self.there += len(there)
        return f"{self._name.decode()}-{len(self.sent) - 1}"

    async def settle(self, patience_s: float) -> None:
        """Return when all have come, or will not."""
        deadline = time.perf_counter() + patience_s
        while self.come < self.expected and time.perf_counter() < deadline:
            await asyncio.sleep(0.05)

    def heard(self, user: int, message: bytes) -> None:
        """The user's phone has."""
        if (found := _ID.search(message)) and found[1] == self._name:
            come = self.sent[int(found[2])].come
            self.twice += bool(come[user])
            self.come += not come[user]
            come[user] = come[user] or time.perf_counter()

    def waits(self) -> tuple[Histogram, Histogram, Histogram]:
        """From due to a phone of the same node, to one of another, and of each event what the way there has added to
        the way here."""
        here, there, added = Histogram(), Histogram(), Histogram()
        for sent in self.sent:
            near = [at for user, at in sent.come.items() if at and user not in sent.there]
            for user, at in sent.come.items():
                if at:
                    (there if user in sent.there else here).record(at - sent.due)
                if at and near and user in sent.there:
                    added.record(max(at - min(near), 0.0))
        return here, there, added


class Reader(Phone):
    """One user's phone."""

    __slots__ = ("_user", "post")

    def __init__(self, door: Door, user: int) -> None:
        super().__init__(door.address, door.auth(user))
        self._user = user
        self.post = Post()

    def heard(self, message: bytes) -> None:
        self.post.heard(self._user, message)


class Result(msgspec.Struct, rename="camel", kw_only=True):
    """One number of nodes. CPU is of the nodes alone, less what they take idle; times from when an event was due."""

    nodes: int
    rate: float  # events to users a second, all nodes together
    events: int
    lost: int
    twice: int
    here_ms: tuple[float, float]  # p50, p99
    there_ms: tuple[float, float]
    added_ms: tuple[float, float]  # of each event: there less here
    bytes_per_event: float  # of those for other nodes' users
    records_per_event: float
    skipped_per_event: float
    cpu_ms_per_event: float  # of all events
    idle_cores: float


class Load(NamedTuple):
    """`rate` events a second on each node, each for as many of its `users` as of others', `recipients` in all; and
    before, for `warm_up_s`, some that count for nothing."""

    rate: float
    recipients: int
    users: int
    seconds: float
    warm_up_s: float


async def measure(folder: Path, nodes: int, load: Load) -> Result:
    """One number of nodes."""
    async with Cluster(folder, nodes) as cluster:
        phones: list[Reader] = []
        for node in range(nodes):
            phones += await _connect(cluster.door(node), _users_of(node, nodes, load))
        await _publish_everywhere(cluster, phones, load._replace(seconds=load.warm_up_s), load.warm_up_s)
        await asyncio.sleep(1.0)
        cpu, at = cluster.cpu_s(), time.perf_counter()
        await asyncio.sleep(min(IDLE_S, load.seconds))
        idle = (cluster.cpu_s() - cpu) / (time.perf_counter() - at)
        told = await cluster.told()
        cpu, at = cluster.cpu_s(), time.perf_counter()
        post = await _publish_everywhere(cluster, phones, load, SETTLE_S)
        spent_s = cluster.cpu_s() - cpu - idle * (time.perf_counter() - at)
        told = (await cluster.told()).since(told)
        await hang_up(phones)
    here, there, added = post.waits()
    return Result(
        nodes=nodes,
        rate=post.expected / load.seconds,
        events=post.expected,
        lost=post.expected - post.come,
        twice=post.twice,
        here_ms=_quantiles(here),
        there_ms=_quantiles(there),
        added_ms=_quantiles(added),
        bytes_per_event=told.bytes / post.there,
        records_per_event=told.heard / post.there,
        skipped_per_event=told.skipped / post.there,
        cpu_ms_per_event=1000 * spent_s / post.expected,
        idle_cores=idle,
    )


def _users_of(node: int, nodes: int, load: Load) -> Sequence[int]:
    return range(FIRST_USER + node, FIRST_USER + nodes * load.users, nodes)


async def _connect(door: Door, users: Sequence[int]) -> list[Reader]:
    return await connect_all(door.address, lambda at: Reader(door, users[at]), len(users))


async def _publish_everywhere(cluster: Cluster, phones: Sequence[Reader], load: Load, patience_s: float) -> Post:
    """On all nodes at once; returns when what was published has come, or has not within `patience_s`."""
    post = Post()
    for phone in phones:
        phone.post = post
    await asyncio.gather(*(_publish(cluster, node, post, load) for node in range(len(cluster.nodes))))
    await post.settle(patience_s)
    return post


async def _publish(cluster: Cluster, node: int, post: Post, load: Load) -> None:
    """On one node, each event when it is due, over a few connections."""
    chance = random.Random(node)
    door, nodes = cluster.door(node), len(cluster.nodes)
    begun = time.perf_counter()
    due = iter(range(round(load.rate * load.seconds)))
    own = _users_of(node, nodes, load)
    others = [user for other in range(nodes) if other != node for user in _users_of(other, nodes, load)]

    async def send_some() -> None:
        async with Backend(door.address.host, door.address.port, door.token("backend", "service")) as backend:
            for number in due:
                at = begun + number / load.rate
                await asyncio.sleep(max(0.0, at - time.perf_counter()))
                here, there = chance.sample(own, load.recipients // 2), chance.sample(others, load.recipients // 2)
                body = {"type": "news", "recipientIds": [*here, *there], "data": {"text": "x" * 100}}
                await backend.ask(Asked("POST", "/v1/events", {**body, "id": post.begin(at, here, there)}))

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
    lines += [
        f"{each.nodes:>5} {each.rate:>9.0f} {each.here_ms[0]:>8.1f} {each.here_ms[1]:>7.1f}"
        f" {each.there_ms[0]:>11.1f} {each.there_ms[1]:>7.1f} {each.added_ms[0]:>8.1f} {each.added_ms[1]:>7.1f}"
        f" {each.bytes_per_event:>7.0f} {each.records_per_event:>8.2f} {each.skipped_per_event:>8.2f}"
        f" {each.cpu_ms_per_event:>7.2f} {each.idle_cores:>11.2f}"
        for each in results
    ]
    lines += [
        "Times in ms from when it was due to a phone, of the same node and of another one, and what of an event's way",
        "there that added. Bytes and records through Kafka for each event to another node's user; CPU of the nodes for",
        "each event to any user.",
    ]
    lines += [f"{each.nodes} nodes: {each.lost} lost, {each.twice} came twice" for each in results if _is_broken(each)]
    return "\n".join(lines)


def _is_broken(result: Result) -> bool:
    return bool(result.lost or result.twice)


def cluster(
    nodes: Annotated[str, typer.Option(help="Numbers of nodes, each measured in turn.")] = "2,4,8",
    rate: Annotated[float, typer.Option(help="Events a second that backends publish on each node.", min=1)] = 50.0,
    recipients: Annotated[int, typer.Option(help="Of each event; half of them on other nodes.", min=2, max=100)] = 2,
    users: Annotated[int, typer.Option(help="On each node.", min=50, max=5_000)] = 100,
    seconds: Annotated[float, typer.Option(help="Of publishing, each time.", min=1, max=3600)] = 5.0,
    warm_up: Annotated[
        float, typer.Option(help="Seconds of publishing before: Kafka is compiled, and its groups settle.", min=0)
    ] = 5.0,
    json: Annotated[Path | None, typer.Option(help="Write the results there; - for standard output.")] = None,
) -> None:
    """Measure how events reach users on other nodes: the time that it adds, and what it costs with 2, 4, 8 nodes."""
    try:
        counts = [int(each) for each in nodes.split(",")]
    except ValueError:
        raise typer.BadParameter("like 2,4,8", param_hint="--nodes") from None
    load = Load(rate, recipients, users, seconds, warm_up)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="applause-loadtest-") as folder:
        for count in counts:
            try:
                results.append(uvloop.run(measure(Path(folder), count, load)))
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
