"""Who comes into being, and by what."""

from __future__ import annotations

from collections.abc import Iterable


def creates_user(*, is_backend: bool, create_unknown: bool) -> bool:
    """True where a valid token of an unknown user makes them a user at first connect (spec 1)."""
    return create_unknown and not is_backend


def distinct_roles(roles: Iterable[str]) -> list[str]:
    """Each role once, in the order given."""
    return list(dict.fromkeys(roles))
