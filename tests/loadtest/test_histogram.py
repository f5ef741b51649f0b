"""Histograms against exact quantiles, and that adding up is the same as counting together."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import histogram
from loadtest.figures import summary
from loadtest.histogram import FLOOR_S, Histogram

SHARES = (0.01, 0.5, 0.9, 0.99, 0.999, 1.0)
WITHIN = 0.0101  # a little above 1 %, for what floats round

seconds = st.floats(FLOOR_S, 10_000, allow_nan=False)
many = st.lists(seconds, min_size=1, max_size=200)


@given(many, st.sampled_from(SHARES))
def test_quantiles_are_those_of_the_values_within_one_per_cent(values: list[float], share: float) -> None:
    exact = sorted(values)[max(math.ceil(share * len(values)), 1) - 1]
    assert histogram.of(values).quantile(share) == pytest.approx(exact, rel=WITHIN)


@given(many)
def test_the_most_is_exact(values: list[float]) -> None:
    counted = histogram.of(values)
    assert counted.most == counted.quantile(1.0) == max(values)


@given(many, st.lists(seconds, max_size=100))
def test_adding_is_counting_together(some: list[float], others: list[float]) -> None:
    added = histogram.of(some)
    added.add(histogram.of(others))
    assert added == histogram.of([*some, *others])
    assert added.count == len(some) + len(others)


@given(many, st.lists(seconds, max_size=100))
def test_since_is_what_came_afterwards(early: list[float], late: list[float]) -> None:
    counted = histogram.of(early)
    before = counted.copy()
    for value in late:
        counted.record(value)
    lately = counted.since(before)
    assert lately.counts == histogram.of(late).counts
    assert lately.most == pytest.approx(max(late, default=0.0), rel=WITHIN)
    assert before == histogram.of(early)


@given(many)
def test_it_survives_json(values: list[float]) -> None:
    counted = histogram.of(values)
    assert msgspec.json.decode(msgspec.json.encode(counted), type=Histogram) == counted


@given(many)
def test_steps_are_the_whole_distribution(values: list[float]) -> None:
    steps = histogram.of(values).steps()
    assert steps == sorted(steps)
    assert steps[-1][0] == 1.0
    assert steps[-1][1] == pytest.approx(max(values), rel=WITHIN)


def test_what_is_below_the_floor_counts_as_the_floor() -> None:
    counted = histogram.of([0.0, -1.0, FLOOR_S / 2])
    assert counted.count == 3
    assert counted.quantile(0.5) <= FLOOR_S


def test_it_stays_small_whatever_is_recorded() -> None:
    counted = histogram.of(1e-6 * 1.0007**number for number in range(30_000))  # 1 µs to 20 minutes
    assert counted.count == 30_000
    assert len(counted.counts) < 1_100


def test_nothing_has_no_quantile_and_no_summary() -> None:
    with pytest.raises(ValueError, match="nothing"):
        Histogram().quantile(0.5)
    assert summary(Histogram()) is None
