"""The report as one HTML page: nothing is loaded from anywhere, light and dark, and it fits a phone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final

from loadtest import plots
from loadtest.crew import Checked
from loadtest.figures import Figure, Latency, Sample, brief, middle
from loadtest.promises import TITLES
from loadtest.report import Report, is_less_better, ratio, remarks

OURS: Final = "applause"

_STYLE: Final = """
:root { color-scheme: light dark; --back: #f7f7f5; --card: #fff; --text: #1b1b1a; --soft: #6b6a66; --line: #e4e3de;
  --good: #18794e; --bad: #c62a2f; --warn: #915930;
  --c1: #3b6fd9; --c2: #d9822b; --c3: #2a9d78; --c4: #a855c7; --c5: #c2455a; --c6: #6d7a8a }
@media (prefers-color-scheme: dark) { :root { --back: #141413; --card: #1e1e1c; --text: #ecebe6; --soft: #a3a19a;
  --line: #33322f; --good: #4cc38a; --bad: #ff7b7f; --warn: #f0b170;
  --c1: #7ba4f7; --c2: #f0a45c; --c3: #58c9a4; --c4: #cb8fe6; --c5: #ee8194; --c6: #9aa7b6 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1120px; margin: 0 auto; padding: 28px 18px 60px }
h1 { font-size: 26px; margin: 0; letter-spacing: -.01em }
h2 { font-size: 18px; margin: 38px 0 10px }
h3 { font-size: 16px; margin: 0 }
p { margin: 6px 0 }
.soft, small { color: var(--soft) }
small { font-size: 12px; font-weight: 400 }
.good { color: var(--good) }
.bad { color: var(--bad) }
.warn { color: var(--warn) }
.verdict { font-weight: 600; font-size: 17px; margin: 14px 0 4px }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; margin: 14px 0 }
.card { padding: 16px 18px }
.grid { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr)) }
.grid .card { margin: 0 }
.four { grid-template-columns: repeat(auto-fit, minmax(min(100%, 245px), 1fr)) }
.four ul { font-size: 13.5px }
ul { margin: 6px 0; padding-left: 18px }
li { margin: 3px 0 }
code { overflow-wrap: anywhere }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: 14px }
th, td { padding: 6px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
td { font-variant-numeric: tabular-nums }
th { color: var(--soft); font-weight: 500 }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
tr:last-child td { border-bottom: 0 }
.tiles { display: flex; flex-wrap: wrap; gap: 8px 30px; margin: 10px 0 4px }
.tiles div { min-width: 72px }
.tiles b { display: block; font-size: 20px; font-weight: 600; font-variant-numeric: tabular-nums }
.tiles span { color: var(--soft); font-size: 12.5px }
figure { margin: 10px 0 0; min-width: 0 }
figcaption { font-size: 13px; font-weight: 600; margin-bottom: 2px }
svg { display: block; width: 100%; height: auto }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif }
svg .name { fill: var(--text); font-size: 12px }
svg .told { fill: var(--text); font-size: 12px; font-weight: 600 }
svg line.grid { stroke: var(--line) }
polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round }
circle { fill: transparent }
circle:hover { fill: var(--soft) }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12.5px; color: var(--soft) }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 5px }
"""


def as_page(report: Report, *, title: str = "Applause load test", extra: str = "") -> str:
    """The whole page. `extra` is HTML of the caller's that comes after the promises."""
    figures = _of_rounds(report.figures)
    measures = list(dict.fromkeys(figure.measure for figure in figures))
    groups = [[figure for figure in figures if figure.measure == measure] for measure in measures]
    about = ", ".join(f"{key} {value}" for key, value in report.machine.items())
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{datetime.now(UTC):%Y-%m-%d %H:%M} UTC. {escape(about)}</p>',
        _verdict(report),
        _promises(report.checked),
        extra,
        "<h2>All figures</h2>",
        _table(figures),
        _ratios(groups),
        "<h2>One by one</h2>" if groups else "",
        *(_section(group) for group in groups),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _of_rounds(figures: Sequence[Figure]) -> list[Figure]:
    """One figure for each measure and server: of several rounds the middle one."""
    rounds: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures:
        rounds.setdefault((figure.measure, figure.server), []).append(figure)
    return [middle(each) for each in rounds.values()]


def _verdict(report: Report) -> str:
    if not report.problems:
        told = "No wrong answer, no promise broken." if report.checked else "No wrong answer."
        return f'<p class="verdict good">✓ {told}</p>'
    rows = "".join(f"<li><code>{escape(problem)}</code></li>" for problem in report.problems)
    return f'<p class="verdict bad">✗ Not as promised:</p><div class="card"><ul>{rows}</ul></div>'


def _promises(checked: Sequence[Checked]) -> str:
    if not checked:
        return ""
    cards = []
    for number in sorted({each.promise for each in checked}):
        own = [each for each in checked if each.promise == number]
        kept = not any(each.broken for each in own)
        mark = '<span class="good">✓</span>' if kept else '<span class="bad">✗</span>'
        rows = "".join(f"<li>{_told(each)}</li>" for each in own)
        cards.append(f'<div class="card"><h3>{mark} {escape(TITLES[number])}</h3><ul class="soft">{rows}</ul></div>')
    return f'<h2>Promises, checked afterwards over the API</h2><div class="grid four">{"".join(cards)}</div>'


def _told(checked: Checked) -> str:
    broken = f' <b class="bad">{checked.broken:,} are not</b>' if checked.broken else ""
    return f"{checked.count:,} × {escape(checked.what)}{broken}"


def _table(figures: Sequence[Figure]) -> str:
    heads = ("what", "server", "value", "", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "server", "database", "client")
    head = "".join(f"<th>{each}</th>" for each in heads)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in _cells(figure))}</tr>" for figure in figures)
    return (
        f'<div class="card scroll"><table><tr>{head}</tr>{rows}</table></div>'
        '<p class="soft">server, database, client: cores in use</p>'
    )


def _cells(figure: Figure) -> list[str]:
    wait = figure.latency_ms
    waits = [wait.p50, wait.p99, wait.p999, wait.most] if wait else []
    return [
        figure.measure,
        figure.server,
        brief(figure.value),
        figure.unit,
        *([brief(each) for each in waits] or [""] * 4),
        *(f"{cores:.2f}" for cores in (figure.server_cores, figure.database_cores, figure.client_cores)),
    ]


def _ratios(groups: Sequence[Sequence[Figure]]) -> str:
    """How many times better ours is than each peer; nothing where ours was alone."""
    cards = []
    for group in groups:
        ours = next((figure for figure in group if figure.server == OURS), None)
        peers = [figure for figure in group if figure.server != OURS]
        if ours is None or not peers or group[0].measure.endswith("half rate"):
            continue
        rows = [(peer.server, ratio(ours, peer), f"{ratio(ours, peer):.1f} ×") for peer in peers]
        cards.append(f'<div class="card">{plots.bars(ours.measure, [("as good", 1.0, "1 ×"), *rows])}</div>')
    return f'<h2>How many times better than</h2><div class="grid">{"".join(cards)}</div>' if cards else ""


def _section(group: Sequence[Figure]) -> str:
    ours = next((figure for figure in group if figure.server == OURS), group[0])
    waits = [(figure.server, figure.histogram) for figure in group if figure.histogram]
    rates = [plots.Line(figure.server, [(each.at, each.rate) for each in figure.series]) for figure in group]
    values = [(figure.server, figure.value, brief(figure.value)) for figure in group]
    better = ", less is better" if is_less_better(ours) else ""
    drawn = [
        plots.bars(f"{ours.unit}{better}", values) if len(group) > 1 else "",
        plots.by_percentile("Latency by percentile", waits),
        plots.over_time("Rate", _unit_over_time(ours), rates),
        plots.over_time("Waits", "ms", _waits(ours.series)) if len(group) == 1 else "",
        plots.over_time(_of("CPU", ours, group), "cores", _cores(ours.series)),
        plots.over_time(_of("Memory", ours, group), "MiB", _memory(ours.series)),
    ]
    notes = "".join(
        f'<p class="{_tone(figure)}">{escape(_named(figure, group, note))}</p>'
        for figure in group
        for note in remarks(figure)
    )
    plotted = "".join(f"<div>{each}</div>" for each in drawn if each)
    return (
        f'<div class="card"><h3>{escape(ours.measure)}</h3>{_tiles(ours)}{notes}<div class="grid">{plotted}</div></div>'
    )


def _tiles(figure: Figure) -> str:
    tiles = [(brief(figure.value), figure.unit)]
    if figure.latency_ms is not None:
        tiles += [(brief(value), f"ms {name}") for name, value in _percentiles(figure.latency_ms)]
    tiles.append((f"{figure.server_cores + figure.database_cores:.2f}", "cores, server and database"))
    return f'<div class="tiles">{"".join(f"<div><b>{a}</b><span>{escape(b)}</span></div>" for a, b in tiles)}</div>'


def _percentiles(wait: Latency) -> list[tuple[str, float]]:
    named = [("p50", wait.p50), ("p90", wait.p90), ("p99", wait.p99), ("p99.9", wait.p999), ("at most", wait.most)]
    return [(name, value) for name, value in named if value]


def _unit_over_time(figure: Figure) -> str:
    return figure.unit if figure.unit.endswith("/s") else "connects/s"


def _of(what: str, ours: Figure, group: Sequence[Figure]) -> str:
    return f"{what} of {ours.server}" if len(group) > 1 else what


def _tone(figure: Figure) -> str:
    return "warn" if figure.is_client_bound or figure.faults else "soft"


def _named(figure: Figure, group: Sequence[Figure], note: str) -> str:
    return f"{figure.server}: {note}" if len(group) > 1 else note


def _waits(series: Sequence[Sample]) -> list[plots.Line]:
    return [
        plots.Line("p50", [(each.at, each.p50_ms) for each in series if each.p50_ms is not None]),
        plots.Line("p99", [(each.at, each.p99_ms) for each in series if each.p99_ms is not None]),
    ]


def _cores(series: Sequence[Sample]) -> list[plots.Line]:
    return [
        plots.Line("server", [(each.at, each.server_cores) for each in series]),
        plots.Line("database", [(each.at, each.database_cores) for each in series]),
        plots.Line("load test", [(each.at, each.client_cores) for each in series]),
    ]


def _memory(series: Sequence[Sample]) -> list[plots.Line]:
    return [
        plots.Line("server", [(each.at, each.server_mib) for each in series]),
        plots.Line("database", [(each.at, each.database_mib) for each in series]),
        plots.Line("load test", [(each.at, each.client_mib) for each in series]),
    ]
