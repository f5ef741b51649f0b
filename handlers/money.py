"""Exact amounts: integers of minor units inside, JSON numbers with at most two decimals outside."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from typing import Final

LYK: Final = "LYK"
DECIMALS: Final = {LYK: 2}


@lru_cache(maxsize=4096)
def as_number(minor: int, decimals: int = 2) -> Decimal:
    """Minor units as the number that a client sees: 10 -> 0.1, 100 -> 1 (never through a float)."""
    whole, rest = divmod(abs(minor), 10**decimals)
    text = f"{whole}.{rest:0{decimals}d}".rstrip("0").rstrip(".") if rest else str(whole)
    return Decimal("-" + text if minor < 0 else text)
