"""The closed list of error codes, one for the socket and HTTP alike (spec 2)."""

from __future__ import annotations

from decimal import Decimal
from typing import Final, Literal

import msgspec

from handlers.wire import encode

Code = Literal[
    "invalid_payload",
    "unknown_event",
    "not_found",
    "forbidden",
    "unauthorized",
    "rate_limited",
    "overloaded",
    "unavailable",
    "draining",
    "insufficient_funds",
    "idempotency_conflict",
    "payload_too_large",
    "conflict",
    "fraud_blocked",
    "internal",
]

HTTP_STATUS: Final[dict[str, int]] = {
    "invalid_payload": 400,
    "unauthorized": 401,
    "insufficient_funds": 402,
    "forbidden": 403,
    "fraud_blocked": 403,
    "not_found": 404,
    "unknown_event": 404,
    "conflict": 409,
    "idempotency_conflict": 409,
    "payload_too_large": 413,
    "rate_limited": 429,
    "internal": 500,
    "overloaded": 503,
    "unavailable": 503,
    "draining": 503,
}

RETRYABLE: Final = frozenset({"rate_limited", "overloaded", "unavailable", "draining", "internal"})


class ErrorBody(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """The `error` of a refused action, and the fields that an HTTP problem has beside the standard ones."""

    code: str
    message: str
    retryable: bool
    retry_after_ms: int | None = None
    field: str | None = None
    outcome: str | None = None
    need: Decimal | None = None  # with `insufficient_funds`: what it takes, and what there is
    have: Decimal | None = None


class Refusal(Exception):
    """A refusal with a code of the closed list.

    `outcome="unknown"` says that the action may have happened: the client repeats it with the
    same `actionId`. Without it, a refusal was certainly not carried out.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        field: str | None = None,
        retry_after_ms: int | None = None,
        outcome: Literal["unknown"] | None = None,
        need: Decimal | None = None,
        have: Decimal | None = None,
    ) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message
        self.field = field
        self.retry_after_ms = retry_after_ms
        self.outcome = outcome
        self.need = need
        self.have = have

    def body(self) -> ErrorBody:
        """The refusal as it goes to the caller, on every door."""
        return ErrorBody(
            code=self.code,
            message=self.message,
            retryable=self.code in RETRYABLE,
            retry_after_ms=self.retry_after_ms,
            field=self.field,
            outcome=self.outcome,
            need=self.need,
            have=self.have,
        )


def refusal_ack(refusal: Refusal) -> bytes:
    """A refusal as the whole acknowledgement."""
    return b'{"ok":false,"error":%b}' % encode(refusal.body())
