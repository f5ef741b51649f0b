"""A record's bytes as a deed, strictly."""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec
from msgspec import UNSET

from gateway.routes import AWARD, PUBLISH
from handlers.deed import Deed, fingerprint
from handlers.directory.wire import DirectoryRecord
from handlers.errors import Refusal
from handlers.events.request import EventLimits, checked
from handlers.events.wire import PublishRequest
from handlers.wallet.wire import AwardCommand, Command, DeductCommand

_EVENT: Final = msgspec.json.Decoder(PublishRequest)
_COMMAND: Final = msgspec.json.Decoder(Command)
_DIRECTORY: Final = msgspec.json.Decoder(DirectoryRecord)


class Unreadable(Exception):
    """What is wrong with the record, in a sentence."""


class DeedOf(Protocol):
    """Makes a deed of a record's value; it has no place yet, and nobody who hears its answer. Raises Unreadable."""

    def __call__(self, value: bytes, *, order_key: object) -> Deed: ...


def events(limits: EventLimits) -> DeedOf:
    """Records of the topic of events."""

    def deed_of(value: bytes, *, order_key: object) -> Deed:
        request = _decoded(_EVENT, value)
        if request.source is UNSET:
            raise Unreadable("Object missing required field `source`")
        try:
            event = checked(request.source, request, limits)
        except Refusal as refusal:
            raise Unreadable(sentence(refusal)) from None
        return Deed(
            user_id=0,
            event=PUBLISH,
            request=event,
            fingerprint=event.fingerprint,
            received_at=0.0,
            order_key=order_key,
            answer=_unheard,
            subject=event.source,
            weight=max(1, len(event.recipients)),
        )

    return deed_of


def command(value: bytes, *, order_key: object) -> Deed:
    """A record of the topic of commands. What the same backend sends over HTTP under the same id is the same deed."""
    request: Any = _decoded(_COMMAND, value)
    event = _event_of(request)
    return Deed(
        user_id=request.user_id,
        event=event,
        request=request,
        fingerprint=fingerprint(event, _as_over_http(value)),
        received_at=0.0,
        order_key=order_key,
        answer=_unheard,
        subject=request.source,
    )


def directory_record(value: bytes) -> DirectoryRecord:
    """A record of the directory's topic. Raises Unreadable."""
    record: DirectoryRecord = _decoded(_DIRECTORY, value)
    return record


def _unheard(_: bytes) -> None:
    """Until the partition wants to hear."""


def _event_of(request: Command) -> str:
    if isinstance(request, AwardCommand):
        return AWARD
    return "wallet:deduct" if isinstance(request, DeductCommand) else "wallet:correct"


def _as_over_http(value: bytes) -> bytes:
    fields = msgspec.json.decode(value)
    fields["actionId"] = fields.pop("id")
    del fields["source"], fields["verb"]
    return msgspec.json.encode(fields)


def _decoded(decoder: msgspec.json.Decoder[Any], value: bytes) -> Any:
    if not value:
        raise Unreadable("The value is empty.")
    try:
        return decoder.decode(value)
    except msgspec.ValidationError as error:
        raise Unreadable(str(error)) from None
    except (ValueError, RecursionError):  # no JSON, no UTF-8, nested without end
        raise Unreadable("This is not valid JSON.") from None


def sentence(refusal: Refusal) -> str:
    """A refusal as a dead letter's reason."""
    return refusal.message if refusal.field is None else f"{refusal.message} - at `$.{refusal.field}`"
