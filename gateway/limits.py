"""How much one user or one address may do: pure counting, bounded in memory. Time is an argument."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

BURST_S: Final = 2.0
_SWEEP_FROM: Final = 1024
_ROUNDING_S: Final = 1e-9  # or the hundredth of a hundred additions of 0.02 would be refused

K = TypeVar("K", bound=Hashable)


class TokenBuckets(Generic[K]):
    """A token bucket per key that holds `burst_s` seconds' worth of `rate_per_s`, at least one token, full at first.

    A bucket is kept as the moment at which it will be full again: one float a key. A full one is
    the same as none and is forgotten, so memory follows those who were active in the last seconds.
    """

    def __init__(self, rate_per_s: float, *, burst_s: float = BURST_S) -> None:
        self._cost_s = 1 / rate_per_s
        self._burst_s = max(burst_s, self._cost_s)
        self._full_at: dict[K, float] = {}
        self._sweep_at = _SWEEP_FROM

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: K, now: float, cost: int = 1) -> float:
        """Take `cost` tokens at monotonic second `now`: 0.0 where they were there, otherwise
        nothing is taken and the answer is the number of seconds until they will be.

        A cost above the whole bucket can never be met: the answer is then the time to fill it.
        """
        full_at = max(self._full_at.get(key, now), now) + cost * self._cost_s
        missing_s = full_at - now - self._burst_s
        if missing_s > _ROUNDING_S:
            return min(missing_s, self._burst_s)
        self._full_at[key] = full_at
        if len(self._full_at) >= self._sweep_at:
            self._forget_full(now)
        return 0.0

    def _forget_full(self, now: float) -> None:
        """Sweep at twice what was left last time, so that each take pays for a constant part of it."""
        self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
        self._sweep_at = max(_SWEEP_FROM, 2 * len(self._full_at))


class Seats(Generic[K]):
    """At most `limit` at a time for each key, such as connections of a user or an address; 0 is without limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken: dict[K, int] = {}

    def __len__(self) -> int:
        return len(self._taken)

    def is_full(self, key: K) -> bool:
        """True where `take` would refuse."""
        return 0 < self._limit <= self._taken.get(key, 0)

    def take(self, key: K) -> bool:
        """Take a seat; False, and none is taken, where all are. Every True is given back by `free`."""
        if self.is_full(key):
            return False
        self._taken[key] = self._taken.get(key, 0) + 1
        return True

    def free(self, key: K) -> None:
        """Give back one seat that was taken."""
        left = self._taken[key] - 1
        if left:
            self._taken[key] = left
        else:
            del self._taken[key]
