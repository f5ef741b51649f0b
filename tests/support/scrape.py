"""`/metrics` as Prometheus reads it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.support.clients import PATIENCE_S

_WRITTEN: Final = re.compile(r"([a-z_]+)(?:\{(.*)\})?")

Sample = tuple[str, frozenset[tuple[str, str]]]
"""(name, labels)"""


async def scrape(url: str) -> dict[Sample, float]:
    """All samples of a server."""
    async with aiohttp.ClientSession() as http, http.get(f"{url}/metrics") as response:
        assert response.status == 200
        return read(await response.text())


def read(text: str) -> dict[Sample, float]:
    """All samples of a text, each of which must be there once."""
    families = list(text_string_to_metric_families(text))
    found = [
        ((sample.name, frozenset(sample.labels.items())), sample.value) for each in families for sample in each.samples
    ]
    assert len(dict(found)) == len(found), "a series stands there twice"
    return dict(found)


def named(written: str) -> Sample:
    """`name{label=value,…}` without quotes, as tests write it."""
    match = _WRITTEN.fullmatch(written)
    assert match, written
    pairs = [pair.partition("=") for pair in (match[2] or "").split(",") if pair]
    return match[1], frozenset((name, value) for name, _, value in pairs)


async def moves(url: str, before: Mapping[Sample, float], expected: Mapping[str, float]) -> None:
    """Return when each of these has grown (or fallen) by as much since `before`."""
    grown: dict[str, float] = {}
    try:
        async with asyncio.timeout(PATIENCE_S):
            while grown != dict(expected):
                now = await scrape(url)
                grown = {each: now.get(named(each), 0) - before.get(named(each), 0) for each in expected}
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"moved by {grown}, not {dict(expected)}") from None
