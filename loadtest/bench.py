"""A whole run: the servers side by side, taking turns, each scenario bounded in count and time."""

from __future__ import annotations

import importlib.util
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from loadtest.crew import Checked
from loadtest.figures import CLIENT_BOUND, Figure, brief, middle
from loadtest.measure import Conduct
from loadtest.progress import Progress
from loadtest.report import Report, machine
from loadtest.scenarios.chat import run_chat
from loadtest.scenarios.crowd import run_connects, run_idle
from loadtest.scenarios.echo import run_echo
from loadtest.scenarios.fanout import run_fanout
from loadtest.scenarios.group import LEAD_IN_S, MEMBERS, RATE, WARM_UP_S, GroupJob, run_group
from loadtest.scenarios.growth import run_growth
from loadtest.scenarios.intake import USERS as READERS
from loadtest.scenarios.intake import run_intake
from loadtest.scenarios.likes import VIDEOS, run_likes, seed_likes
from loadtest.scenarios.mixed import VIDEOS as MIXED_VIDEOS
from loadtest.scenarios.mixed import MixedJob, run_mixed
from loadtest.scenarios.storm import run_storm
from loadtest.servers import Applause, Elsewhere, Kafka, Server, Stock

SCENARIOS: Final = ("idle", "growth", "connects", "storm", "echo", "fanout", "likes", "hot", "chat", "group", "mixed")
ALL: Final = (*SCENARIOS, "intake")  # which needs a Kafka, so that it is run only where somebody asks for it
ALONE: Final = frozenset(
    {"growth", "storm", "likes", "hot", "chat", "group", "mixed", "intake"}
)  # stock has no inbox and no database
LOCAL: Final = frozenset({"idle", "growth"})  # they look at the server's memory

FIRST_IDLE_USER: Final = 3_000_001
FIRST_STORM_USER: Final = 4_000_001
FIRST_MIXED_USER: Final = 5_000_001
FIRST_GROWTH_USER: Final = 6_000_001
FIRST_INTAKE_USER: Final = 7_000_001
FIRST_CHAT_USER: Final = 8_000_001
FIRST_GROUP_USER: Final = 9_000_001
# Stock takes minutes to let ten thousand in; its memory per connection is the same at fewer.
STOCK_IDLE: Final = 2_000
STOCK_CONNECTS: Final = 1_000

FASTEST: Final = 30_000  # likes a second: so many videos are there that phones don't run out of them
FASTEST_ALONE: Final = 600  # of one connection, which waits for each
FASTEST_BESIDE: Final = 10_000  # likes a second of a group: its run is long, and each video has to be looked at
OTHERS_BASES: Final = 10**9  # on a server that is not ours each run has people and videos of its own,
OTHERS_WIDTH: Final = 10**6  # with ids from a random multiple of ten million on: nobody real is touched

S = TypeVar("S", bound=Server)


class Sizes(msgspec.Struct, frozen=True):
    """How much of everything; times in seconds, `rate` in actions a second (None: closed loops, and mixed's own).
    `videos` are of likes, hot and mixed; None: enough of them. `workers`: of our server; `readers`:
    whom events of intake are for. `settling`: of the usual warm-ups and rests so much. `members` of a
    group, of whom some write so many `messages` a second."""

    seconds: float = 4.0
    rounds: int = 2
    connections: int = 200
    listeners: int = 1_000
    idle: int = 10_000
    growth: int = 15_000
    connects: int = 3_000
    phones: int = 1_000
    events: int = 20
    rate: float | None = None
    processes: int = 1
    patience_s: float = 15.0
    workers: int = 1
    videos: int | None = None
    readers: int = READERS
    settling: float = 1.0
    members: int = MEMBERS
    messages: float = RATE

    @property
    def mixed_rate(self) -> float:
        """Of `mixed`, which is always an open loop."""
        return self.rate or 500.0

    def group(self, first_user: int) -> GroupJob:
        """With videos enough for two pairs of windows a round."""
        settling_s = self.settling * (4 * self.rounds * LEAD_IN_S + WARM_UP_S)
        each = min(FASTEST_BESIDE / self.members, FASTEST_ALONE) * (4 * self.rounds * self.seconds + settling_s)
        return GroupJob(first_user=first_user, members=self.members, rate=self.messages, videos=math.ceil(each))

    @property
    def enough_videos(self) -> int:
        """Of likes and hot: a connection likes each once, at first one after the other and then at half of the rate."""
        if self.videos is not None:
            return self.videos
        each = 1.5 * (self.rate / self.connections if self.rate else min(FASTEST / self.connections, FASTEST_ALONE))
        return max(VIDEOS, math.ceil(each * (self.seconds + 1)))


class Bench:
    """Runs scenarios on our server and, where it is installed and wanted, on stock; or on one that runs `elsewhere`
    alone, reading from `kafka`."""

    def __init__(
        self,
        sizes: Sizes,
        folder: Path,
        *,
        peer: bool,
        progress: Progress,
        elsewhere: Elsewhere | None = None,
        kafka: Kafka | None = None,
    ) -> None:
        self._sizes = sizes
        self._folder = folder
        self._progress = progress
        self._elsewhere = elsewhere
        self._kafka = kafka or Kafka(folder)
        self._base = random.randrange(1, OTHERS_BASES) // 10 * 10 * OTHERS_WIDTH if elsewhere else 0
        self._with_peer = peer and elsewhere is None
        if self._with_peer and importlib.util.find_spec("socketio") is None:
            progress.tell("python-socketio is not installed: no peer (pip install 'applause[dev]')")
            self._with_peer = False
        self._figures: list[Figure] = []
        self._problems: list[str] = []
        self._checked: list[Checked] = []
        self._conduct = Conduct(processes=sizes.processes, progress=progress, settling=sizes.settling)
        self._checking = replace(self._conduct, patience_s=sizes.patience_s, found=self._found)

    async def run(self, scenarios: list[str]) -> Report:
        """Run these scenarios, in the order of ALL: memory first, on servers that are fresh."""
        about = machine() | {"seconds": self._sizes.seconds, "processes": self._sizes.processes}
        async with AsyncExitStack() as stack:
            environ: Mapping[str, str] = {}
            if "intake" in scenarios:
                self._progress.tell("starting Kafka")
                environ = (await stack.enter_async_context(self._kafka)).environ
            ours: Server = self._elsewhere or await self._start(
                Applause(self._folder, self._sizes.workers, environ=environ), stack
            )
            servers: list[Server] = [ours]
            if self._with_peer and set(scenarios) - ALONE:
                servers.append(await self._start(Stock(self._folder), stack))
            for scenario in (each for each in ALL if each in scenarios):
                await self._scenario(scenario, ours, servers)
            if isinstance(ours, Applause) and ALONE & set(scenarios):
                await self._audit(ours)
        return Report(about, self._figures, self._problems, self._checked)

    async def _scenario(self, scenario: str, ours: Server, servers: list[Server]) -> None:
        sizes, rounds = self._sizes, self._sizes.rounds
        match scenario:
            case "idle":
                await self._turns(servers, self._idle, rounds=1)
            case "growth":
                self._keep(await self._growth())
            case "connects":
                await self._turns(servers, self._connects, rounds=rounds)
            case "echo":
                await self._turns(servers, self._echo, rounds=rounds)
            case "fanout":
                await self._turns(servers, self._fanout(4), rounds=rounds)
                await self._turns(servers, self._fanout(1), rounds=rounds)
            case "likes" | "hot":
                await self._likes(ours, "hot" if scenario == "hot" else "uniform")
            case "chat":
                self._keep(
                    await run_chat(
                        ours, first_user=self._base + FIRST_CHAT_USER, connections=sizes.connections,
                        seconds=sizes.seconds, rate=sizes.rate, conduct=self._checking,
                    )
                )  # fmt: skip
            case "group":
                job = sizes.group(self._base + FIRST_GROUP_USER)
                self._keep(
                    await run_group(ours, job, seconds=sizes.seconds, pairs=2 * sizes.rounds, conduct=self._checking)
                )
            case "storm":
                first = self._base + FIRST_STORM_USER
                self._keep(
                    await run_storm(
                        ours, phones=sizes.phones, events=sizes.events, first_user=first, rounds=rounds,
                        conduct=self._checking,
                    )
                )  # fmt: skip
            case "mixed":
                mixed = MixedJob(
                    people=sizes.connections, first_user=self._base + FIRST_MIXED_USER, rate=sizes.mixed_rate,
                    videos=sizes.videos or MIXED_VIDEOS,
                )  # fmt: skip
                self._keep([await run_mixed(ours, mixed, seconds=sizes.seconds, conduct=self._checking)])
            case "intake":
                first = self._base + FIRST_INTAKE_USER
                self._keep(
                    [
                        await run_intake(
                            ours, self._kafka, first_user=first, seconds=sizes.seconds, rate=sizes.rate,
                            users=sizes.readers, conduct=self._checking,
                        )
                    ]
                )  # fmt: skip

    async def _start(self, server: S, stack: AsyncExitStack) -> S:
        stack.push_async_callback(server.stop)
        await server.started()
        return server

    async def _turns(
        self, servers: list[Server], scenario: Callable[[Server], Awaitable[Figure]], *, rounds: int
    ) -> None:
        """One server after the other, round by round, so that what else the machine does meets all of them."""
        found: dict[str, list[Figure]] = {}
        for _ in range(rounds):
            for server in servers:
                figure = await scenario(server)
                self._note(figure)
                found.setdefault(server.name, []).append(figure)
        self._figures += [middle(figures) for figures in found.values()]

    async def _likes(self, ours: Server, kind: str) -> None:
        sizes = self._sizes
        self._progress.tell(f"likes {kind}: preparing users and videos, {sizes.enough_videos:,}")
        await seed_likes(ours, connections=sizes.connections, videos=sizes.enough_videos, base=self._base)
        self._keep(
            await run_likes(
                ours, kind, connections=sizes.connections, seconds=sizes.seconds, rate=sizes.rate,
                videos=sizes.enough_videos, base=self._base, conduct=self._checking,
            )
        )  # fmt: skip

    async def _audit(self, ours: Applause) -> None:
        self._progress.tell("auditing the ledger")
        audit = Checked(3, "the ledger as `applause audit` proves it", count=1)
        if found := await ours.audit():
            audit.fault(found)
        self._found([audit])

    def _found(self, checked: list[Checked]) -> None:
        """What was looked at; the same thing of several scenarios is added up."""
        for each in checked:
            mine = next((mine for mine in self._checked if mine.what == each.what), None)
            if mine is None:
                self._checked.append(msgspec.structs.replace(each))
            else:
                mine.add(each)
            if each.broken:
                examples = "; ".join(each.examples)
                self._problems.append(f"promise {each.promise}, {each.what}: {each.broken} are not. {examples}")

    def _keep(self, figures: list[Figure]) -> None:
        for figure in figures:
            self._note(figure)
        self._figures += figures

    def _note(self, figure: Figure) -> None:
        self._progress.tell(f"{figure.measure}: {figure.server} {brief(figure.value)} {figure.unit}")
        if figure.faults:
            self._problems.append(f"{figure.measure}, {figure.server}: {figure.faults} wrong or missing. {figure.note}")
        if figure.is_client_bound:
            cores = f"{figure.client_most:.2f} cores, more than {CLIENT_BOUND}"
            self._progress.tell(f"  the busiest load process took {cores}: try --processes {self._sizes.processes + 1}")

    async def _idle(self, server: Server) -> Figure:
        count = min(self._sizes.idle, STOCK_IDLE) if isinstance(server, Stock) else self._sizes.idle
        return await run_idle(server, connections=count, first_user=self._base + FIRST_IDLE_USER, conduct=self._conduct)

    async def _connects(self, server: Server) -> Figure:
        count = min(self._sizes.connects, STOCK_CONNECTS) if isinstance(server, Stock) else self._sizes.connects
        return await run_connects(
            server, connections=count, first_user=self._base + FIRST_IDLE_USER, conduct=self._conduct
        )

    async def _growth(self) -> list[Figure]:
        """On a server of its own, since another crowd has left its memory behind on ours."""
        folder = self._folder / "growth"
        folder.mkdir()
        async with AsyncExitStack() as stack:
            return await run_growth(
                await self._start(Applause(folder), stack), connections=self._sizes.growth,
                seconds=self._sizes.seconds, first_user=FIRST_GROWTH_USER, conduct=self._checking,
            )  # fmt: skip

    async def _echo(self, server: Server) -> Figure:
        sizes = self._sizes
        return await run_echo(
            server, connections=sizes.connections, seconds=sizes.seconds, rate=sizes.rate, base=self._base,
            conduct=self._conduct,
        )  # fmt: skip

    def _fanout(self, outstanding: int) -> Callable[[Server], Awaitable[Figure]]:
        async def run(server: Server) -> Figure:
            sizes = self._sizes
            return await run_fanout(
                server, listeners=sizes.listeners, outstanding=outstanding, seconds=sizes.seconds, base=self._base,
                conduct=self._conduct,
            )  # fmt: skip

        return run
