"""Latencies, counted in logarithmic buckets: as many as you like in little memory, and processes' add up."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import msgspec

GROWTH: Final = 1.02  # from bucket to bucket, so the middle of one is within 1 % of all it holds
FLOOR_S: Final = 1e-6  # what is shorter counts as that

_PER_E: Final = 1 / math.log(GROWTH)
_log = math.log


class Histogram(msgspec.Struct, omit_defaults=True):
    """Seconds. `counts` has how many fell into each bucket; bucket n begins at FLOOR_S × GROWTH ** n."""

    counts: dict[int, int] = {}
    most: float = 0.0

    def record(self, seconds: float) -> None:
        """Count one."""
        at = int(_log(seconds / FLOOR_S) * _PER_E) if seconds > FLOOR_S else 0
        self.counts[at] = self.counts.get(at, 0) + 1
        if seconds > self.most:
            self.most = seconds

    def add(self, other: Histogram) -> None:
        """Count all that `other` has counted."""
        for at, count in other.counts.items():
            self.counts[at] = self.counts.get(at, 0) + count
        self.most = max(self.most, other.most)

    def since(self, earlier: Histogram) -> Histogram:
        """What has come since it looked like `earlier`; its `most` is exact where it is new, else within 1 %."""
        counts = {at: count - earlier.counts.get(at, 0) for at, count in self.counts.items()}
        left = Histogram({at: count for at, count in counts.items() if count})
        if left.counts:
            left.most = self.most if self.most > earlier.most else min(self.most, middle_of(max(left.counts)))
        return left

    def copy(self) -> Histogram:
        """One that does not change with this one."""
        return Histogram(dict(self.counts), self.most)

    @property
    def count(self) -> int:
        """How many were recorded."""
        return sum(self.counts.values())

    def quantile(self, share: float) -> float:
        """Seconds that at least `share` (above 0, at most 1) do not exceed, within 1 %; the last one exactly."""
        whole, passed = self.count, 0
        rank = max(math.ceil(share * whole), 1)
        for at in sorted(self.counts):
            passed += self.counts[at]
            if passed >= rank:
                return self.most if rank == whole else min(middle_of(at), self.most)
        raise ValueError("quantile of nothing")

    def steps(self) -> list[tuple[float, float]]:
        """(share, seconds) of each bucket in use, ascending: the whole distribution, to be drawn."""
        whole, passed, steps = self.count, 0, []
        for at in sorted(self.counts):
            passed += self.counts[at]
            steps.append((passed / whole, min(middle_of(at), self.most)))
        return steps


def middle_of(bucket: int) -> float:
    """Seconds in the (geometric) middle of a bucket."""
    return float(FLOOR_S * GROWTH ** (bucket + 0.5))


def of(seconds: Iterable[float]) -> Histogram:
    """All of these."""
    histogram = Histogram()
    for each in seconds:
        histogram.record(each)
    return histogram
