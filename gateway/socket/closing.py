"""How connections end: the codes of `closing`, and who may come back by themselves (spec 2)."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

POLICY_VIOLATION: Final = 1008
SERVICE_RESTART: Final = 1012
PROTOCOL_ERROR: Final = 1002


class Ending(NamedTuple):
    """`disconnect`: a DISCONNECT packet goes first, so that official clients stay away."""

    message: str
    retryable: bool
    disconnect: bool
    close_code: int


ENDINGS: Final[dict[str, Ending]] = {
    "token_expired": Ending("The token has expired.", True, False, POLICY_VIOLATION),
    "slow_consumer": Ending("The connection takes too little.", True, False, POLICY_VIOLATION),
    "draining": Ending("This node is going away.", True, False, SERVICE_RESTART),
    "unavailable": Ending("This node must look at the database anew.", True, False, SERVICE_RESTART),
    "user_suspended": Ending("The user is suspended.", False, True, POLICY_VIOLATION),
    "revoked": Ending("The token was revoked.", False, True, POLICY_VIOLATION),
    "replaced": Ending("The same device has connected again.", False, True, POLICY_VIOLATION),
    "too_many_errors": Ending("Too many malformed requests.", False, True, POLICY_VIOLATION),
    "protocol_error": Ending("This is not the protocol.", False, True, PROTOCOL_ERROR),
}


class Closing(msgspec.Struct, rename="camel", omit_defaults=True):
    """The body of `closing`, right before the server ends a connection."""

    code: str
    message: str
    retryable: bool
    reconnect_after_ms: int | None = None


def closing_body(code: str, message: str, retryable: bool, reconnect_after_ms: int | None) -> bytes:
    """`closing` as JSON."""
    return msgspec.json.encode(Closing(code, message, retryable, reconnect_after_ms))
