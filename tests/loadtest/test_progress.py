"""At a terminal one line that changes, elsewhere plain lines, now and then."""

from __future__ import annotations

from io import StringIO

from loadtest.figures import Sample
from loadtest.progress import PLAIN_EVERY_S, Progress, live_line


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def sample(at: float) -> Sample:
    return Sample(
        at=at, rate=1234.5, p50_ms=1.25, p99_ms=20.0, server_cores=0.5, database_cores=0.25, client_cores=0.125,
        server_mib=80.0, database_mib=2048.0,
    )  # fmt: skip


def test_a_line_says_it_all() -> None:
    line = live_line("likes hot", sample(3.0), "likes/s")
    for told in (
        "likes hot  3 s",
        "1,234 likes/s",
        "p50 1.2 p99 20.0 ms",
        "CPU 0.50 db 0.25 us 0.12",
        "80 MiB + 2.0 GiB",
    ):
        assert told in line
    assert "p50" not in live_line("idle", Sample(at=1.0, rate=1.0), "connects/s")


def test_at_a_terminal_one_line_changes_and_what_is_told_stays() -> None:
    terminal = Terminal()
    progress = Progress(terminal)
    progress.show("echo", sample(0.5), "acks/s")
    progress.show("echo", sample(1.0), "acks/s")
    progress.tell("done")
    progress.tell("next")
    shown = terminal.getvalue()
    assert shown.count("\r\x1b[K") == 3  # each time, and before what stays
    assert shown.endswith("\r\x1b[Kdone\nnext\n")
    assert "\n" not in shown.partition("done")[0]


def test_elsewhere_plain_lines_come_now_and_then() -> None:
    stream = StringIO()
    progress = Progress(stream)
    for at in range(1, 31):
        progress.show("echo", sample(at / 2), "acks/s")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 15 / PLAIN_EVERY_S
    assert "\x1b" not in stream.getvalue()
