"""`applause loadtest compare`: ours and its peers in turns, on this machine, with the same client (spec 13).

Each round gives every server its turn, every other round backwards, so that what else the machine does meets all of
them alike. Servers that are not at work are idle or stopped. A likes round has fresh databases.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from html import escape
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
import uvloop

from loadtest.backend import RequestFailed
from loadtest.bench import FIRST_IDLE_USER, STOCK_CONNECTS, STOCK_IDLE, Sizes
from loadtest.comparison import OURS, Row, as_table, rows_of
from loadtest.crew import WorkerFailed
from loadtest.figures import Figure
from loadtest.measure import Conduct
from loadtest.page import as_page
from loadtest.peers.database import PeerDatabases
from loadtest.peers.servers import (
    PACKAGES,
    Node,
    NodeBatched,
    NodeLikes,
    NodePlain,
    PeerMissing,
    StockPlain,
    missing,
)
from loadtest.phone import PhoneFailed
from loadtest.report import Report, machine
from loadtest.scenarios.crowd import run_connects, run_idle
from loadtest.scenarios.echo import run_echo
from loadtest.scenarios.fanout import run_fanout
from loadtest.scenarios.likes import run_likes, seed_likes
from loadtest.servers import Applause, Server, ServerFailed, Stock

MEASURES: Final = ("idle", "connects", "echo", "fanout", "likes")
KINDS: Final = ("uniform", "hot")
ON_THE_SOCKET: Final[dict[str, Callable[[Path], Server]]] = {
    Stock.name: Stock,
    StockPlain.name: StockPlain,
    Node.name: Node,
    NodePlain.name: NodePlain,
}
OF_LIKES: Final[dict[str, type[NodeLikes]]] = {NodeLikes.name: NodeLikes, NodeBatched.name: NodeBatched}
PEERS: Final = tuple(dict.fromkeys((*ON_THE_SOCKET, *OF_LIKES)))
LEGEND: Final = (
    "ours is: so many times better, round by round (median, least–most); per CPU-s: of server and database together;\n"
    "*: the load client was at its limit, so the server can do more; stock and Node ask for no token but for likes"
)
ALL_PEERS: Final = ",".join(PEERS)

Turn = Callable[[Server], Awaitable[list[Figure]]]
Tell = Callable[[str], None]


class Comparison(msgspec.Struct, rename="camel", frozen=True):
    """One run: the machine, the table's rows, the figures of all rounds, what was wrong (of answers and books, never
    of speed), and who could not be measured, and why."""

    machine: dict[str, str | int | float]
    rows: list[Row]
    figures: list[Figure]
    problems: list[str]
    skipped: list[str]


class Comparing:
    """Runs ours and the peers that are wanted. `tell` hears of progress."""

    def __init__(self, sizes: Sizes, folder: Path, *, peers: Sequence[str] = PEERS, tell: Tell) -> None:
        self._sizes = sizes
        self._conduct = Conduct(processes=sizes.processes, settling=sizes.settling)
        self._folder = folder
        workers = sizes.workers
        team = {} if workers == 1 else {f"{OURS} × {workers}": partial(Applause, workers=workers)}
        self._ours: dict[str, Callable[[Path], Server]] = {OURS: Applause, **team}
        self._sockets: dict[str, Callable[[Path], Server]] = {**self._ours, **ON_THE_SOCKET}
        self._wanted = (*self._ours, *peers)
        self._tell = tell
        self._figures: list[Figure] = []
        self._problems: list[str] = []
        self._skipped: dict[str, None] = {}
        self._folders = 0

    async def run(self, measures: Sequence[str] = MEASURES) -> Comparison:
        """Run these of MEASURES, in that order."""
        about = machine()
        turns: dict[str, Turn] = {"connects": self._connects, "echo": self._echo, "fanout": self._fanout}
        if "idle" in measures:
            await self._idle()
        if wanted := [turns[name] for name in MEASURES if name in turns and name in measures]:
            await self._on_the_socket(wanted)
        if "likes" in measures:
            await self._likes()
        return Comparison(about, rows_of(self._figures), self._figures, self._problems, list(self._skipped))

    # -- who ---------------------------------------------------------------------------------------------------------

    def _order(self, names: Sequence[str]) -> list[list[str]]:
        """Whose turn it is, round by round."""
        wanted = [name for name in names if name in self._wanted]
        return [wanted[:: 1 if number % 2 == 0 else -1] for number in range(self._sizes.rounds)]

    @asynccontextmanager
    async def _running(self, make: Callable[[Path], Server]) -> AsyncIterator[Server | None]:
        """A server in a folder of its own; None, loudly, where it lacks what it needs."""
        self._folders += 1
        folder = self._folder / str(self._folders)
        folder.mkdir()
        try:
            server = make(folder)
        except PeerMissing as missing:
            self._skip(str(missing))
            yield None
            return
        try:
            await server.started()
            yield server
        finally:
            await server.stop()

    def _skip(self, why: str) -> None:
        if why not in self._skipped:
            self._tell(f"NOT MEASURED: {why}")
            self._skipped[why] = None

    def _note(self, figures: Sequence[Figure]) -> None:
        self._figures += figures
        for figure in figures:
            self._tell(f"{figure.measure}: {figure.server} {figure.value:,.1f} {figure.unit}")
            if figure.faults:
                wrong = f"{figure.measure}, {figure.server}: {figure.faults} wrong or missing. {figure.note}"
                self._problems.append(wrong)
            if not figure.samples:
                self._problems.append(f"{figure.measure}, {figure.server}: nothing was answered")

    # -- the measures ------------------------------------------------------------------------------------------------

    async def _idle(self) -> None:
        """Each turn with a fresh server: what an earlier crowd has left behind would hide the cost of the next."""
        for names in self._order(list(self._sockets)):
            for name in names:
                async with self._running(self._sockets[name]) as server:
                    if server is not None:
                        count = min(self._sizes.idle, STOCK_IDLE) if _is_stock(server) else self._sizes.idle
                        self._note(
                            [
                                await run_idle(
                                    server, connections=count, first_user=FIRST_IDLE_USER, conduct=self._conduct
                                )
                            ]
                        )

    async def _on_the_socket(self, turns: Sequence[Turn]) -> None:
        """All servers run from the first round to the last, warm, and take turns at being at work."""
        async with AsyncExitStack() as stack:
            servers: dict[str, Server] = {}
            for name, make in self._sockets.items():
                if name in self._wanted:
                    server = await stack.enter_async_context(self._running(make))
                    servers |= {} if server is None else {name: server}
            for turn in turns:
                if turn == self._connects:  # of people whom ours knows already
                    for server in servers.values():
                        await self._connects(server)
                for names in self._order(list(servers)):
                    for name in names:
                        self._note(await turn(servers[name]))

    async def _connects(self, server: Server) -> list[Figure]:
        count = min(self._sizes.connects, STOCK_CONNECTS) if _is_stock(server) else self._sizes.connects
        return [await run_connects(server, connections=count, first_user=FIRST_IDLE_USER, conduct=self._conduct)]

    async def _echo(self, server: Server) -> list[Figure]:
        sizes = self._sizes
        return [await run_echo(server, connections=sizes.connections, seconds=sizes.seconds, conduct=self._conduct)]

    async def _fanout(self, server: Server) -> list[Figure]:
        sizes = self._sizes
        return [
            await run_fanout(
                server, listeners=sizes.listeners, outstanding=outstanding, seconds=sizes.seconds, conduct=self._conduct
            )
            for outstanding in (4, 1)
        ]

    async def _likes(self) -> None:
        databases = PeerDatabases(self._folder / "databases")
        peers = [name for name in OF_LIKES if name in self._wanted]
        if peers and (lacking := missing(PACKAGES["likes"])):
            self._skip(lacking)
            peers = []
        try:
            if peers:
                self._tell("likes: preparing the peers' PostgreSQL")
                await databases.start(self._seed)
            for names in self._order([*self._ours, *peers]):
                for name in names:
                    if name in self._ours:
                        await self._our_likes(self._ours[name])
                    else:
                        await self._likes_of(OF_LIKES[name], databases)
        finally:
            await databases.stop()

    async def _our_likes(self, make: Callable[[Path], Server]) -> None:
        async with self._running(make) as server:
            assert isinstance(server, Applause)
            await self._seed(server)
            await self._like(server)
            self._judge(server.name, await server.audit())

    async def _likes_of(self, peer: type[NodeLikes], databases: PeerDatabases) -> None:
        database = await databases.copy()

        def make(folder: Path) -> Server:
            return peer(folder, dsn=databases.dsn(database), secret=databases.secret, database_pid=databases.host_pid)

        async with self._running(make) as server:
            assert server is not None
            await self._like(server)
        self._judge(peer.name, await databases.audit(database))
        await databases.drop(database)

    async def _seed(self, server: Server) -> None:
        await seed_likes(server, connections=self._sizes.connections, videos=self._sizes.enough_videos)

    async def _like(self, server: Server) -> None:
        sizes = self._sizes
        for kind in KINDS:
            self._note(
                await run_likes(
                    server,
                    kind,
                    connections=sizes.connections,
                    seconds=sizes.seconds,
                    videos=sizes.enough_videos,
                    conduct=self._conduct,
                )
            )

    def _judge(self, name: str, found: str) -> None:
        if found:
            self._problems.append(f"audit, {name}: {found}")


def _is_stock(server: Server) -> bool:
    """Stock takes minutes to let ten thousand in; it is measured with fewer, which is in its favour."""
    return isinstance(server, Stock | StockPlain)


# -- the command -----------------------------------------------------------------------------------------------------

Measures = Annotated[list[str] | None, typer.Argument(help=f"Some of: {', '.join(MEASURES)}. All by default.")]
Peers = Annotated[str, typer.Option(help="Some of the peers, comma-separated.")]


def compare(
    measures: Measures = None,
    seconds: Annotated[float, typer.Option(help="Of measuring, each time.", min=0.5, max=60)] = 4.0,
    rounds: Annotated[int, typer.Option(help="Turns of each server.", min=1, max=15)] = 3,
    connections: Annotated[int, typer.Option(help="Of likes and echo.", min=1, max=5_000)] = 200,
    listeners: Annotated[int, typer.Option(help="Of fanout.", min=1, max=15_000)] = 1_000,
    idle: Annotated[int, typer.Option(help="Connections of idle.", min=100, max=50_000)] = 10_000,
    connects: Annotated[int, typer.Option(help="Connections of connects.", min=100, max=50_000)] = 3_000,
    peers: Peers = ALL_PEERS,
    processes: Annotated[int, typer.Option(help="Load processes.", min=1, max=64)] = 1,
    workers: Annotated[int, typer.Option(help="Measure ours with so many workers, too.", min=1, max=64)] = 1,
    json: Annotated[Path | None, typer.Option(help="Write everything there; - for standard output.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots there.")] = None,
) -> None:
    """Measure ours beside stock python-socketio and Node in turns, and print the table of the specification.

    Speed never fails the run; a wrong answer or an unsound ledger does, also of a peer: it would compare other work.
    """
    chosen = measures or list(MEASURES)
    wanted = [peer.strip() for peer in peers.split(",") if peer.strip()]
    for given, known in ((chosen, MEASURES), (wanted, PEERS)):
        if unknown := set(given) - set(known):
            raise typer.BadParameter(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    sizes = Sizes(
        seconds=seconds,
        rounds=rounds,
        connections=connections,
        listeners=listeners,
        idle=idle,
        connects=connects,
        processes=processes,
        workers=workers,
    )
    found = _compared(sizes, chosen, wanted)
    if html is not None:
        html.write_text(as_html(found))
    whole = msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"
    if json is not None and str(json) == "-":
        sys.stdout.write(whole.decode())
    else:
        print(as_text(found))
        if json is not None:
            json.write_bytes(whole)
    raise typer.Exit(1 if found.problems else 0)


def as_text(found: Comparison) -> str:
    """The table, and what has to be known about it."""
    about = ", ".join(f"{key} {value}" for key, value in found.machine.items())
    verdict = [f"PROBLEM: {problem}" for problem in found.problems]
    verdict += [f"NOT MEASURED: {why}" for why in found.skipped]
    sound = "no wrong answer, and every ledger is sound"
    return "\n".join([as_table(found.rows), "", f"({about})", LEGEND, *(verdict or [sound])])


def as_html(found: Comparison) -> str:
    """The page of the report, with the table before it."""
    table = f'<h2>Beside the peers</h2><div class="card scroll"><pre>{escape(as_text(found))}</pre></div>'
    return as_page(Report(found.machine, found.figures, found.problems), title="Applause and its peers", extra=table)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _compared(sizes: Sizes, measures: Sequence[str], peers: Sequence[str]) -> Comparison:
    with tempfile.TemporaryDirectory(prefix="applause-compare-") as folder:
        comparing = Comparing(sizes, Path(folder), peers=peers, tell=_tell)
        try:
            return uvloop.run(comparing.run(measures))
        except* (ServerFailed, PhoneFailed, WorkerFailed, RequestFailed, OSError, TimeoutError) as group:
            print(f"loadtest compare: {group.exceptions[0]!r}", file=sys.stderr)
    raise typer.Exit(1)
