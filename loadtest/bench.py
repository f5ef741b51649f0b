"""A whole run: the servers side by side, taking turns, each scenario bounded in count and time."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from loadtest.figures import Figure, middle
from loadtest.report import Report, machine
from loadtest.scenarios.crowd import run_connects, run_idle
from loadtest.scenarios.echo import run_echo
from loadtest.scenarios.fanout import run_fanout
from loadtest.scenarios.likes import run_likes, seed_likes
from loadtest.servers import Applause, Server, Stock

SCENARIOS: Final = ("idle", "connects", "echo", "fanout", "likes")

FIRST_IDLE_USER: Final = 3_000_001
# Stock takes minutes to let ten thousand in; its memory per connection is the same at fewer.
STOCK_IDLE: Final = 2_000
STOCK_CONNECTS: Final = 1_000


S = TypeVar("S", bound=Server)


class Sizes(msgspec.Struct, frozen=True):
    """How much of everything; times in seconds."""

    seconds: float = 4.0
    rounds: int = 2
    connections: int = 200
    listeners: int = 1_000
    idle: int = 10_000
    connects: int = 3_000


class Bench:
    """Runs scenarios on our server and, where it is installed and wanted, on stock. `tell` hears of progress."""

    def __init__(self, sizes: Sizes, folder: Path, *, peer: bool, tell: Callable[[str], None]) -> None:
        self._sizes = sizes
        self._folder = folder
        self._tell = tell
        self._with_peer = peer
        if peer and importlib.util.find_spec("socketio") is None:
            tell("python-socketio is not installed: no peer (pip install 'applause[dev]')")
            self._with_peer = False
        self._figures: list[Figure] = []
        self._problems: list[str] = []

    async def run(self, scenarios: list[str]) -> Report:
        """Run these scenarios, in the order of SCENARIOS: memory first, on servers that are fresh."""
        about = machine()
        async with AsyncExitStack() as stack:
            ours = await self._start(Applause(self._folder), stack)
            servers: list[Server] = [ours]
            if self._with_peer and set(scenarios) != {"likes"}:
                servers.append(await self._start(Stock(self._folder), stack))
            if "idle" in scenarios:
                await self._turns(servers, self._idle, rounds=1)
            if "connects" in scenarios:
                await self._turns(servers, self._connects, rounds=self._sizes.rounds)
            if "echo" in scenarios:
                await self._turns(servers, self._echo, rounds=self._sizes.rounds)
            if "fanout" in scenarios:
                await self._turns(servers, self._fanout(4), rounds=self._sizes.rounds)
                await self._turns(servers, self._fanout(1), rounds=self._sizes.rounds)
            if "likes" in scenarios:
                await self._likes(ours)
        return Report(about, self._figures, self._problems)

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

    async def _likes(self, ours: Applause) -> None:
        self._tell("likes: preparing users and videos")
        await seed_likes(ours, connections=self._sizes.connections)
        for kind in ("uniform", "hot"):
            figures = await run_likes(ours, kind, connections=self._sizes.connections, seconds=self._sizes.seconds)
            for figure in figures:
                self._note(figure)
            self._figures += figures
        self._tell("likes: auditing")
        if found := await ours.audit():
            self._problems.append(f"audit: {found}")

    def _note(self, figure: Figure) -> None:
        self._tell(f"{figure.measure}: {figure.server} {figure.value:,.1f} {figure.unit}")
        if figure.faults:
            self._problems.append(f"{figure.measure}, {figure.server}: {figure.faults} wrong or missing. {figure.note}")

    async def _idle(self, server: Server) -> Figure:
        count = self._sizes.idle if isinstance(server, Applause) else min(self._sizes.idle, STOCK_IDLE)
        return await run_idle(server, connections=count, first_user=FIRST_IDLE_USER)

    async def _connects(self, server: Server) -> Figure:
        count = self._sizes.connects if isinstance(server, Applause) else min(self._sizes.connects, STOCK_CONNECTS)
        return await run_connects(server, connections=count, first_user=FIRST_IDLE_USER)

    async def _echo(self, server: Server) -> Figure:
        return await run_echo(server, connections=self._sizes.connections, seconds=self._sizes.seconds)

    def _fanout(self, outstanding: int) -> Callable[[Server], Awaitable[Figure]]:
        async def run(server: Server) -> Figure:
            sizes = self._sizes
            return await run_fanout(server, listeners=sizes.listeners, outstanding=outstanding, seconds=sizes.seconds)

        return run
