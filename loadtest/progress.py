"""What is shown while it runs: at a terminal one line that changes, elsewhere a plain line every few seconds."""

from __future__ import annotations

import shutil
import sys
from typing import Final, TextIO

from loadtest.figures import Sample

PLAIN_EVERY_S: Final = 5.0
MIB_IN_GIB: Final = 1024

_CLEAR: Final = "\r\x1b[K"


class Progress:
    """Tells a person how it goes, on standard error unless told otherwise."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._shown = False
        self._said_at = 0.0

    def tell(self, line: str) -> None:
        """A line that stays."""
        self._write(f"{self._cleared()}{line}\n")

    def show(self, measure: str, sample: Sample, unit: str) -> None:
        """How it goes now; at a terminal in place of what was shown before."""
        line = live_line(measure, sample, unit)
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            self._write(_CLEAR + line[:width])
            self._shown = True
        elif sample.at < self._said_at or sample.at - self._said_at >= PLAIN_EVERY_S:
            self._said_at = sample.at
            self._write(f"{line}\n")

    def _cleared(self) -> str:
        shown, self._shown = self._shown, False
        return _CLEAR if shown else ""

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def live_line(measure: str, sample: Sample, unit: str) -> str:
    """One moment in words."""
    parts = [f"{measure}  {sample.at:.0f} s", f"{sample.rate:,.0f} {unit}"]
    if sample.p50_ms is not None and sample.p99_ms is not None:
        parts.append(f"p50 {sample.p50_ms:.1f} p99 {sample.p99_ms:.1f} ms")
    parts.append(f"CPU {sample.server_cores:.2f} db {sample.database_cores:.2f} us {sample.client_cores:.2f}")
    if sample.server_mib:
        parts.append(f"{_memory(sample.server_mib)} + {_memory(sample.database_mib)}")
    return "  ".join(parts)


def _memory(mib: float) -> str:
    return f"{mib / MIB_IN_GIB:.1f} GiB" if mib >= MIB_IN_GIB else f"{mib:.0f} MiB"
