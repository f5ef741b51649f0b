"""Failpoints: places at which a test, or an operator who wants to see it, lets this node die or stand still.

    APPLAUSE_FAILPOINTS="after_commit_before_ack=kill:3,after_receipt=pause:2s"

| point | where a batch stands that reaches it |
|---|---|
| `after_receipt` | taken from the queue; nothing has begun |
| `after_commit_before_ack` | committed; nobody was told |
| `after_commit_before_delivery` | committed and acknowledged (the acknowledgements have left); no event has |
| `after_egress_before_place` | (a page of the ledger) Kafka has it, and the database does not know |

`kill` ends the process with SIGKILL at the first batch that reaches the point, `kill:N` at the N-th; `pause:2s` (or
`pause:500ms`) holds up each. Where none is set, the lane asks one attribute three times a batch, and that is all.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import re
import signal
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

POINTS: Final = (
    "after_receipt",
    "after_commit_before_ack",
    "after_commit_before_delivery",
    "after_egress_before_place",
)
SYNTAX: Final = "a point is written POINT=kill, POINT=kill:N or POINT=pause:2s"

_ACTION: Final = re.compile(r"kill(?::(?P<nth>[1-9]\d{0,8}))?|pause:(?P<time>\d{1,6}(?:\.\d{1,3})?)(?P<unit>ms|s)")


class BadFailpoint(ValueError):
    """Text that is no failpoint; the message says what would be."""


class Failpoint(NamedTuple):
    """What happens at a point: after `pause_s` seconds it goes on, or at the `kill_at`-th batch the process ends."""

    kill_at: int  # 0: never
    pause_s: float


class Failpoints:
    """The points that are set. Counts the batches that reach each."""

    def __init__(self, points: Mapping[str, Failpoint]) -> None:
        self._points = points
        self._reached = dict.fromkeys(points, 0)

    async def reach(self, point: str) -> None:
        """A batch has come to `point`."""
        found = self._points.get(point)
        if found is None:
            return
        self._reached[point] += 1
        if found.kill_at and self._reached[point] == found.kill_at:
            for _ in range(2):  # what was written in this turn leaves at its end
                await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGKILL)
        if found.pause_s:
            await asyncio.sleep(found.pause_s)


def parse(texts: Iterable[str]) -> dict[str, Failpoint]:
    """`POINT=ACTION` each. Raises BadFailpoint, with a hint."""
    points: dict[str, Failpoint] = {}
    for text in texts:
        name, _, action = (part.strip() for part in text.partition("="))
        if name not in POINTS:
            close = difflib.get_close_matches(name, POINTS, n=1, cutoff=0.6)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(POINTS)}"
            raise BadFailpoint(f"there is no failpoint {name!r}; {hint}")
        found = _ACTION.fullmatch(action)
        if found is None:
            raise BadFailpoint(f"{action!r} is nothing that can happen at {name}; {SYNTAX}")
        if name in points:
            raise BadFailpoint(f"{name} is given twice")
        points[name] = _failpoint(found)
    return points


def _failpoint(found: re.Match[str]) -> Failpoint:
    if found["time"] is None:
        return Failpoint(int(found["nth"] or 1), 0.0)
    return Failpoint(0, float(found["time"]) / (1000 if found["unit"] == "ms" else 1))
