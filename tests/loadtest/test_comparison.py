"""The arithmetic of the table: medians, ratios round by round, and what is reached."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from loadtest.compare import Comparison, as_html, as_text
from loadtest.comparison import LINES, Row, Spread, as_table, rows_of
from loadtest.figures import Figure, Latency
from tests.loadtest.conftest import Command


def figure(server: str, value: float, *, measure: str = "echo", **given: Any) -> Figure:
    return Figure(measure=measure, server=server, value=value, unit="acks/s", samples=1, **given)


def row_of(*figures: Figure) -> Row:
    (row,) = rows_of(figures)
    return row


def test_ratios_are_taken_round_by_round() -> None:
    row = row_of(
        *(figure("applause", value) for value in (100, 400, 300)),
        *(figure("node", value) for value in (50, 100, 200)),
        *(figure("stock", value) for value in (10, 20, 20)),
    )
    ours, node, stock = row.servers
    assert ours.value == Spread(300, 100, 400)
    assert ours.ratio is None
    assert node.ratio == Spread(2, 1.5, 4)  # not 300 / 100: a slow round was slow for both
    assert stock.ratio == Spread(15, 10, 20)
    assert row.targets == ["≥ 2 × node", "≥ 15 × stock"]
    assert row.reached == [True, True]


def test_a_target_is_missed_by_a_little_or_not_measured() -> None:
    assert row_of(figure("applause", 199), figure("node", 100)).reached == [False, None]
    best_of_three = [figure("applause", value) for value in (900, 100, 100)]
    assert row_of(*best_of_three, *(figure("node", 100) for _ in range(3))).reached == [False, None]


def test_of_memory_less_is_better_and_the_limit_is_absolute() -> None:
    row = row_of(figure("applause", 6, measure="idle", server_cores=1.0), figure("node", 18, measure="idle"))
    assert row.servers[1].ratio == Spread(3, 3, 3)
    assert row.servers[0].per_cpu_second is None
    assert row.reached == [True]
    assert row_of(figure("applause", 6.1, measure="idle")).reached == [False]


def test_at_half_rate_waits_count_and_rates_are_not_compared() -> None:
    measure = "likes uniform, half rate"
    ours = [
        figure("applause", 9, measure=measure, latency_ms=Latency(p50, p99, 99)) for p50, p99 in ((9, 41), (11, 40))
    ]
    row = row_of(*ours, figure("node", 3, measure=measure, latency_ms=Latency(4, 54, 60)))
    assert row.targets == ["p50 ≤ 10", "p99 ≤ 40"]
    assert row.reached == [True, False]  # medians of 10 and 40.5
    assert row.servers[1].ratio is None
    assert row.servers[1].cpu_ratio is None
    assert row.servers[1].p99_ms == Spread(54, 54, 54)


def test_a_cpu_second_is_of_server_and_database() -> None:
    ours = figure("applause", 100, server_cores=0.25, database_cores=0.25)
    row = row_of(ours, figure("node", 100, server_cores=1.0, database_cores=1.0))
    assert [each.per_cpu_second for each in row.servers] == [200, 50]
    assert row.servers[1].cpu_ratio == 4


def test_nothing_answered_is_no_ratio() -> None:
    row = row_of(figure("applause", 5), figure("node", 0))
    assert row.servers[1].ratio is None
    assert row.reached[0] is None


def test_what_was_not_measured_of_ours_is_no_line() -> None:
    assert rows_of([figure("node", 1), figure("applause", 1, measure="nobody knows")]) == []


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.measure)
def test_every_line_has_something_to_reach(line: Any) -> None:
    assert line.targets or line.limits


def test_the_table_shows_each_server_and_what_is_reached() -> None:
    figures = [figure("applause", 1000, client_most=0.99), figure("applause", 3000), figure("node", 1000)]
    head, ours, node = as_table(rows_of(figures)).splitlines()
    assert head.split()[:3] == ["line", "server", "median"]
    assert ours.split() == [
        "bare", "acks", "applause", "2,000*", "1,000–3,000", "acks/s",
        "≥", "2", "×", "node", "✗,", "≥", "15", "×", "stock", "(not", "measured)",
    ]  # fmt: skip
    assert node.split() == ["node", "1,000", "acks/s", "1.0", "×", "1.0–1.0"]


def test_the_text_and_the_page_tell_what_is_wrong_and_what_is_missing() -> None:
    figures = [figure("applause", 1000), figure("node", 500)]
    found = Comparison({"cores": 2}, rows_of(figures), figures, ["audit, node: <a balance>"], ["Node is missing"])
    text, page = as_text(found), as_html(found)
    assert "PROBLEM: audit, node: <a balance>" in text
    assert text.endswith("NOT MEASURED: Node is missing")
    assert "&lt;a balance&gt;" in page
    assert "NOT MEASURED: Node is missing" in page
    assert json.loads(msgspec.json.encode(found))["rows"][0]["servers"][1]["ratio"]["median"] == 2
    sound = as_text(Comparison({"cores": 2}, rows_of(figures), figures, [], []))
    assert sound.endswith("no wrong answer, and every ledger is sound")


@pytest.mark.parametrize("arguments", [["nonsense"], ["echo", "--peers", "nobody"]])
def test_an_unknown_measure_or_peer_is_a_wrong_use(command: Command, arguments: list[str]) -> None:
    said = command("compare", *arguments)
    assert said.status == 2, said
    assert arguments[-1] in said.err
