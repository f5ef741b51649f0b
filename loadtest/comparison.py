"""The table of spec 13: what each line's figures of all rounds come to, beside each peer."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

import msgspec

from loadtest.figures import Figure, brief

OURS: Final = "applause"


class Target(msgspec.Struct, frozen=True):
    """At least `times` as good as `peer`."""

    peer: str
    times: float

    def __str__(self) -> str:
        return f"≥ {self.times:g} × {self.peer}"


class Limit(msgspec.Struct, frozen=True):
    """Ours at most `most`, in the unit of `of`: value, p50 or p99."""

    of: str
    most: float

    def __str__(self) -> str:
        return f"{'' if self.of == 'value' else self.of + ' '}≤ {self.most:g}"


class Line(msgspec.Struct, frozen=True):
    """One line of spec 13: its measure, what to hold ours against, and whether less is better."""

    what: str
    measure: str
    targets: tuple[Target, ...] = ()
    limits: tuple[Limit, ...] = ()
    less_is_better: bool = False


LINES: Final = (
    Line("durable paid likes", "likes uniform", (Target("node", 10), Target("node batched", 1))),
    Line("the same, on one creator's videos", "likes hot", (Target("node", 15),)),
    Line("latency at half of that rate", "likes uniform, half rate", limits=(Limit("p50", 10), Limit("p99", 40))),
    Line("the same, on one creator's videos", "likes hot, half rate", limits=(Limit("p50", 10), Limit("p99", 40))),
    Line("bare acks", "echo", (Target("node", 2), Target("stock", 15))),
    Line("deliveries, 4 events outstanding", "fanout, 4 outstanding", (Target("node", 4),)),
    Line("deliveries, 1 event outstanding", "fanout, 1 outstanding", (Target("node", 1.3),)),
    Line("memory of an idle connection", "idle", limits=(Limit("value", 6),), less_is_better=True),
    Line("connects, ours authenticated and with resume", "connects", (Target("stock", 3),)),
)


class Spread(msgspec.Struct, frozen=True):
    """The median of all rounds, the least and the most."""

    median: float
    least: float
    most: float


class Measured(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """One server on one line. `per_cpu_second` is of server and database together, and None of memory and waits;
    `ratio` and `cpu_ratio` say how many times better ours is, round by round, and are None of ours. Where the client
    was as busy as it can be in a round, the server can do more than is said here."""

    server: str
    value: Spread
    per_cpu_second: float | None = None
    p50_ms: Spread | None = None
    p99_ms: Spread | None = None
    ratio: Spread | None = None
    cpu_ratio: float | None = None
    is_client_bound: bool = False


class Row(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """One line with what was measured of it, ours first. `reached` is of each target and limit in their order; None
    where that peer was not measured."""

    what: str
    measure: str
    unit: str
    targets: list[str]
    reached: list[bool | None]
    servers: list[Measured]


def rows_of(figures: Sequence[Figure]) -> list[Row]:
    """The lines of which there are figures of ours. The n-th figure of a measure and server is of round n."""
    return [row for line in LINES if (row := _row(line, figures)) is not None]


def _row(line: Line, figures: Sequence[Figure]) -> Row | None:
    rounds: dict[str, list[Figure]] = {}
    for figure in figures:
        if figure.measure == line.measure:
            rounds.setdefault(figure.server, []).append(figure)
    ours = rounds.pop(OURS, None)
    if ours is None:
        return None
    servers = [_measured(line, ours, None), *(_measured(line, of_peer, ours) for of_peer in rounds.values())]
    return Row(
        what=line.what,
        measure=line.measure,
        unit=ours[0].unit,
        targets=[str(target) for target in (*line.targets, *line.limits)],
        reached=[
            *(_is_reached(target, servers) for target in line.targets),
            *(_holds(each, ours) for each in line.limits),
        ],
        servers=servers,
    )


def _measured(line: Line, rounds: Sequence[Figure], ours: Sequence[Figure] | None) -> Measured:
    waits = [figure.latency_ms for figure in rounds if figure.latency_ms is not None]
    costs = _costs(line, rounds)
    # At half rate each server has a rate of its own, so neither rates nor their cost can be compared.
    comparable = ours is not None and not line.measure.endswith("half rate")
    our_costs = _costs(line, ours) if comparable and ours is not None else None
    return Measured(
        server=rounds[0].server,
        value=spread([figure.value for figure in rounds]),
        per_cpu_second=costs,
        p50_ms=spread([wait.p50 for wait in waits]) if waits else None,
        p99_ms=spread([wait.p99 for wait in waits]) if waits else None,
        ratio=_ratio(line, ours, rounds) if comparable and ours is not None else None,
        cpu_ratio=our_costs / costs if our_costs and costs else None,
        is_client_bound=any(figure.is_client_bound for figure in rounds),
    )


def _costs(line: Line, rounds: Sequence[Figure]) -> float | None:
    """The median of what a CPU second does."""
    costs = [figure.per_cpu_second for figure in rounds if figure.per_cpu_second]
    return statistics.median(costs) if costs and not line.less_is_better else None


def _ratio(line: Line, ours: Sequence[Figure], theirs: Sequence[Figure]) -> Spread | None:
    """How many times better ours was, each round against the same round: what else the machine did met both."""
    pairs = [(a.value, b.value) for a, b in zip(ours, theirs, strict=False) if a.value and b.value]
    if not pairs:
        return None
    return spread([peers / own if line.less_is_better else own / peers for own, peers in pairs])


def _is_reached(target: Target, servers: Sequence[Measured]) -> bool | None:
    ratio = next((each.ratio for each in servers if each.server == target.peer), None)
    return None if ratio is None else ratio.median >= target.times


def _holds(limit: Limit, ours: Sequence[Figure]) -> bool | None:
    if limit.of == "value":
        return statistics.median(figure.value for figure in ours) <= limit.most
    waits = [getattr(figure.latency_ms, limit.of) for figure in ours if figure.latency_ms is not None]
    return statistics.median(waits) <= limit.most if waits else None


def spread(values: Sequence[float]) -> Spread:
    """Median, least and most of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


# -- for people ------------------------------------------------------------------------------------------------------

_COLUMNS: Final = (
    "line", "server", "median", "least–most", "", "ours is", "least–most", "per CPU-s", "ours is", "p50 ms", "p99 ms",
    "target",
)  # fmt: skip
_RIGHT: Final = frozenset(range(2, 11)) - {4}


def as_table(rows: Sequence[Row]) -> str:
    """One line a server; the targets stand beside ours, with ✓ where they are reached and ✗ where not."""
    lines = [_COLUMNS, *(_cells(row, each) for row in rows for each in row.servers)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if at in _RIGHT else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(row: Row, each: Measured) -> tuple[str, ...]:
    is_ours = each.server == OURS
    verdicts = zip(row.targets, row.reached, strict=True)
    return (
        row.what if is_ours else "",
        each.server,
        brief(each.value.median) + ("*" if each.is_client_bound else ""),
        _range(each.value),
        row.unit,
        f"{each.ratio.median:.1f} ×" if each.ratio else "",
        f"{each.ratio.least:.1f}–{each.ratio.most:.1f}" if each.ratio else "",
        brief(each.per_cpu_second) if each.per_cpu_second else "",
        f"{each.cpu_ratio:.1f} ×" if each.cpu_ratio else "",
        brief(each.p50_ms.median) if each.p50_ms else "",
        brief(each.p99_ms.median) if each.p99_ms else "",
        ", ".join(f"{target} {_MARK[reached]}" for target, reached in verdicts) if is_ours else "",
    )


_MARK: Final = {True: "✓", False: "✗", None: "(not measured)"}


def _range(values: Spread) -> str:
    return f"{brief(values.least)}–{brief(values.most)}" if values.least < values.most else ""
