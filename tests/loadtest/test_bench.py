"""A short run of everything on real servers, and what the command makes of being used wrongly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.bench import SCENARIOS, Bench, Sizes

SMALL = Sizes(seconds=0.5, rounds=1, connections=20, listeners=40, idle=200, connects=100)


@pytest.mark.timeout(120)
async def test_a_short_run_measures_everything_and_finds_nothing_wrong(tmp_path: Path) -> None:
    told: list[str] = []
    report = await Bench(SMALL, tmp_path, peer=True, tell=told.append).run(list(SCENARIOS))
    assert report.problems == []
    measured = {(figure.measure, figure.server) for figure in report.figures}
    shared = {"idle", "connects", "echo", "fanout, 4 outstanding", "fanout, 1 outstanding"}
    assert {measure for measure, server in measured if server == "stock"} == shared
    assert {measure for measure, server in measured if server == "applause"} == shared | {
        "likes uniform", "likes uniform, half rate", "likes hot", "likes hot, half rate",
    }  # fmt: skip
    assert all(figure.samples > 0 for figure in report.figures)
    assert all(figure.value > 0 for figure in report.figures if figure.measure != "idle")
    assert any("audit" in line for line in told)


def test_an_unknown_scenario_is_a_wrong_use(tmp_path: Path) -> None:
    for command in (["-m", "loadtest"], ["-m", "gateway", "loadtest"]):
        done = subprocess.run(
            [sys.executable, "-P", *command, "nonsense"], cwd=tmp_path, capture_output=True, check=False
        )
        assert done.returncode == 2, done.stderr
        assert b"nonsense" in done.stderr
