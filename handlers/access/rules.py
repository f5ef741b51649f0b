"""Which tokens a revocation takes with it."""

from __future__ import annotations

import math


def is_revoked(issued_at: float | None, up_to: int | None) -> bool:
    """Whether a token is one of those that were issued up to that Unix second (None: no revocation). A token that does
    not say when it was issued counts as an old one."""
    return up_to is not None and (issued_at is None or math.floor(issued_at) <= up_to)
