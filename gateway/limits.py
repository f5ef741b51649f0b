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
        full_at = self._full_at.get(key, now)
        if full_at < now:
            full_at = now
        full_at += cost * self._cost_s
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
