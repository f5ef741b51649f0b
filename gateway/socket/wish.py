"""What a CONNECT asks for, before anybody has looked at its token, and how it is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from gateway.auth import AuthError
from gateway.payloads import decode
from handlers.errors import Refusal

if TYPE_CHECKING:
    from gateway.socket.connection import Connection

PROTOCOL: Final = 1
MAX_DEVICE_ID: Final = 128


class ConnectAuth(msgspec.Struct, rename="camel"):
    """The `auth` of CONNECT: all strings, since some clients can send nothing else; numbers too."""

    token: str | None = None
    last_seq: str | int | None = None
    epoch: str | None = None
    device_id: str | None = None
    protocol: str | int | None = None


class ConnectRefused(Exception):
    """A CONNECT that is refused with a `connect_error` and data."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


SUSPENDED: Final = ConnectRefused("user_suspended", "The user is suspended.")


def refuse_connect(connection: Connection, refused: ConnectRefused | AuthError) -> None:
    """With a `connect_error`; where nobody can say, without a packet, so that official clients come back."""
    if refused.code == "unavailable":
        connection.drop()
        return
    data = {"code": refused.code, "message": refused.message, "retryable": False}
    connection.refuse(msgspec.json.encode({"message": refused.code, "data": data}), refused.code)


class Wish(NamedTuple):
    """A readable `auth`. None: not said."""

    token: str | None
    device_id: str | None
    last_seq: int | None
    epoch: str | None
    protocol: int


_AUTH = msgspec.json.Decoder(ConnectAuth)


def read_wish(raw: msgspec.Raw | None) -> Wish:
    """The wish of CONNECT's `auth`; raises ConnectRefused `invalid_payload`."""
    auth = _decoded(raw)
    return Wish(auth.token, _device_id(auth), _last_seq(auth), auth.epoch or None, _protocol(auth))


def _decoded(raw: msgspec.Raw | None) -> ConnectAuth:
    if raw is None:
        return ConnectAuth()
    try:
        return decode(_AUTH, raw)
    except Refusal as refusal:
        raise ConnectRefused("invalid_payload", f"auth.{refusal.field or ''}: {refusal.message}") from None


def _device_id(auth: ConnectAuth) -> str | None:
    if auth.device_id and (len(auth.device_id) > MAX_DEVICE_ID or "\0" in auth.device_id):
        raise ConnectRefused("invalid_payload", f"auth.deviceId must be at most {MAX_DEVICE_ID} characters.")
    return auth.device_id or None


def _last_seq(auth: ConnectAuth) -> int | None:
    text = "" if auth.last_seq is None else str(auth.last_seq)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise ConnectRefused("invalid_payload", "auth.lastSeq must be 1 to 16 digits.")
    return int(text)


def _protocol(auth: ConnectAuth) -> int:
    text = "" if auth.protocol is None else str(auth.protocol)
    if not text:
        return PROTOCOL
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ConnectRefused("invalid_payload", "auth.protocol must be a number.")
    return int(text)
