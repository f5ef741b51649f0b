"""What a scenario found out, and the little statistics it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from loadtest.histogram import Histogram

CLIENT_BOUND: Final = 0.9  # cores of one load process, from which on it is the client that is measured


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds."""

    p50: float
    p99: float
    most: float
    p90: float = 0.0
    p999: float = 0.0


class Sample(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """One moment of a measurement: `at` seconds from its beginning, what went on since the sample before."""

    at: float
    rate: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    server_cores: float = 0.0
    database_cores: float = 0.0
    client_cores: float = 0.0
    server_mib: float = 0.0
    database_mib: float = 0.0
    client_mib: float = 0.0


class Figure(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """One measurement. The CPU columns are cores in use; `faults` counts answers that were wrong or missing,
    `refused` those that were refused as they may be. `client_most` is the busiest load process's cores."""

    measure: str
    server: str
    value: float
    unit: str
    samples: int
    latency_ms: Latency | None = None
    server_cores: float = 0.0
    database_cores: float = 0.0
    client_cores: float = 0.0
    client_most: float = 0.0
    faults: int = 0
    refused: int = 0
    note: str = ""
    histogram: Histogram | None = None
    series: list[Sample] = []

    @property
    def per_cpu_second(self) -> float:
        """`value` of a whole core of server and database together: steadier than wall-clock on a busy machine."""
        cores = self.server_cores + self.database_cores
        return per(self.value, cores)

    @property
    def is_client_bound(self) -> bool:
        """Whether a load process was as busy as it can be: then the server could do more than is said here."""
        return self.client_most > CLIENT_BOUND


def per(value: float, of: float) -> float:
    """`value / of`; 0 where there is nothing to divide by, as in a window in which nothing happened."""
    return value / of if of else 0.0


def summary(waits: Histogram) -> Latency | None:
    """The summary of a histogram; None of an empty one."""
    if not waits.counts:
        return None
    return Latency(*(round(waits.quantile(share) * 1000, 2) for share in (0.5, 0.99, 1.0, 0.9, 0.999)))


def middle(figures: Sequence[Figure]) -> Figure:
    """The figure of the median round (of two the lower one), with the faults of all and all values in its note."""
    ordered = sorted(figures, key=lambda figure: figure.value)
    chosen = ordered[(len(ordered) - 1) // 2]
    rounds = "" if len(ordered) == 1 else "rounds " + ", ".join(brief(figure.value) for figure in figures)
    note = "; ".join(part for part in (chosen.note, rounds) if part)
    faults, refused = sum(figure.faults for figure in figures), sum(figure.refused for figure in figures)
    return msgspec.structs.replace(chosen, note=note, faults=faults, refused=refused)


def brief(value: float) -> str:
    """A number as people read it: more digits the smaller it is."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}" if value >= 1 else f"{value:.2f}"
