"""Numbers as Prometheus has them. Names are given without the namespace.

`value` is one number; or one a label's value; or, with several labels, one a tuple of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from gateway.counts import Histogram

NAMESPACE: Final = "applause"

Pair = tuple[str, str]
Values = float | Mapping[str, float] | Mapping[Pair, float] | Mapping[tuple[str, str, str], float]


def counter(name: str, what: str, value: Values, *labels: str) -> Metric:
    """What only grows."""
    return _family(CounterMetricFamily, name, what, value, labels)


def gauge(name: str, what: str, value: Values, *labels: str) -> Metric:
    """What stands somewhere."""
    return _family(GaugeMetricFamily, name, what, value, labels)


def _family(
    kind: type[CounterMetricFamily | GaugeMetricFamily], name: str, what: str, value: Values, labels: tuple[str, ...]
) -> Metric:
    if not isinstance(value, Mapping):
        return kind(f"{NAMESPACE}_{name}", what, value=value)
    family = kind(f"{NAMESPACE}_{name}", what, labels=labels)
    for key, each in value.items():
        family.add_metric([key] if isinstance(key, str) else key, each)
    return family


def histogram(name: str, what: str, observed: Histogram) -> Metric:
    """How values are spread."""
    buckets, total = _buckets(observed)
    return HistogramMetricFamily(f"{NAMESPACE}_{name}", what, buckets=buckets, sum_value=total)


def histograms(name: str, what: str, observed: Mapping[Pair, Histogram], *labels: str) -> Metric:
    """The same by two labels."""
    family = HistogramMetricFamily(f"{NAMESPACE}_{name}", what, labels=labels)
    for key, each in observed.items():
        family.add_metric(key, *_buckets(each))
    return family


def resumes(by_bits: Mapping[int, int], events: int) -> Metric:
    """How far connections were behind, counted by the bits of the number: 0, 1, up to 3, up to 7 and so on."""
    buckets, running = [], 0
    for bits in range(15):
        running += by_bits.get(bits, 0)
        buckets.append((str(float(2**bits - 1)), running))
    buckets.append(("+Inf", sum(by_bits.values())))
    return HistogramMetricFamily(
        f"{NAMESPACE}_resume_events",
        "Events that an accepted connection was behind.",
        buckets=buckets,
        sum_value=events,
    )


def _buckets(observed: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Cumulative, as Prometheus has them; and the sum."""
    bounds = [*(str(float(bound)) for bound in observed.bounds), "+Inf"]
    return list(zip(bounds, accumulate(observed.counts), strict=True)), observed.sum
