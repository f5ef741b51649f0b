"""Percentiles, the round that is reported, and the table."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from loadtest.figures import Figure, Latency, latency, middle, percentile
from loadtest.report import Report, as_json, as_table, ratio


def figure(**given: Any) -> Figure:
    return Figure(**{"measure": "echo", "server": "applause", "value": 100.0, "unit": "acks/s", "samples": 1, **given})


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([7.0], 0.5, 7.0),
        ([7.0], 1.0, 7.0),
        ([1.0, 2.0], 0.5, 1.0),
        ([1.0, 2.0, 3.0], 0.5, 2.0),
        ([float(number) for number in range(1, 101)], 0.99, 99.0),
        ([float(number) for number in range(1, 102)], 0.99, 100.0),
        ([float(number) for number in range(1, 11)], 0.01, 1.0),
    ],
)
def test_percentile_is_the_least_that_enough_do_not_exceed(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)


def test_latency_is_in_milliseconds_and_sorts() -> None:
    assert latency([0.003, 0.001, 0.002]) == Latency(2.0, 3.0, 3.0)
    assert latency([]) is None


def test_the_middle_round_keeps_everybodys_faults() -> None:
    chosen = middle([figure(value=3.0, faults=1), figure(value=1.0), figure(value=2.0, note="n", faults=2)])
    assert (chosen.value, chosen.faults, chosen.note) == (2.0, 3, "n; rounds 3, 1, 2")
    assert middle([figure(value=5.0), figure(value=4.0)]).value == 4.0
    assert middle([figure()]) == figure()


def test_ratio_says_how_much_better() -> None:
    assert ratio(figure(value=30.0), figure(server="stock", value=2.0)) == 15
    assert ratio(figure(measure="idle", value=2.0), figure(measure="idle", server="stock", value=30.0)) == 15
    assert ratio(figure(), figure(value=0.0)) == 0


def test_a_cpu_second_counts_server_and_database() -> None:
    assert figure(value=100.0, server_cores=0.25, database_cores=0.25).per_cpu_second == 200
    assert figure().per_cpu_second == 0


def report(*problems: str) -> Report:
    ours = figure(value=1234.0, server_cores=0.5, latency_ms=Latency(1.5, 2.5, 3.0))
    stock = figure(server="stock", value=100.0, server_cores=1.0)
    return Report({"cores": 2}, [ours, stock], list(problems))


def test_the_table_puts_ours_against_its_peer() -> None:
    head, ours, stock, *rest = as_table(report()).splitlines()
    assert head.split()[:3] == ["measure", "server", "value"]
    assert " ".join(ours.split()) == (
        "echo applause 1,234 acks/s 12.3 × 2,468 24.7 × 1.5 2.5 0.50 0.00 0.00 target ≥ 15 ×"
    )
    assert "×" not in stock
    assert rest[-1] == "no wrong answer, and the ledger is sound"


def test_the_table_ends_with_what_is_wrong() -> None:
    assert as_table(report("audit: a negative balance")).endswith("PROBLEM: audit: a negative balance")


def test_the_json_holds_everything() -> None:
    written = json.loads(as_json(report("p")))
    assert written["problems"] == ["p"]
    assert written["figures"][0]["latencyMs"] == {"p50": 1.5, "p99": 2.5, "most": 3.0}
    assert written["figures"][1]["serverCores"] == 1.0
    assert msgspec.convert(written, Report) == report("p")
