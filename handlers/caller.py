"""Who asks: the identity that a verified token gives to an action."""

from __future__ import annotations

import msgspec

BACKEND_ROLES = frozenset({"service", "admin"})


class Caller(msgspec.Struct, frozen=True):
    """One verified caller.

    `subject` is the token's subject as text; for people it is their user id in digits.
    `user_id` is None for backends whose subject is no user.
    """

    subject: str
    user_id: int | None
    roles: frozenset[str]

    @property
    def is_backend(self) -> bool:
        """True for `service` and `admin`, who may use the doors for backends (spec 7)."""
        return not self.roles.isdisjoint(BACKEND_ROLES)
