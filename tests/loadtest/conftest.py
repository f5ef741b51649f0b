"""The command in this process, where a test asks only what it says."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from loadtest.__main__ import main


class Said(NamedTuple):
    """What the command ended with, and what it wrote."""

    status: int
    out: str
    err: str


Command = Callable[..., Said]  # takes the arguments


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """`python -m loadtest` without the second that a process of its own takes."""

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["loadtest", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return Said(ended.value.code, *capsys.readouterr())

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield run
    for number, handler in before.items():
        signal.signal(number, handler)
