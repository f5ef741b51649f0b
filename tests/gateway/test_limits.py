"""Rates and seats, held against naive models."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits import TokenBuckets

STEP_S = Fraction(1, 8)  # moments and costs are exact in binary, so that the model may be exact too


class NaiveBuckets:
    """What it says in a textbook: tokens that trickle in up to the brim."""

    def __init__(self, rate_per_s: int, capacity: int) -> None:
        self.rate_per_s, self.capacity = rate_per_s, capacity
        self.tokens: dict[int, Fraction] = {}
        self.seen_at: dict[int, Fraction] = {}

    def take(self, key: int, now: Fraction, cost: int) -> bool:
        since = now - self.seen_at.get(key, now)
        tokens = min(Fraction(self.capacity), self.tokens.get(key, Fraction(self.capacity)) + since * self.rate_per_s)
        self.seen_at[key] = now
        self.tokens[key] = tokens - cost if tokens >= cost else tokens
        return tokens >= cost


@given(
    rate_per_s=st.sampled_from([1, 2, 4, 8]),
    calls=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(1, 3)), max_size=200),
)
def test_buckets_are_as_the_naive_ones(rate_per_s: int, calls: list[tuple[int, int, int]]) -> None:
    buckets, naive = TokenBuckets[int](rate_per_s), NaiveBuckets(rate_per_s, 2 * rate_per_s)
    now = Fraction(1000)
    for key, steps, cost in calls:
        now += steps * STEP_S
        assert (buckets.take(key, float(now), cost) == 0.0) == naive.take(key, now, cost)


def test_two_seconds_worth_and_then_the_rate() -> None:
    buckets = TokenBuckets[int](50)
    assert [buckets.take(7, 0.0) for _ in range(100)] == [0.0] * 100
    wait_s = buckets.take(7, 0.0)
    assert wait_s == pytest.approx(0.02)
    assert buckets.take(7, wait_s) == 0.0
    assert buckets.take(7, wait_s) > 0
    assert buckets.take(8, 0.0) == 0.0


@pytest.mark.parametrize("rate_per_s", [0.1, 0.3, 3, 7, 50, 1000])
def test_the_wait_is_as_long_as_it_says(rate_per_s: float) -> None:
    buckets = TokenBuckets[int](rate_per_s)
    now = 12345.678
    while not (wait_s := buckets.take(7, now)):
        pass
    assert buckets.take(7, now + wait_s * 0.9) > 0
    assert buckets.take(7, now + wait_s) == 0.0


def test_a_slow_rate_still_has_one_token() -> None:
    assert TokenBuckets[int](0.1).take(7, 0.0) == 0.0


def test_memory_follows_those_who_are_active() -> None:
    buckets = TokenBuckets[int](50)
    for user in range(100_000):
        buckets.take(user, user / 1000)  # each is full again 0.02 s later
    assert len(buckets) <= 1024


def test_the_active_are_not_forgotten() -> None:
    buckets = TokenBuckets[int](1)
    for user in range(5000):
        assert buckets.take(user, 0.0, 2) == 0.0
    assert all(buckets.take(user, 0.0) > 0 for user in range(5000))
