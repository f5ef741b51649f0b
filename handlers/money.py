"""Exact amounts: integers of minor units inside, JSON numbers with at most two decimals outside."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache
from typing import Final

LYK: Final = "LYK"
DECIMALS: Final = {LYK: 2}
# The largest amount and balance: 15 digits are what every number of a client's, a double, gives back as it was.
MAX_MINOR: Final = 10**15 - 1

# Thirteen digits and two decimals: up to MAX_MINOR.
_NUMBER: Final = re.compile(rb"(-?)(0|[1-9][0-9]{0,12})(?:\.([0-9]{1,2}))?")


@lru_cache(maxsize=4096)
def as_number(minor: int, decimals: int = 2) -> Decimal:
    """Minor units as the number that a client sees: 10 -> 0.1, 100 -> 1 (never through a float)."""
    whole, rest = divmod(abs(minor), 10**decimals)
    text = f"{whole}.{rest:0{decimals}d}".rstrip("0").rstrip(".") if rest else str(whole)
    return Decimal("-" + text if minor < 0 else text)


def as_minor(number: bytes) -> int | None:
    """A JSON number with at most two decimals, as it was sent, in minor units: b"0.1" -> 10. None for anything else:
    text, an exponent, more decimals, and what is beyond MAX_MINOR."""
    found = _NUMBER.fullmatch(number)
    if found is None:
        return None
    minor = int(found[2]) * 100 + int((found[3] or b"").ljust(2, b"0"))
    return -minor if found[1] else minor
