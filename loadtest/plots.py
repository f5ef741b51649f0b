"""Plots as inline SVG, made here: lines over time, latency by percentile, bars. Colours are the page's (`--c1`…)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Final, NamedTuple

from loadtest.figures import brief
from loadtest.histogram import Histogram

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 10, 26
NINES: Final = (0.5, 0.9, 0.99, 0.999, 0.9999)
COLOURS: Final = 6
DOTS: Final = 130  # points of a line that say their value when pointed at; of longer lines none do
_TICKS: Final = 6

Point = tuple[float, float]


class Line(NamedTuple):
    """One line of a plot; its points ascend in x."""

    name: str
    points: Sequence[Point]


class Axis(NamedTuple):
    """From value to pixel, with what is written beside it."""

    at: Callable[[float], float]
    ticks: list[tuple[float, str]]


def over_time(title: str, unit: str, lines: Sequence[Line]) -> str:
    """Values over seconds, from 0 up. Nothing where there are no two points."""
    lines = [line for line in lines if len(line.points) > 1]
    if not lines:
        return ""
    last = max(line.points[-1][0] for line in lines)
    most = max((y for line in lines for _, y in line.points), default=0.0) or 1.0
    across = Axis(_linear(0, last, LEFT, WIDTH - RIGHT), [(x, f"{brief(x)} s") for x in _round_steps(last) if x])
    up = Axis(_linear(0, most * 1.08, HEIGHT - BOTTOM, TOP), [(y, brief(y)) for y in _round_steps(most * 1.08)])
    return _plot(title, unit, lines, across, up, lambda x, y: f"{brief(y)} {unit} at {x:.1f} s")


def by_percentile(title: str, waits: Sequence[tuple[str, Histogram]]) -> str:
    """Latencies: each nine gets the same room across, and each tenfold the same room up."""
    lines = [
        Line(name, [(_nines(share), seconds * 1000) for share, seconds in _thinned(histogram)])
        for name, histogram in waits
        if histogram.counts
    ]
    if not lines:
        return ""
    least = min(line.points[0][1] for line in lines)
    most = max(line.points[-1][1] for line in lines)
    low, high = math.log10(max(least, 1e-3)) - 0.05, math.log10(max(most, 1e-3)) + 0.08
    to_pixel = _linear(low, high, HEIGHT - BOTTOM, TOP)
    ticks = [y for power in range(-3, 7) for y in (10.0**power, 2 * 10.0**power, 5 * 10.0**power)]
    shown = [y for y in ticks if low <= math.log10(y) <= high]
    if len(shown) > 2 * _TICKS:
        shown = [y for y in shown if f"{y:e}"[0] == "1"]
    widest = max(line.points[-1][0] for line in lines)
    across = Axis(
        _linear(0, max(widest, 1.0), LEFT, WIDTH - RIGHT),
        [(_nines(share), f"{share * 100:g} %") for share in NINES if _nines(share) <= widest],
    )
    up = Axis(lambda y: to_pixel(math.log10(max(y, 1e-3))), [(y, f"{y:g}") for y in shown])
    told = lambda x, y: f"{100 * (1 - 10**-x):.4g} % within {brief(y)} ms"  # noqa: E731
    return _plot(title, "ms", lines, across, up, told)


def bars(title: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """(name, length, what stands at its end) one below the other; lengths are at least 0."""
    most = max((length for _, length, _ in rows), default=0.0) or 1.0
    room, each = 118, 24
    height = each * len(rows) + 6
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">']
    for number, (name, length, told) in enumerate(rows):
        y = number * each + 4
        wide = max(length / most * (WIDTH - room - 56), 1.5)
        parts.append(f'<text class="name" x="{room - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<rect x="{room}" y="{y}" width="{wide:.1f}" height="17" rx="3" fill="var(--c{number % COLOURS + 1})"/>'
        )
        parts.append(f'<text class="told" x="{room + wide + 6:.1f}" y="{y + 13}">{escape(told)}</text>')
    return _framed(title, "", "".join([*parts, "</svg>"]))


def legend(names: Sequence[str]) -> str:
    """Which colour is whose; nothing for one alone."""
    if len(names) < 2:
        return ""
    keys = (
        f'<span><i style="background:var(--c{number % COLOURS + 1})"></i>{escape(name)}</span>'
        for number, name in enumerate(names)
    )
    return f'<div class="legend">{"".join(keys)}</div>'


def _plot(
    title: str, unit: str, lines: Sequence[Line], across: Axis, up: Axis, told: Callable[[float, float], str]
) -> str:
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for y, label in up.ticks:
        at = up.at(y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{escape(label)}</text>')
    for x, label in across.ticks:
        parts.append(f'<text x="{across.at(x):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(label)}</text>')
    for number, line in enumerate(lines):
        colour = f"var(--c{number % COLOURS + 1})"
        pixels = [(across.at(x), up.at(y)) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
        parts.append(f'<polyline points="{path}" stroke="{colour}"/>')
        if len(pixels) <= DOTS:
            for (x, y), point in zip(pixels, line.points, strict=True):
                said = escape(f"{line.name}: {told(*point)}")
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{said}</title></circle>')
    return _framed(title, unit, "".join([*parts, "</svg>"]), legend([line.name for line in lines]))


def _framed(title: str, unit: str, svg: str, key: str = "") -> str:
    named = f"{escape(title)}{f' <small>{escape(unit)}</small>' if unit else ''}"
    return f"<figure><figcaption>{named}</figcaption>{svg}{key}</figure>"


def _linear(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
    """The straight map of [low, high] onto [first, last]."""
    scale = (last - first) / ((high - low) or 1.0)
    return lambda value: first + (value - low) * scale


def _round_steps(most: float) -> list[float]:
    """0 and the round numbers up to `most`, about _TICKS of them."""
    power = 10.0 ** math.floor(math.log10(most / _TICKS)) if most > 0 else 1.0
    step = next(power * factor for factor in (1, 2, 5, 10) if most / (power * factor) <= _TICKS)
    return [step * number for number in range(int(most / step + 1e-9) + 1)]


def _nines(share: float) -> float:
    return -math.log10(max(1 - share, 1e-7))


def _thinned(histogram: Histogram) -> list[Point]:
    """The distribution without steps that nobody would see. The last one, the maximum, stands where the one before
    the last of so many would."""
    whole = histogram.count
    steps = [(min(share, 1 - 1 / (2 * whole)), seconds) for share, seconds in histogram.steps()]
    steps[-1] = (steps[-1][0], histogram.most)
    kept = [(0.0, steps[0][1])]
    for step in steps:
        if _nines(step[0]) - _nines(kept[-1][0]) > 0.02 or step is steps[-1]:
            kept.append(step)
    return kept
