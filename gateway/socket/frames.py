"""RFC 6455, the server's side: bytes in, messages out, and the few frames we send. No I/O, no clock.

Text only: Socket.IO's binary packets are refused, so a binary message is one, too. Rules are those of RFC 6455
sections 5 and 7.4; each break of one becomes a `Violation` with the close code that the RFC gives it.
"""

from __future__ import annotations

from typing import Final

import msgspec

try:
    from websockets.speedups import apply_mask
except ImportError:  # its wheel for this machine has no extension
    from websockets.utils import apply_mask

PROTOCOL_ERROR: Final = 1002
UNSUPPORTED_DATA: Final = 1003
INVALID_DATA: Final = 1007
POLICY_VIOLATION: Final = 1008
TOO_BIG: Final = 1009

_TEXT_FIN: Final = 0x81
_FIN: Final = 0x80
_RESERVED_BITS: Final = 0x70
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_OPCODES: Final = frozenset((_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG))
_SHORT: Final = 125  # the longest payload whose length stands in the second byte; no control frame may be longer
_MASK_BYTES: Final = 4
_HEAD_MISSING: Final = -_MASK_BYTES  # as a size: the frame "ends" where its head does, so only the head is waited for
_SHORT_HEADS: Final = tuple(bytes((_TEXT_FIN, size)) for size in range(126))
# 1004 is undefined; 1005, 1006 and 1015 never travel; 1000-2999 not listed here are reserved.
_PEER_CLOSE_CODES: Final = frozenset((1000, 1001, 1002, 1003, *range(1007, 1015)))


class Ping(msgspec.Struct, frozen=True):
    """A ping of the peer's; it wants `pong_frame(payload)`."""

    payload: bytes


class Pong(msgspec.Struct, frozen=True):
    """A pong of the WebSocket layer. Nobody here asked for one."""

    payload: bytes


class Close(msgspec.Struct, frozen=True):
    """The peer's close frame, the last item of a stream; `code` is None where it gave none."""

    code: int | None
    reason: str


class Violation(msgspec.Struct, frozen=True):
    """The peer broke a rule: close with `code`. The last item of a stream; `reason` holds nothing of the peer's."""

    code: int
    reason: str


Item = bytes | Ping | Pong | Close | Violation
"""What a stream consists of. Plain `bytes` is a whole text message in valid UTF-8."""


class _Broken(Exception):
    """Raised within the parser; becomes the stream's last item."""

    def __init__(self, code: int, reason: str) -> None:
        self.violation = Violation(code, reason)


class _Pending:
    """What a parser holds only while a frame or a message is incomplete, or after the end."""

    __slots__ = ("ended", "held", "message", "need")

    def __init__(self) -> None:
        self.held = bytearray()  # bytes of an incomplete frame
        self.need = 0  # so many must be held before another look is worth it
        self.message: bytearray | None = None  # the fragments so far
        self.ended = False


class FrameParser:
    """One connection's incoming stream. Idle it is two slots; what is incomplete lives in a `_Pending`.

    `max_message_bytes` bounds a message, fragments included, and is enforced as soon as a header announces more.
    """

    __slots__ = ("_limit", "_pending")

    def __init__(self, max_message_bytes: int) -> None:
        self._limit = max_message_bytes
        self._pending: _Pending | None = None

    def feed(self, data: bytes) -> list[Item]:
        """The items that `data` completes, in order. After a `Close` or a `Violation` everything is ignored."""
        items: list[Item] = []
        if self._pending is None:
            at = self._take_plain_texts(data, items)
            if at == len(data):
                return items
            data = data[at:]
        self._feed_any(data, items)
        return items

    def _take_plain_texts(self, data: bytes, items: list[Item]) -> int:
        """Append the whole text frames below 64 KiB at the start of `data`, nearly all that ever comes; where they
        end."""
        at, end = 0, len(data)
        while at + 6 <= end and data[at] == _TEXT_FIN:
            size, mask_at = data[at + 1] - 0x80, at + 2  # negative where there is no mask
            if size > _SHORT:
                if size != 126:
                    break
                size, mask_at = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
                if size <= _SHORT:
                    break
            body = mask_at + _MASK_BYTES
            after = body + size
            if not 0 <= size <= self._limit or after > end:
                break
            text = apply_mask(data[body:after], data[mask_at:body])
            if not (text.isascii() or _is_utf8(text)):
                break
            items.append(text)
            at = after
        return at

    def _feed_any(self, data: bytes, items: list[Item]) -> None:
        """Everything but the simplest case: long frames, parts of one, control frames, faults."""
        pending = self._pending or _Pending()
        if pending.ended:
            return
        if pending.held:
            pending.held += data
            if len(pending.held) < pending.need:
                return
            data = bytes(pending.held)
            pending.held.clear()
        try:
            self._take_frames(data, pending, items)
        except _Broken as broken:
            items.append(broken.violation)
            pending.ended = True
        if pending.ended:
            pending.held, pending.message = bytearray(), None
        idle = not (pending.held or pending.ended or pending.message is not None)
        self._pending = None if idle else pending

    def _take_frames(self, data: bytes, pending: _Pending, items: list[Item]) -> None:
        """Append the items of all whole frames; keep the rest in `pending.held`."""
        at, end = 0, len(data)
        while at < end:
            size, mask_at = self._read_head(data, at, pending.message)
            body_at = mask_at + _MASK_BYTES
            if body_at + size > end:
                pending.held += data[at:]
                pending.need = body_at + size - at
                return
            payload = apply_mask(data[body_at : body_at + size], data[mask_at:body_at])
            item = self._take_payload(data[at], payload, pending)
            at = body_at + size
            if item is None:
                continue
            items.append(item)
            if type(item) is Close:
                pending.ended = True
                return

    def _read_head(self, data: bytes, at: int, message: bytearray | None) -> tuple[int, int]:
        """(payload bytes, offset of the mask) of the frame at `at`; of half a head, `_HEAD_MISSING` and its end.

        Faults are reported as early as their byte is there, so that nobody can make us wait for the rest.
        """
        first = data[at]
        _check_first_byte(first, message)
        if len(data) < at + 2:
            return _HEAD_MISSING, at + 2
        size = data[at + 1] & 0x7F
        if not data[at + 1] & 0x80:
            raise _Broken(PROTOCOL_ERROR, "frame is not masked")
        mask_at = at + 2
        if first & 0x8:
            if size > _SHORT:
                raise _Broken(PROTOCOL_ERROR, "control frame too long")
        elif size > _SHORT:
            width = 2 if size == 126 else 8
            mask_at += width
            if len(data) < mask_at:
                return _HEAD_MISSING, mask_at
            size = int.from_bytes(data[at + 2 : mask_at], "big")
            if size >> 63 or size <= (_SHORT if width == 2 else 0xFFFF):
                raise _Broken(PROTOCOL_ERROR, "frame length is not in its shortest form")
        if not first & 0x8 and size + (len(message) if message else 0) > self._limit:
            raise _Broken(TOO_BIG, "message too big")
        return size, mask_at

    def _take_payload(self, first: int, payload: bytes, pending: _Pending) -> Item | None:
        """The item that this frame completes, None for a fragment that is not the last."""
        opcode = first & 0xF
        if opcode == _PING:
            return Ping(payload)
        if opcode == _PONG:
            return Pong(payload)
        if opcode == _CLOSE:
            return _read_close(payload)
        if pending.message is None:
            if first & _FIN:
                return _checked_text(payload)
            pending.message = bytearray(payload)
            return None
        pending.message += payload
        if not first & _FIN:
            return None
        text, pending.message = bytes(pending.message), None
        return _checked_text(text)


def text_frame(text: bytes) -> bytes:
    """`text` (UTF-8) as one whole frame."""
    size = len(text)
    if size < 126:
        return _SHORT_HEADS[size] + text
    if size < 0x10000:
        return b"\x81\x7e" + size.to_bytes(2, "big") + text
    return b"\x81\x7f" + size.to_bytes(8, "big") + text


def pong_frame(payload: bytes) -> bytes:
    """The answer to a ping with this payload (at most 125 bytes)."""
    return bytes((_FIN | _PONG, len(payload))) + payload


def close_frame(code: int | None) -> bytes:
    """A close frame; without a code it is empty, the right answer to an empty one."""
    return b"\x88\x00" if code is None else b"\x88\x02" + code.to_bytes(2, "big")


def _check_first_byte(first: int, message: bytearray | None) -> None:
    opcode = first & 0xF
    if first & _RESERVED_BITS:
        raise _Broken(PROTOCOL_ERROR, "reserved bits are set")
    if opcode not in _OPCODES:
        raise _Broken(PROTOCOL_ERROR, "reserved opcode")
    if opcode & 0x8:
        if not first & _FIN:
            raise _Broken(PROTOCOL_ERROR, "fragmented control frame")
    elif (opcode == _CONTINUATION) != (message is not None):
        raise _Broken(PROTOCOL_ERROR, "continuation of nothing, or a message within a message")
    elif opcode == _BINARY:
        raise _Broken(UNSUPPORTED_DATA, "binary message")


def _read_close(payload: bytes) -> Close:
    if not payload:
        return Close(None, "")
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not (code in _PEER_CLOSE_CODES or 3000 <= code < 5000):
        raise _Broken(PROTOCOL_ERROR, "bad close code")
    return Close(code, _checked_text(payload[2:]).decode())


def _checked_text(text: bytes) -> bytes:
    if text.isascii() or _is_utf8(text):
        return text
    raise _Broken(INVALID_DATA, "text is not UTF-8")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
