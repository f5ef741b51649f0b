"""Metrics of one node, or of all workers of a team at any of them, each series with the label `worker`.

A worker that is dead, or does not answer in time, is left out, and counted. The parent answers too: as `parent`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.samples import Sample

from fanout.line import PARENT, Line
from gateway.workers.team import SCRAPE, Team

PATIENCE_S: Final = 2.0
LABEL: Final = "worker"

Families = Callable[[], Awaitable[list[Metric]]]
"""All families as they are now."""


class _Family(msgspec.Struct, frozen=True, array_like=True):
    """A family on its way to another worker."""

    name: str
    what: str
    kind: str
    samples: list[tuple[str, dict[str, str], float]]


_encoder: Final = msgspec.msgpack.Encoder()  # JSON knows no infinity
_decoder: Final = msgspec.msgpack.Decoder(list[_Family])


def of_one(registry: CollectorRegistry) -> Families:
    """A node by itself."""

    async def collect() -> list[Metric]:
        return list(registry.collect())

    return collect


def of_all(registry: CollectorRegistry, team: Team) -> Families:
    """All workers of the team; and answers the others from now on."""
    answer_scrapes(registry, team.line)

    async def collect() -> list[Metric]:
        others = [*team.others, PARENT]
        found = await asyncio.gather(*(_ask(team, number) for number in others))
        parts = [(_label(team.number), _packed(registry))]
        parts += [(_label(number), part) for number, part in zip(others, found, strict=True) if part is not None]
        answering = sum(number != _label(PARENT) for number, _ in parts)
        return [*_together(parts), _census(answering, team.size - answering)]

    return collect


def answer_scrapes(registry: CollectorRegistry, line: Line) -> None:
    """Tell workers that ask what this registry has."""

    async def give(_: int, __: bytes) -> bytes:
        return _encoder.encode(_packed(registry))

    line.answer(SCRAPE, give)


async def _ask(team: Team, number: int) -> list[_Family] | None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return _decoder.decode(await team.line.ask(number, SCRAPE))
    except OSError:  # a time-out included
        return None


def _packed(registry: CollectorRegistry) -> list[_Family]:
    return [
        _Family(
            each.name, each.documentation, each.type, [(sample[0], sample[1], sample[2]) for sample in each.samples]
        )
        for each in registry.collect()
    ]


def _together(parts: Iterable[tuple[str, list[_Family]]]) -> list[Metric]:
    """Each family once, as the text format wants it."""
    found: dict[str, Any] = {}
    for worker, families in parts:
        for family in families:
            whole = found.setdefault(family.name, Metric(family.name, family.what, family.kind))
            whole.samples += [Sample(name, {**labels, LABEL: worker}, value) for name, labels, value in family.samples]
    return list(found.values())


def _census(answering: int, missing: int) -> Metric:
    workers = GaugeMetricFamily("applause_workers", "Workers that answered this scrape, or did not.", labels=["state"])
    workers.add_metric(["answering"], answering)
    workers.add_metric(["missing"], missing)
    return workers


def _label(number: int) -> str:
    return "parent" if number == PARENT else str(number)
