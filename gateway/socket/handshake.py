"""Reads the handshakes that phones and browsers send: bytes in, values out. No I/O, no clock.

The grammar is a small and strict part of HTTP/1.1, RFC 6455 and Engine.IO 4. Whatever is outside of it is None, and
aiohttp judges it; whatever is inside, aiohttp would take for the same (`tests/gateway/socket/test_handshake.py`
compares them).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MAX_HEAD_BYTES: Final = 8_000  # below what aiohttp takes of a single line
MAX_FIELDS: Final = 100  # below what aiohttp takes

# Whole lines of printable ASCII, none of them folded. Possessive, so that no byte is looked at twice.
_HEAD: Final = re.compile(
    rb"GET /socket\.io/?\?(?P<query>[A-Za-z0-9._~=&-]++) HTTP/1\.1\r\n(?P<fields>(?:[A-Za-z0-9-]++:[ -~]*+\r\n)++)\r\n"
)
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{22}==")  # base64 of 16 bytes
# A body, a question about it, and a draft of WebSocket that aiohttp refuses.
_NOT_PLAIN: Final = frozenset({"content-length", "transfer-encoding", "expect", "sec-websocket-key1"})
_CONNECTION: Final = frozenset({"upgrade", "keep-alive, upgrade"})


class Handshake(NamedTuple):
    """A good one. None: not said. `size` is where the first frame begins."""

    key: str
    host: str
    origin: str | None
    authorization: str | None
    forwarded_for: str | None
    size: int


def read_handshake(data: bytes) -> Handshake | None:
    """The handshake that `data` begins with; None where it is not whole, or not one of the plainest kind."""
    head = _HEAD.match(data, 0, MAX_HEAD_BYTES)
    if head is None:
        return None
    lines = head["fields"].decode().split("\r\n")
    lines.pop()  # what is behind the last line's end
    fields = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip()
    if not len(fields) == len(lines) <= MAX_FIELDS or not _NOT_PLAIN.isdisjoint(fields):
        return None
    get = fields.get
    key, host = get("sec-websocket-key", ""), get("host")
    if (
        host is None
        or get("upgrade", "").lower() != "websocket"
        or get("sec-websocket-version") != "13"
        or not is_key(key)
        or get("connection", "").lower() not in _CONNECTION
        or not _asks_for_engine_io(head["query"].decode())
    ):
        return None
    return Handshake(key, host, get("origin"), get("authorization"), get("x-forwarded-for"), head.end())


def is_key(key: str) -> bool:
    """Whether this is base64 of 16 bytes (RFC 6455, section 4.2.1)."""
    return _KEY.fullmatch(key) is not None


def _asks_for_engine_io(query: str) -> bool:
    pairs = [pair.partition("=") for pair in query.split("&")]
    said = {name: value for name, _, value in pairs}
    asks = said.get("EIO") == "4" and said.get("transport") == "websocket" and "sid" not in said
    return asks and len(said) == len(pairs)
