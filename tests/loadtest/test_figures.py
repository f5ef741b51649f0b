"""Percentiles, the round that is reported, and the table."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from loadtest.figures import Figure, Latency, brief, middle, summary
from loadtest.histogram import of
from loadtest.report import Report, as_json, as_table, ratio


def figure(**given: Any) -> Figure:
    return Figure(**{"measure": "echo", "server": "applause", "value": 100.0, "unit": "acks/s", "samples": 1, **given})


def test_a_summary_is_in_milliseconds() -> None:
    found = summary(of([0.001] * 98 + [0.01, 0.2]))
    assert found is not None
    assert found.most == 200.0
    assert (found.p50, found.p90, found.p99) == pytest.approx((1.0, 1.0, 10.0), rel=0.02)
    assert found.p999 == 200.0


@pytest.mark.parametrize(
    ("value", "told"), [(12345.6, "12,346"), (99.96, "100.0"), (7.0, "7"), (1.25, "1.2"), (0.256, "0.26"), (0.0, "0")]
)
def test_numbers_are_brief(value: float, told: str) -> None:
    assert brief(value) == told


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
    assert rest[-1] == "no wrong answer, no promise broken"


def test_the_table_ends_with_what_is_wrong() -> None:
    assert as_table(report("audit: a negative balance")).endswith("PROBLEM: audit: a negative balance")


def test_the_json_holds_everything() -> None:
    written = json.loads(as_json(report("p")))
    assert written["problems"] == ["p"]
    assert written["figures"][0]["latencyMs"] == {"p50": 1.5, "p90": 0.0, "p99": 2.5, "p999": 0.0, "most": 3.0}
    assert written["figures"][1]["serverCores"] == 1.0
    assert msgspec.convert(written, Report) == report("p")
