"""What a scenario found out, and the little statistics it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds."""

    p50: float
    p99: float
    most: float


class Figure(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """One measurement. The CPU columns are cores in use; `faults` counts answers that were wrong or missing."""

    measure: str
    server: str
    value: float
    unit: str
    samples: int
    latency_ms: Latency | None = None
    server_cores: float = 0.0
    database_cores: float = 0.0
    client_cores: float = 0.0
    faults: int = 0
    note: str = ""

    @property
    def per_cpu_second(self) -> float:
        """`value` of a whole core of server and database together: steadier than wall-clock on a busy machine."""
        cores = self.server_cores + self.database_cores
        return self.value / cores if cores else 0.0


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least of the ascending values that at least `share` (above 0, at most 1) of them do not exceed."""
    if not ordered:
        raise ValueError("percentile of nothing")
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def latency(seconds: Sequence[float]) -> Latency | None:
    """The summary of latencies; None of none."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    return Latency(*(round(percentile(ordered, share) * 1000, 2) for share in (0.5, 0.99, 1.0)))


def middle(figures: Sequence[Figure]) -> Figure:
    """The figure of the median round (of two the lower one), with the faults of all and all values in its note."""
    ordered = sorted(figures, key=lambda figure: figure.value)
    chosen = ordered[(len(ordered) - 1) // 2]
    rounds = "" if len(ordered) == 1 else "rounds " + ", ".join(f"{figure.value:,.0f}" for figure in figures)
    note = "; ".join(part for part in (chosen.note, rounds) if part)
    return msgspec.structs.replace(chosen, note=note, faults=sum(figure.faults for figure in figures))
