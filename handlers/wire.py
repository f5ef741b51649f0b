"""Base Structs and field types of everything that crosses a door."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

MAX_USER_ID: Final = 2**53 - 1  # what JavaScript can hold exactly

UserId = Annotated[int, msgspec.Meta(ge=1, le=MAX_USER_ID)]
# Ids of videos, conversations, messages and items. NUL can't be stored in PostgreSQL's text.
ItemId = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[^\x00]*\Z")]
ActionId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:-]{8,64}\Z")]
Text = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*\Z")]


class Request(msgspec.Struct, rename="camel", forbid_unknown_fields=True, frozen=True, gc=False):
    """What a client sends: strict, since an undeclared field is a schema bug."""


class Message(msgspec.Struct, rename="camel", gc=False):
    """What the server sends: acks' data, events' data, rows of lists."""


_ENCODER = msgspec.json.Encoder(decimal_format="number", uuid_format="canonical")


def encode(value: Any) -> bytes:
    """JSON bytes of any Message; decimals as exact numbers."""
    return _ENCODER.encode(value)


class RefreshRequest(Request, frozen=True):
    """`auth:refresh`: a later expiry for an open socket."""

    token: str


class RefreshAck(Message):
    token_expires_in_ms: int
