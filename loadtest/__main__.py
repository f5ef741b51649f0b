"""The command `applause loadtest`, or `python -m loadtest`. Exit: 0 all right, 1 a promise broken, 2 used wrongly."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from loadtest.backend import RequestFailed
from loadtest.bench import ALL, LOCAL, SCENARIOS, Bench, Sizes
from loadtest.crew import WorkerFailed
from loadtest.page import as_page
from loadtest.phone import PhoneFailed
from loadtest.progress import Progress
from loadtest.report import Report, as_json, as_table
from loadtest.scenarios.group import FEWEST, MEMBERS, RATE
from loadtest.servers import Elsewhere, Kafka, ServerFailed

Scenarios = Annotated[
    list[str] | None,
    typer.Argument(help=f"Some of: {', '.join(ALL)}. By default all but intake, which needs Java for Kafka."),
]


def loadtest(
    scenarios: Scenarios = None,
    seconds: Annotated[float, typer.Option(help="Of measuring, each time.", min=0.5, max=3600)] = 4.0,
    rounds: Annotated[int, typer.Option(help="Turns of each server.", min=1, max=9)] = 2,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Open loop: likes, hot, chat, echo, mixed and intake send so many a second, each when due.", min=1
        ),
    ] = None,
    processes: Annotated[int, typer.Option(help="Load processes.", min=1, max=64)] = 1,
    connections: Annotated[int, typer.Option(help="Of likes, hot, chat, echo, mixed.", min=1, max=5_000)] = 200,
    listeners: Annotated[int, typer.Option(help="Of fanout.", min=1, max=15_000)] = 1_000,
    idle: Annotated[int, typer.Option(help="Connections of idle.", min=100, max=50_000)] = 10_000,
    growth: Annotated[int, typer.Option(help="Of growth: the most connections.", min=15, max=50_000)] = 15_000,
    connects: Annotated[int, typer.Option(help="Connections of connects.", min=100, max=50_000)] = 3_000,
    phones: Annotated[int, typer.Option(help="Of storm.", min=1, max=20_000)] = 1_000,
    events: Annotated[int, typer.Option(help="Of storm: what each phone has missed.", min=1, max=1_000)] = 20,
    patience: Annotated[
        float, typer.Option(help="Seconds that what is on its way may take, when promises are checked.", min=0.1)
    ] = 15.0,
    members: Annotated[int, typer.Option(help="Of the group.", min=FEWEST, max=MEMBERS)] = MEMBERS,
    messages: Annotated[float, typer.Option(help="Messages a second that are written into it.", min=0.1)] = RATE,
    workers: Annotated[int, typer.Option(help="Of our server.", min=1, max=64)] = 1,
    peer: Annotated[bool, typer.Option(help="Measure stock python-socketio beside ours.")] = True,
    url: Annotated[str | None, typer.Option(help="Load a gateway that runs already, http://host:port.")] = None,
    token_secret: Annotated[
        str, typer.Option(help="With --url: what its tokens are signed with.", envvar="APPLAUSE_AUTH__SECRET")
    ] = "",
    kafka: Annotated[str, typer.Option(help="With --url, of intake: the Kafka that it reads, host:port.")] = "",
    kafka_prefix: Annotated[str, typer.Option(help="And how its topics' names begin.")] = "applause",
    html: Annotated[Path | None, typer.Option(help="Write a report with plots there.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report there; - for standard output.")] = None,
) -> None:
    """Measure a server of our own on this machine, beside its peer, and check that it kept its promises.

    Servers start in a temporary folder and are gone afterwards. With --url it is a server that runs already: it gets
    people and videos of its own for the run, which stay. Speed never fails the run; a broken promise does.

    `applause loadtest compare` measures all peers in turns, `applause loadtest cluster` the way between nodes.
    """
    chosen = scenarios or [each for each in SCENARIOS if url is None or each not in LOCAL]
    if unknown := set(chosen) - set(ALL):
        raise typer.BadParameter(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    elsewhere = _elsewhere(url, token_secret, chosen)
    if "intake" in chosen and (url is None) != (not kafka):
        raise typer.BadParameter("intake takes both of --url and --kafka, or none")
    sizes = Sizes(
        seconds,
        rounds,
        connections,
        listeners,
        idle,
        growth,
        connects,
        phones,
        events,
        rate,
        processes,
        patience,
        workers,
        members=members,
        messages=messages,
    )
    report = _measured(sizes, chosen, peer, elsewhere, (kafka, kafka_prefix))
    if html is not None:
        html.write_text(as_page(report))
    if json is not None and str(json) == "-":
        sys.stdout.write(as_json(report).decode())
    else:
        print(as_table(report))
        if json is not None:
            json.write_bytes(as_json(report))
    raise typer.Exit(1 if report.problems else 0)


def _elsewhere(url: str | None, secret: str, chosen: list[str]) -> Elsewhere | None:
    if url is None:
        return None
    if not secret:
        raise typer.BadParameter("--url needs --token-secret")
    if local := LOCAL & set(chosen):
        raise typer.BadParameter(f"{', '.join(local)} looks into the server's process, so it can't be had with --url")
    try:
        return Elsewhere(url, secret)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _measured(
    sizes: Sizes, scenarios: list[str], peer: bool, elsewhere: Elsewhere | None, kafka: tuple[str, str]
) -> Report:
    with tempfile.TemporaryDirectory(prefix="applause-loadtest-") as folder:
        theirs = Kafka(Path(folder), servers=kafka[0], prefix=kafka[1]) if kafka[0] else None
        bench = Bench(sizes, Path(folder), peer=peer, progress=Progress(), elsewhere=elsewhere, kafka=theirs)
        try:
            return uvloop.run(bench.run(scenarios))
        except* (ServerFailed, PhoneFailed, WorkerFailed, RequestFailed, OSError, TimeoutError) as group:
            print(f"loadtest: {group.exceptions[0]!r}", file=sys.stderr)
    raise typer.Exit(1)


def main() -> None:
    """Run the command of the process's arguments. SIGTERM ends it as Ctrl-C does: servers that it started end, too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
    # A KeyboardInterrupt of our own could be raised anywhere, also where it gets lost: of SIGINT asyncio makes a
    # cancellation while it runs.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    if sys.argv[1:2] == ["compare"]:
        from loadtest import compare  # with what only it needs

        del sys.argv[1]
        typer.run(compare.compare)
    elif sys.argv[1:2] == ["cluster"]:
        from loadtest import cluster

        del sys.argv[1]
        typer.run(cluster.cluster)
    else:
        typer.run(loadtest)


if __name__ == "__main__":
    main()
