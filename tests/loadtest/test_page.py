"""The HTML report: well-formed, self-contained, complete, and deaf to what names contain."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from loadtest import histogram, plots
from loadtest.crew import Checked
from loadtest.figures import Figure, Latency, Sample
from loadtest.page import as_page
from loadtest.report import Report

VOID = {"meta", "br"}
# What would load something from somewhere.
OUTSIDE = re.compile(r"https?:|//|\bsrc\b|\bhref\b|url\(|@import|<script|<link|<iframe", re.IGNORECASE)


class Nesting(HTMLParser):
    """Every tag is closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert all(value is not None for _, value in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(page: str) -> Nesting:
    nesting = Nesting()
    nesting.feed(page)
    nesting.close()
    assert nesting.open == []
    return nesting


def figure(server: str = "applause", **given: Any) -> Figure:
    series = [Sample(at=at / 2, rate=100.0 + at, p50_ms=1.0, p99_ms=2.0, server_mib=70.0 + at) for at in range(1, 9)]
    plain = {
        "measure": "echo", "server": server, "value": 12_345.0, "unit": "acks/s", "samples": 10,
        "latency_ms": Latency(1.5, 9.5, 12.5, 4.5, 11.5), "series": series,
        "histogram": histogram.of(number / 1000 for number in range(1, 400)),
    }  # fmt: skip
    return Figure(**{**plain, **given})


def whole(*problems: str) -> Report:
    checked = [Checked(1, "acknowledged actions", 600), Checked(4, "phones", 5, broken=len(problems))]
    figures = [figure(), figure("stock", value=1_000.0), figure(measure="mixed", note="200 people")]
    return Report({"cores": 2, "python": "3.11"}, figures, list(problems), checked)


def test_it_is_well_formed_and_loads_nothing() -> None:
    page = as_page(whole())
    assert page.startswith("<!doctype html>")
    assert not OUTSIDE.search(page)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert parsed(page).seen.count("svg") > 8


def test_it_says_what_was_found() -> None:
    text = " ".join(parsed(as_page(whole())).text)
    for told in ("12,345", "acks/s", "12.3 ×", "600 × acknowledged actions", "200 people", "No wrong answer"):
        assert told in text
    broken = " ".join(parsed(as_page(whole("promise 4: a hole"))).text)
    assert "promise 4: a hole" in broken
    assert "1 are not" in broken
    assert (text.count("✗"), broken.count("✗")) == (0, 2)  # the verdict and promise 4
    assert "No wrong answer" not in broken


def test_what_names_contain_is_text() -> None:
    nasty = '<script>alert("&")</script>'
    report = Report(
        {"cores": nasty}, [figure(nasty, note=nasty, measure=nasty), figure("b", measure=nasty)], [nasty], []
    )
    nesting = parsed(as_page(report, title=nasty))
    assert "script" not in nesting.seen
    assert "alert" in " ".join(nesting.text)


def test_a_client_at_its_limit_is_named() -> None:
    assert "CLIENT BOUND" in as_page(Report({}, [figure(client_most=0.95)], []))
    assert "CLIENT BOUND" not in as_page(Report({}, [figure(client_most=0.85)], []))


def test_rounds_become_one_figure_and_nothing_at_all_is_a_page_too() -> None:
    rounds = [figure(value=value) for value in (1.0, 3.0, 2.0)]
    assert as_page(Report({}, rounds, [])).count("rounds 1, 3, 2") == 1
    parsed(as_page(Report({}, [], [])))


@pytest.mark.parametrize("values", [[0.0, 0.0], [5.0, 5.0], [1e-9, 1e12], [0.3, 700.0]])
def test_plots_stay_inside_their_frame(values: list[float]) -> None:
    lines = [plots.Line("a", list(enumerate(values)))]
    waits = [("a", histogram.of(values)), ("b", histogram.of(values * 500))]
    for drawn in (plots.over_time("t", "u", lines), plots.by_percentile("t", waits)):
        points = re.search(r'polyline points="([^"]+)"', drawn)
        assert points is not None
        for x, y in (map(float, pair.split(",")) for pair in points[1].split()):
            assert plots.LEFT - 1 <= x <= plots.WIDTH
            assert 0 <= y <= plots.HEIGHT - plots.BOTTOM + 1


def test_nothing_to_draw_is_nothing() -> None:
    assert plots.over_time("t", "u", [plots.Line("a", [(0, 1)])]) == ""
    assert plots.by_percentile("t", [("a", histogram.of([]))]) == ""
    assert plots.legend(["a"]) == ""
