"""Who asks: the identity that a verified token gives to an action."""

from __future__ import annotations

import msgspec

BACKEND_ROLES = frozenset({"service", "admin"})


class Caller(msgspec.Struct, frozen=True):
    """One verified caller.

    `subject` is the token's subject as text. `user_id` is the user whom it names in digits or is an identity of; None
    for backends whose subject is no user, and for people whose identity has not been looked up yet.
    """

    subject: str
    user_id: int | None
    roles: frozenset[str]

    @property
    def is_backend(self) -> bool:
        """True for `service` and `admin`, who may use the doors for backends (spec 7)."""
        return not self.roles.isdisjoint(BACKEND_ROLES)


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """What a verified token says. Dates are Unix seconds."""

    caller: Caller
    expires_at: float
    issued_at: float | None = None
    username: str | None = None
    jti: str | None = None
    issuer: str | None = None  # with the subject an identity; None where the subject is a user's id in digits

    def of_user(self, user_id: int | None) -> Claims:
        """The same with the user whom the identity belongs to."""
        caller = msgspec.structs.replace(self.caller, user_id=user_id)
        return msgspec.structs.replace(self, caller=caller)
