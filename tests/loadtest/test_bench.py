"""A short run of everything on real servers, on one that runs already, and in several processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from io import StringIO
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from loadtest.bench import SCENARIOS, Bench, Sizes
from loadtest.crew import Crew, WorkerFailed
from loadtest.figures import Figure
from loadtest.phone import Address
from loadtest.progress import Progress
from loadtest.report import Report
from loadtest.scenarios.echo import EchoJob
from loadtest.scenarios.group import LOOKERS
from loadtest.scenarios.mixed import habits_of
from loadtest.servers import PYTHON, Applause, Elsewhere
from tests.loadtest.conftest import Command

SMALL = Sizes(
    seconds=0.25, rounds=1, connections=20, listeners=40, idle=100, growth=150, connects=60, phones=30, events=5,
    patience_s=30, videos=150, settling=0.1, members=40, messages=60,
)  # fmt: skip
SHARED = {"idle", "connects", "echo", "fanout, 4 outstanding", "fanout, 1 outstanding"}
OURS = {
    "likes uniform", "likes uniform, half rate", "likes hot", "likes hot, half rate", "chat", "chat, half rate",
    "group, quiet", "group, busy", "group, busy of quiet",
    "storm", "storm, bare connects", "mixed, 500/s",
    "growth, 10 connections", "growth, 50 connections", "growth, 150 connections",
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Applause]:
    """One for all tests that load a server which runs already."""
    server = Applause(tmp_path_factory.mktemp("server"))
    try:
        await server.started()
        yield server
    finally:
        await server.stop()


def looked_at(report: Report, promise: int) -> int:
    return sum(checked.count for checked in report.checked if checked.promise == promise)


def figure_of(report: Report, measure: str) -> Figure:
    (found,) = (figure for figure in report.figures if (figure.measure, figure.server) == (measure, "applause"))
    return found


def came_late(figure: Figure) -> bool:
    """On a busy machine no answer may come within so short a time; they are in the histogram."""
    return figure.samples == 0 and figure.histogram is not None and figure.histogram.count > 0


@pytest.mark.timeout(240)
async def test_a_short_run_measures_everything_and_finds_nothing_wrong(tmp_path: Path) -> None:
    told = StringIO()
    report = await Bench(SMALL, tmp_path, peer=True, progress=Progress(told)).run(list(SCENARIOS))
    assert report.problems == []
    measured = {(figure.measure, figure.server) for figure in report.figures}
    assert {measure for measure, server in measured if server == "stock"} == SHARED
    assert {measure for measure, server in measured if server == "applause"} == SHARED | OURS
    assert all(figure.samples > 0 or came_late(figure) for figure in report.figures)
    assert all(figure.value > 0 or came_late(figure) for figure in report.figures if figure.unit.endswith("/s"))
    assert "audit" in told.getvalue()
    for promise in (1, 2, 3, 4):
        assert looked_at(report, promise) > 0, promise
    heard = next(checked for checked in report.checked if "open chat" in checked.what)
    assert heard.count > 0
    for measure in ("echo", "likes hot", "group, busy", "mixed, 500/s"):
        figure = figure_of(report, measure)
        assert figure.histogram is not None
        assert figure.histogram.count >= figure.samples
        assert figure.series[-1].server_mib > 0
        assert figure.server_cores > 0


@pytest.mark.timeout(240)
async def test_several_processes_add_up(running: Applause, tmp_path: Path) -> None:
    """Also on a server that runs already, which is loaded again by people of its own."""
    door = running.door
    elsewhere = Elsewhere(f"http://{door.address.host}:{door.address.port}", door.secret)
    sizes = Sizes(
        seconds=0.3, rounds=1, connections=21, listeners=30, connects=100, phones=31, events=7, processes=2,
        patience_s=30, rate=300.0, videos=100, settling=0.1, members=40, messages=60,
    )  # fmt: skip
    found: list[Report] = []
    of_all = ["connects", "storm", "echo", "fanout", "hot", "group"]
    for scenarios, seconds in ((["hot"], 0.3), (of_all, 0.3), (["mixed"], 1.0)):
        timed = msgspec.structs.replace(sizes, seconds=seconds)
        bench = Bench(timed, tmp_path, peer=True, progress=Progress(StringIO()), elsewhere=elsewhere)
        found.append(await bench.run(scenarios))
    assert [report.problems for report in found] == [[], [], []]
    first, second, of_mixed = found
    for report in (first, second):
        hot = figure_of(report, "likes hot, 300/s")
        assert hot.histogram is not None
        assert hot.histogram.count >= hot.samples
        assert hot.samples > 0 or came_late(hot)
        assert "ran out" not in hot.note
    resumed = next(checked for checked in second.checked if "resumed" in checked.what)
    assert resumed.count == 4 * 31  # both parts' phones: first, bare, storm, bare
    heard, written = (
        next(checked.count for checked in second.checked if what in checked.what)
        for what in ("open chat", "of a group")
    )
    assert heard == LOOKERS * written > 0, "whichever process writes and looks"
    assert figure_of(second, "connects").samples == 100
    assert "reconnects" in figure_of(of_mixed, "mixed, 300/s").note, "the first of them leave within a second"
    assert await running.audit() == ""


def test_mixed_has_people_of_every_kind_and_nobody_who_flaps_and_is_slow() -> None:
    habits = [habits_of(number) for number in range(140)]
    assert sum(each.is_creator for each in habits) == 14
    assert any(each.flaps for each in habits)
    assert any(each.is_slow for each in habits)
    assert not any(each.flaps and each.is_slow for each in habits)


async def test_a_load_process_that_ends_too_early_is_an_error() -> None:
    nowhere = Elsewhere("http://127.0.0.1:1", "a secret of at least thirty-two bytes")
    assert nowhere.address == Address("127.0.0.1", 1, b'42["resumed"')
    async with Crew(nowhere, EchoJob(connections=2), processes=2, door=nowhere.door) as crew:
        with pytest.raises(WorkerFailed, match="prepare"):
            await crew.do("prepare")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "nonsense"),
        (["likes", "--url", "http://127.0.0.1:1"], "--token-secret"),
        (["idle", "--url", "http://127.0.0.1:1", "--token-secret", "s"], "idle"),
        (["likes", "--url", "ftp://a", "--token-secret", "s"], "http://host:port"),
    ],
)
def test_it_says_how_it_was_used_wrongly(command: Command, arguments: list[str], told: str) -> None:
    said = command(*arguments)
    assert said.status == 2, said
    assert told in said.err


def test_the_command_of_the_gateway_passes_it_on(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "gateway", "loadtest", "nonsense"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, b"nonsense" in done.stderr) == (2, True)


@pytest.mark.timeout(120)
async def test_all_is_well_is_status_0_with_a_report_of_each_kind(running: Applause, tmp_path: Path) -> None:
    door = running.door
    page, data = tmp_path / "report.html", tmp_path / "report.json"
    command = [
        sys.executable, "-P", "-m", "loadtest", "likes", "--seconds", "0.5", "--connections", "5", "--rate", "100",
        "--url", f"http://{door.address.host}:{door.address.port}", "--token-secret", door.secret,
        "--html", str(page), "--json", str(data),
    ]  # fmt: skip
    done = await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no promise broken" in done.stdout
    assert json.loads(data.read_text())["problems"] == []
    assert "No wrong answer, no promise broken" in page.read_text()


async def test_a_run_that_is_told_to_end_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [*PYTHON, "-m", "loadtest", "echo", "--no-peer", "--seconds", "600", "--connections", "2"]
    process = await asyncio.create_subprocess_exec(
        *command,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            while not any("is ready" in log.read_text() for log in tmp_path.glob("*/applause.log")):
                await asyncio.sleep(0.1)
            (holder,) = tmp_path.glob("*/data/server.json")
            server = json.loads(holder.read_text())["pid"]
            assert Path(f"/proc/{server}").exists()
            process.send_signal(signal.SIGTERM)
            await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode not in (0, None)
    assert not Path(f"/proc/{server}").exists()
    assert list(tmp_path.iterdir()) == []
