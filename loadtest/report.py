"""What was measured, for people and for programs."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import Final

import msgspec

from loadtest.crew import Checked
from loadtest.figures import CLIENT_BOUND, Figure, brief, per

LESS_IS_BETTER: Final = frozenset({"idle", "storm", "storm, bare connects"})
RATIO: Final = "group, busy of quiet"
GROWTH: Final = "growth"  # its measures begin so: one a size, of which less is better too
# Of spec 13, against stock; the other targets are against peers that don't run here.
TARGETS: Final = {
    "echo": "≥ 15 ×",
    "connects": "≥ 3 ×",
    "idle": "≤ 6 KiB",
    "storm": "≤ 2 × the bare connects",
    RATIO: "≥ 0.8",
}
LATENCY_TARGET: Final = "p50 ≤ 10, p99 ≤ 40"

_COLUMNS: Final = (
    "measure", "server", "value", "", "ratio", "per CPU-s", "ratio", "p50 ms", "p99 ms",
    "server", "database", "client", "",
)  # fmt: skip
_RIGHT: Final = frozenset((2, *range(4, 12)))

_LEGEND: Final = "per CPU-s: of server and database together; server, database and client: cores in use"


class Report(msgspec.Struct, rename="camel", frozen=True):
    """One run: the machine, the figures, what is wrong (of answers and of promises, never of speed), and what was
    looked at to find out."""

    machine: dict[str, str | int | float]
    figures: list[Figure]
    problems: list[str]
    checked: list[Checked] = []


def machine() -> dict[str, str | int | float]:
    """What the figures depend on, besides the code."""
    return {
        "cores": os.cpu_count() or 0,
        "loadBefore": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def as_json(report: Report) -> bytes:
    """The whole report, indented."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def as_table(report: Report) -> str:
    """One line a figure; a ratio above 1 says that ours is better."""
    lines = [_COLUMNS, *(_line(figure, report.figures) for figure in report.figures)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(_COLUMNS))]
    table = ["  ".join(_padded(line, widths)).rstrip() for line in lines]
    about = ", ".join(f"{key} {value}" for key, value in report.machine.items())
    promises = [checked_line(checked) for checked in sorted(report.checked, key=lambda each: each.promise)]
    verdict = [f"PROBLEM: {problem}" for problem in report.problems] or ["no wrong answer, no promise broken"]
    return "\n".join([*table, "", f"({about})", _LEGEND, *promises, *verdict])


def checked_line(checked: Checked) -> str:
    """What was looked at, for people."""
    told = "all right" if not checked.broken else f"{checked.broken:,} ARE NOT"
    return f"promise {checked.promise}: {checked.count:,} × {checked.what}: {told}"


def remarks(figure: Figure) -> list[str]:
    """What to know of a figure beside its numbers."""
    notes = [figure.note] if figure.note else []
    if figure.refused:
        notes.append(f"{figure.refused:,} refused for now")
    if figure.is_client_bound:
        notes.append(f"CLIENT BOUND: a load process took {figure.client_most:.2f} cores, above {CLIENT_BOUND}")
    return notes


def is_less_better(figure: Figure) -> bool:
    """Whether the figure is a cost."""
    return figure.measure in LESS_IS_BETTER or figure.measure.startswith(GROWTH)


def ratio(figure: Figure, peer: Figure) -> float:
    """How many times better `figure` is than `peer`."""
    if is_less_better(figure):
        return per(peer.value, figure.value)
    return per(figure.value, peer.value)


def _costs(figure: Figure, peer: Figure | None) -> tuple[str, str]:
    """How much a CPU second does, and how many times the peer's; of memory nothing."""
    if is_less_better(figure) or not figure.per_cpu_second:
        return "", ""
    better = f"{figure.per_cpu_second / peer.per_cpu_second:.1f} ×" if peer and peer.per_cpu_second else ""
    return f"{figure.per_cpu_second:,.0f}", better


def _line(figure: Figure, figures: Sequence[Figure]) -> tuple[str, ...]:
    peer = next((each for each in figures if each.measure == figure.measure and each.server != figure.server), None)
    ours = figure.server == "applause"
    wait = figure.latency_ms
    is_paced_likes = figure.measure.startswith("likes") and figure.measure.endswith("half rate")
    target = LATENCY_TARGET if is_paced_likes else TARGETS.get(figure.measure, "")
    notes = [f"target {target}"] if ours and target else []
    return (
        figure.measure,
        figure.server,
        brief(figure.value),
        figure.unit,
        f"{ratio(figure, peer):.1f} ×" if ours and peer else "",
        *_costs(figure, peer if ours else None),
        f"{wait.p50:.1f}" if wait else "",
        f"{wait.p99:.1f}" if wait else "",
        f"{figure.server_cores:.2f}",
        f"{figure.database_cores:.2f}",
        f"{figure.client_cores:.2f}",
        "; ".join([*notes, *remarks(figure)]),
    )


def _padded(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.rjust(width) if at in _RIGHT else cell.ljust(width)
        for at, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]
