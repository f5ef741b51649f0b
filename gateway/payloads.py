"""Strict decoding of what a client sends, and the field that an error is about."""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec

from gateway.socket.packets import field_at_fault
from handlers.errors import Refusal

T = TypeVar("T")

_MAX_FIELD_CHARS: Final = 64  # an unknown field's name is the client's own text
# msgspec's sentences: a place below the top first, since a missing or unknown field may be one of an inner object.
_PLACED: Final = re.compile(r" - at `\$\.([^.\[`]+)[^`]*`\Z")
_NAMED: Final = re.compile(r"(?:missing required|contains unknown) field `(.+)`\Z", re.DOTALL)


def decode(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw) -> T:
    """The body as the decoder's type; Refusal `invalid_payload` naming the field otherwise."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Refusal("invalid_payload", _without_place(error), field=field_of(error)) from None
    except (ValueError, RecursionError):  # no JSON, no UTF-8, nested without end
        raise Refusal("invalid_payload", "This is not valid JSON.", field=field_at_fault(bytes(body))) from None


def field_of(error: msgspec.ValidationError) -> str | None:
    """The payload's member that msgspec complains of or within; None for the payload as a whole."""
    text = str(error)
    found = _PLACED.search(text) or _NAMED.search(text)
    return found[1][:_MAX_FIELD_CHARS] if found else None


def _without_place(error: msgspec.ValidationError) -> str:
    """msgspec's sentence without the path, and without an unknown field's name, which `field` tells."""
    sentence = str(error).split(" - at `$", 1)[0]
    return "There is no such field." if "contains unknown field" in sentence else f"{sentence}."
