"""What happened so far, as plain numbers in the objects that it happened to: `gateway/metrics` reads them.

An increment of an integer costs some 30 ns where a locked counter of the metrics library costs a microsecond, and
everything here runs on one thread. Numbers only grow; nothing here knows a user.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, get_args

from handlers.errors import Code

OK: Final = "ok"
OTHER: Final = "other"  # what a client made up counts as this, so that no client can make series
CODES: Final = frozenset(get_args(Code))

DURATIONS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
HTTP_DURATIONS_S: Final = (0.005, 0.025, 0.1, 0.5, 2.5)  # few, for there is a histogram a route
BATCH_SIZES: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)

_SUCCESS: Final = ord("t")  # of {"ok":true
_CODE: Final = b'"code":"'


def code_of(ack: bytes) -> str | None:
    """The code of a refusal, as it goes to the caller; None of a success."""
    if ack[6] == _SUCCESS:
        return None
    begin = ack.find(_CODE) + len(_CODE)
    return ack[begin : ack.find(b'"', begin)].decode("ascii", "replace")


class Histogram:
    """How many values were at most each bound (or above them all: the last count), and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Acks:
    """Answers of one door, by event and code. `done` is public, for a connection counts its successes in place."""

    __slots__ = ("done", "refused")

    def __init__(self, events: Iterable[str]) -> None:
        self.done = dict.fromkeys(events, 0)
        self.refused: Counter[tuple[str, str]] = Counter()

    def count(self, event: str, ack: bytes) -> None:
        """A whole acknowledgement as it goes to the caller."""
        code = code_of(ack)
        if code is None:
            self.done[event] += 1
        else:
            self.refuse(event, code)

    def refuse(self, event: str | None, code: str) -> None:
        """A refusal; `event` is None, or unknown, where there is no such event."""
        known = event if event in self.done else OTHER
        self.refused[known or OTHER, code if code in CODES else OTHER] += 1


class LaneCounts:
    """What the lane did. Phases are seconds; the rest are deeds, batches or times that something happened."""

    __slots__ = (
        "_at", "_began", "batch_size", "batch_time", "expired", "failed", "given_up", "halved", "late", "lock_timeouts",
        "lost", "phases", "replays", "retries", "waits",
    )  # fmt: skip

    def __init__(self) -> None:
        self.batch_size = Histogram(BATCH_SIZES)
        self.batch_time = Histogram(DURATIONS_S)
        self.waits = Histogram(DURATIONS_S)  # from an action's receipt to its answer
        self.phases = {"resolve": 0.0, "lock": 0.0, "run": 0.0, "commit": 0.0}
        self.replays = 0  # answered from a request key
        self.expired = 0  # waited too long, and answered `unavailable`
        self.late = 0  # carried out, and answered after their time
        self.failed = 0  # answered `internal`
        self.given_up = 0  # records whose partition somebody else takes in
        self.lock_timeouts = 0
        self.retries = 0
        self.halved = 0
        self.lost = 0  # sessions that broke
        self._began = self._at = 0.0

    def begin(self) -> None:
        """A transaction begins."""
        self._began = self._at = time.perf_counter()

    def lap(self, phase: str) -> None:
        """A phase of it has ended."""
        now = time.perf_counter()
        self.phases[phase] += now - self._at
        self._at = now

    def commit(self, deeds: int) -> None:
        """It has committed, with so many deeds."""
        self.lap("commit")
        self.batch_size.observe(deeds)
        self.batch_time.observe(self._at - self._began)


class SocketCounts:
    """How connections came and went. Codes are the server's own words, so they are few."""

    __slots__ = ("closes", "connects", "cuts")

    def __init__(self) -> None:
        self.connects: Counter[str] = Counter()  # `accepted`, or why not
        self.closes: Counter[str] = Counter()  # of accepted ones
        self.cuts = 0  # send queues that were given up


class HttpCounts:
    """Requests by (route, method, status), and how long they took by (route, method). Routes are templates."""

    __slots__ = ("requests", "times")

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.times: dict[tuple[str, str], Histogram] = {}

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """One answered request."""
        self.requests[route, method, status] += 1
        times = self.times.get((route, method))
        if times is None:
            times = self.times[route, method] = Histogram(HTTP_DURATIONS_S)
        times.observe(seconds)


class Throttle:
    """Lets one pass in `every_s` seconds and counts the others, so that a bad minute is a few lines in the log."""

    __slots__ = ("_clock", "_every_s", "_free_at", "_missed")

    def __init__(self, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._free_at = 0.0
        self._missed = 0

    def take(self) -> int | None:
        """How many were not let through since the last one; None where this one is not either."""
        now = self._clock()
        if now < self._free_at:
            self._missed += 1
            return None
        self._free_at = now + self._every_s
        missed, self._missed = self._missed, 0
        return missed
