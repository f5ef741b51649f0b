"""All that one node shows."""

from __future__ import annotations

import gc
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.metrics.families import NAMESPACE, counter

Reading = Callable[[], Iterable[Metric]]
"""Reads one part's numbers. Runs at each scrape, on the event loop, so it must not wait."""

Show = Callable[[Reading], None]
"""Takes what this node shows from now on; whoever starts a part is handed it."""


def registry(readings: Iterable[Reading]) -> CollectorRegistry:
    """One node's own registry: its parts, the process, the build."""
    made = CollectorRegistry(auto_describe=True)
    made.register(_Readings(readings))
    ProcessCollector(namespace=NAMESPACE, registry=made)
    return made


class _Readings(Collector):
    def __init__(self, readings: Iterable[Reading]) -> None:
        self._readings = [*readings, _of_build, _of_garbage]

    def collect(self) -> Iterator[Metric]:
        for reading in self._readings:
            yield from reading()


def _of_build() -> Iterator[Metric]:
    version = importlib.metadata.version("applause")
    yield InfoMetricFamily(
        f"{NAMESPACE}_build", "What runs here.", {"version": version, "python": platform.python_version()}
    )


def _of_garbage() -> Iterator[Metric]:
    stats = gc.get_stats()
    for name, what in (("collections", "Runs of the garbage collector."), ("collected", "Objects that it freed.")):
        yield counter(f"gc_{name}", what, {str(n): stat[name] for n, stat in enumerate(stats)}, "generation")
