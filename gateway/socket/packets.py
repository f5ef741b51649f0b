"""Engine.IO 4 and Socket.IO 5, the server's side: text messages in, packets out, and what we send. No I/O, no clock.

The rules are those of github.com/socketio/engine.io-protocol (4) and socket.io-protocol (5), for WebSocket only.
Arguments stay `msgspec.Raw`, so each handler decodes its payload once, into its own type. A Raw is a view: it keeps
the whole message alive until it is dropped or copied.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

UNSUPPORTED_DATA: Final = 1003
POLICY_VIOLATION: Final = 1008

PING_PACKET: Final = b"2"
DISCONNECT_PACKET: Final = b"41"

_MAX_ACK_DIGITS: Final = 15  # every such number is exact in JavaScript
_MAX_NAMESPACE_BYTES: Final = 255
_DIGITS: Final = b"0123456789"
_OPEN_BRACKET: Final = ord("[")
_SLASH: Final = ord("/")


class ProtocolError(Exception):
    """What came is not the protocol. `code` is the WebSocket close code; `reason` holds nothing of the peer's."""

    def __init__(self, reason: str, code: int = POLICY_VIOLATION) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class Pong(msgspec.Struct, frozen=True):
    """The answer to our ping."""


class Leave(msgspec.Struct, frozen=True):
    """The peer ends the session: Engine.IO close, or DISCONNECT of the default namespace."""


class Nothing(msgspec.Struct, frozen=True):
    """A packet without a consequence: noop, or the ack of an event for which we asked none."""


class Connect(msgspec.Struct, frozen=True):
    """CONNECT. `auth` is any JSON value, None where there was none."""

    namespace: str
    auth: msgspec.Raw | None


class Event(msgspec.Struct, frozen=True):
    """EVENT of the default namespace; `args` are what follows the name. Reserved names are not refused here."""

    name: str
    args: list[msgspec.Raw]
    ack_id: int | None


class MalformedEvent(msgspec.Struct, frozen=True):
    """An EVENT whose body is not JSON of the form ["name", …]; `field` is named where it can be told."""

    ack_id: int | None
    field: str | None


Packet = Event | Pong | Connect | Leave | Nothing | MalformedEvent

_PONG: Final = Pong()
_LEAVE: Final = Leave()
_NOTHING: Final = Nothing()
_NAME_AND_PAYLOAD: Final = msgspec.json.Decoder(tuple[str, msgspec.Raw])
_ARRAY: Final = msgspec.json.Decoder(list[msgspec.Raw])
_VALUE: Final = msgspec.json.Decoder(msgspec.Raw)
_STRING: Final = msgspec.json.Decoder(str)
_JSON_ERRORS: Final = (msgspec.DecodeError, RecursionError)


def decode(message: bytes) -> Packet:
    """The packet in a text message (valid UTF-8). Raises ProtocolError."""
    kind = message[:2]
    if kind == b"42":
        return _decode_event(message)
    if message == b"3":
        return _PONG
    if kind == b"40":
        return _decode_connect(message)
    if kind == b"41":
        return _decode_disconnect(message)
    if kind == b"43":
        return _decode_ack(message)
    if message == b"1":
        return _LEAVE
    if message == b"6":
        return _NOTHING
    if kind in (b"45", b"46") or message[:1] == b"b":
        raise ProtocolError("binary packets are not supported", UNSUPPORTED_DATA)
    raise ProtocolError("unknown packet")


def is_default(namespace: str) -> bool:
    """Whether this is the one namespace that exists here."""
    return namespace == "/"


def open_packet(sid: str, *, ping_interval_ms: int, ping_timeout_ms: int, max_message_bytes: int) -> bytes:
    """The Engine.IO handshake."""
    handshake = {
        "sid": sid,
        "upgrades": [],
        "pingInterval": ping_interval_ms,
        "pingTimeout": ping_timeout_ms,
        "maxPayload": max_message_bytes,
    }
    return b"0" + msgspec.json.encode(handshake)


def connect_packet(sid: str) -> bytes:
    """The answer to an accepted CONNECT. `sid` is of our own making and needs no escaping."""
    return b'40{"sid":"%b"}' % sid.encode()


def connect_error_packet(error: bytes, namespace: str = "/") -> bytes:
    """CONNECT_ERROR with `error`, a JSON object with at least `message`."""
    return b"44%b%b" % (b"" if is_default(namespace) else namespace.encode() + b",", error)


def invalid_namespace_packet(namespace: str) -> bytes:
    """The refusal of a namespace that does not exist, as official servers word it."""
    return connect_error_packet(b'{"message":"Invalid namespace"}', namespace)


def event_packet(name: str, body: bytes) -> bytes:
    """EVENT `name` (of our own making, needs no escaping) with one argument in JSON."""
    return b'42["%b",%b]' % (name.encode(), body)


def ack_packet(ack_id: int, body: bytes) -> bytes:
    """ACK with one argument in JSON."""
    return b"43%d[%b]" % (ack_id, body)


def _decode_event(message: bytes) -> Event | MalformedEvent:
    body_at = message.find(b"[", 2, 3 + _MAX_ACK_DIGITS)
    digits = message[2:body_at]
    if body_at > 2 and digits.isdigit():
        ack_id: int | None = int(digits)
    elif body_at == 2:
        ack_id = None
    else:
        ack_id, body_at = _read_event_head(message)
    try:
        name, payload = _NAME_AND_PAYLOAD.decode(message[body_at:])
    except _JSON_ERRORS:
        return _decode_unusual_event(ack_id, message[body_at:])
    return Event(name, [payload], ack_id)


def _decode_unusual_event(ack_id: int | None, body: bytes) -> Event | MalformedEvent:
    """Without a payload, with several, or with a fault."""
    try:
        args = _ARRAY.decode(body)
        name = _STRING.decode(args.pop(0))
    except IndexError:
        return MalformedEvent(ack_id, None)
    except _JSON_ERRORS:
        return MalformedEvent(ack_id, field_at_fault(body))
    return Event(name, args, ack_id)


def _read_event_head(message: bytes) -> tuple[int | None, int]:
    """(ack id, where the JSON should begin) of an EVENT with a namespace or a fault."""
    namespace, at = _read_namespace(message)
    if not is_default(namespace):
        raise ProtocolError("event for a namespace that is not connected")
    return _read_ack_id(message, at)


def _decode_connect(message: bytes) -> Connect:
    namespace, at = _read_namespace(message)
    if at == len(message):
        return Connect(namespace, None)
    try:
        return Connect(namespace, _VALUE.decode(message[at:]))
    except _JSON_ERRORS:
        raise ProtocolError("CONNECT with a payload that is not JSON") from None


def _decode_disconnect(message: bytes) -> Leave:
    namespace, at = _read_namespace(message)
    if at < len(message) or not is_default(namespace):
        raise ProtocolError("bad DISCONNECT")
    return _LEAVE


def _decode_ack(message: bytes) -> Nothing:
    namespace, at = _read_namespace(message)
    ack_id, body_at = _read_ack_id(message, at)
    try:
        _ARRAY.decode(message[body_at:])
    except _JSON_ERRORS:
        ack_id = None
    if ack_id is None or not is_default(namespace):
        raise ProtocolError("bad ACK")
    return _NOTHING


def _read_namespace(message: bytes) -> tuple[str, int]:
    """(namespace, where it ends). It begins with a slash and ends at a comma; a query in it is never looked at."""
    if len(message) == 2 or message[2] != _SLASH:
        return "/", 2
    comma = message.find(b",", 2)
    end = comma if comma >= 0 else len(message)
    namespace = message[2:end].partition(b"?")[0]
    if len(namespace) > _MAX_NAMESPACE_BYTES:
        raise ProtocolError("namespace too long")
    return namespace.decode(), end + 1 if comma >= 0 else end


def _read_ack_id(message: bytes, at: int) -> tuple[int | None, int]:
    """(ack id or None, where the JSON begins)."""
    digits = len(message) - at - len(message[at:].lstrip(_DIGITS))
    if digits > _MAX_ACK_DIGITS:
        raise ProtocolError("ack id too long")
    return (int(message[at : at + digits]) if digits else None), at + digits


def field_at_fault(body: bytes) -> str | None:
    """The field that holds NaN or Infinity, which Python's own parser can find; None for any other fault."""
    fault = object()
    found: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        found.extend(key for key, value in pairs if value is fault)

    try:
        json.loads(body, parse_constant=lambda _: fault, object_pairs_hook=note)
    except (ValueError, RecursionError):
        return None
    return found[0] if found else None
