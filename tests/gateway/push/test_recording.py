"""The provider that brings pushes to a file."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from gateway.push import recording
from gateway.push.recording import RecordingProvider
from gateway.push.wiring import provider_of
from gateway.settings import Push, Settings
from gateway.supervisor import Supervisor
from handlers.push.provider import Answer


async def test_each_push_is_a_line_that_nobody_else_may_read(tmp_path: Path) -> None:
    provider = provider_of(Settings(data_dir=str(tmp_path), push=Push(provider="recording")), Supervisor())
    assert provider is not None
    for number in range(3):
        assert await provider.send({"token": "t", "data": {"seq": str(number)}}) == Answer("sent")
    await provider.close()
    file = tmp_path / "pushes.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines == [{"message": {"token": "t", "data": {"seq": str(number)}}} for number in range(3)]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_the_file_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MOST_BYTES", 100)
    provider = RecordingProvider(tmp_path / "file")
    for _ in range(20):
        await provider.send({"token": "t" * 30})
    assert (tmp_path / "file").stat().st_size < 200


async def test_without_a_provider_there_is_none() -> None:
    assert provider_of(Settings(), Supervisor()) is None
