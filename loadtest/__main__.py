"""The command `applause loadtest`, or `python -m loadtest`. Exit: 0 all right, 1 wrong answers, 2 used wrongly."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from loadtest.bench import SCENARIOS, Bench, Sizes
from loadtest.phone import PhoneFailed
from loadtest.report import Report, as_json, as_table
from loadtest.servers import ServerFailed

Scenarios = Annotated[list[str] | None, typer.Argument(help=f"Some of: {', '.join(SCENARIOS)}. All by default.")]


def loadtest(
    scenarios: Scenarios = None,
    seconds: Annotated[float, typer.Option(help="Of measuring, each time.", min=0.5, max=60)] = 4.0,
    rounds: Annotated[int, typer.Option(help="Turns of each server.", min=1, max=9)] = 2,
    connections: Annotated[int, typer.Option(help="Of likes and echo.", min=1, max=5_000)] = 200,
    listeners: Annotated[int, typer.Option(help="Of fanout.", min=1, max=15_000)] = 1_000,
    idle: Annotated[int, typer.Option(help="Connections of idle.", min=100, max=50_000)] = 10_000,
    connects: Annotated[int, typer.Option(help="Connections of connects.", min=100, max=50_000)] = 3_000,
    peer: Annotated[bool, typer.Option(help="Measure stock python-socketio beside ours.")] = True,
    json: Annotated[Path | None, typer.Option(help="Write the report there; - for standard output.")] = None,
) -> None:
    """Measure a server of our own on this machine, beside its peer, and check that it answered right.

    Servers start in a temporary folder and are gone afterwards. Speed never fails the run; a wrong answer does.
    """
    chosen = scenarios or list(SCENARIOS)
    if unknown := set(chosen) - set(SCENARIOS):
        raise typer.BadParameter(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    sizes = Sizes(seconds, rounds, connections, listeners, idle, connects)
    report = _measured(sizes, chosen, peer)
    if json is not None and str(json) == "-":
        sys.stdout.write(as_json(report).decode())
    else:
        print(as_table(report))
        if json is not None:
            json.write_bytes(as_json(report))
    raise typer.Exit(1 if report.problems else 0)


def _measured(sizes: Sizes, scenarios: list[str], peer: bool) -> Report:
    with tempfile.TemporaryDirectory(prefix="applause-loadtest-") as folder:
        bench = Bench(sizes, Path(folder), peer=peer, tell=lambda line: print(line, file=sys.stderr, flush=True))
        try:
            return uvloop.run(bench.run(scenarios))
        except* (ServerFailed, PhoneFailed, OSError, TimeoutError) as group:
            print(f"loadtest: {group.exceptions[0]!r}", file=sys.stderr)
    raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(loadtest)
