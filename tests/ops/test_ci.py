"""`.ci/run`: a test that can't run is skipped loudly, and has failed where the tools for it are there."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.support import services
from tests.support.absence import MUST_RUN

PROJECT: Final = Path(__file__).parents[2]


def must_run(tmp_path: Path, *tools: str) -> set[str]:
    """What `.ci/run` wants to be run where only these tools are."""
    for name in (*tools, "make"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "${MUST_RUN}"\n')
        program.chmod(0o755)
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        ["/usr/bin/bash", PROJECT / ".ci" / "run"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first == second
    return set(first.split())


@pytest.mark.parametrize(
    ("tools", "more"),
    [
        ([], set()),
        (["java"], set()),
        (["mvn"], set()),
        (["java", "mvn"], {"kafka"}),
        (["chromium"], {"browser"}),
        (["pg_dump"], {"postgresql"}),
    ],
)
def test_what_has_its_tools_must_run(tmp_path: Path, tools: list[str], more: set[str]) -> None:
    assert must_run(tmp_path, *tools) == {"client", "node", "valkey", *more}


def test_a_test_without_kafka_is_skipped_or_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "kafka_missing", lambda: "no Java 17 or newer on the PATH")
    monkeypatch.setenv(MUST_RUN, "client node valkey")
    with pytest.raises(pytest.skip.Exception, match="NOT RUN, no Java 17"):
        services.need_kafka()
    monkeypatch.setenv(MUST_RUN, "client node valkey kafka")
    with pytest.raises(pytest.fail.Exception, match="no Java 17"):
        services.need_kafka()
