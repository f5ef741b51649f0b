"""Base Structs and field types of everything that crosses a door."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from handlers.money import as_minor

MAX_USER_ID: Final = 2**53 - 1  # what JavaScript can hold exactly

UserId = Annotated[int, msgspec.Meta(ge=1, le=MAX_USER_ID)]
# Ids of videos, conversations, messages and items. NUL can't be stored in PostgreSQL's text.
ItemId = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[^\x00]*\Z")]
# What a backend calls itself, and its own id of an event, a command or a record of the directory.
Source = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[^\x00]*\Z")]
RecordId = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\x00]*\Z")]
ActionId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:-]{8,64}\Z")]
Text = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*\Z")]
Currency = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3,8}\Z")]
# A JSON number as it was sent, so that no float comes between: msgspec's own Decimal takes strings and exponents too.
Amount = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "number", "multipleOf": 0.01})]
Title = Annotated[str, msgspec.Meta(min_length=1, max_length=500, pattern=r"^[^\x00]*\Z")]  # of a video


class Request(msgspec.Struct, rename="camel", forbid_unknown_fields=True, frozen=True, gc=False):
    """What a client sends: strict, since an undeclared field is a schema bug."""


class Message(msgspec.Struct, rename="camel", gc=False):
    """What the server sends: acks' data, events' data, rows of lists."""


_ENCODER = msgspec.json.Encoder(decimal_format="number", uuid_format="canonical")


def encode(value: Any) -> bytes:
    """JSON bytes of any Message; decimals as exact numbers."""
    return _ENCODER.encode(value)


def minor_of(amount: msgspec.Raw, field: str) -> int:
    """Minor units of a number as it was sent. Raises ValueError in msgspec's words, which name the field."""
    minor = as_minor(bytes(amount))
    if minor is None:
        raise ValueError(f"Expected a number with at most two decimals - at `$.{field}`")
    return minor


def positive(amount: msgspec.Raw, field: str) -> int:
    """The same of a number above zero."""
    minor = minor_of(amount, field)
    if minor <= 0:
        raise ValueError(f"Expected a number above 0 - at `$.{field}`")
    return minor


class RefreshRequest(Request, frozen=True):
    """`auth:refresh`: a later expiry for an open socket."""

    token: str


class RefreshAck(Message):
    token_expires_in_ms: int
