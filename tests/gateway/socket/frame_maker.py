"""A client's side of RFC 6455 for tests, able to break every rule."""

from __future__ import annotations

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
KEY = b"\x37\xfa\x21\x3d"


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True, width: int | None = None
) -> bytes:
    """One frame; `width` forces the bytes of the extended length (0, 2 or 8)."""
    size = len(payload)
    if width is None:
        width = 0 if size < 126 else 2 if size < 65536 else 8
    short = {0: size, 2: 126, 8: 127}[width]
    head = bytes((fin << 7 | rsv << 4 | opcode, masked << 7 | short)) + (size.to_bytes(width, "big") if width else b"")
    if not masked:
        return head + payload
    return head + KEY + bytes(byte ^ KEY[index % 4] for index, byte in enumerate(payload))


def text(payload: str | bytes, **options: bool | int) -> bytes:
    """A text frame."""
    return frame(TEXT, payload.encode() if isinstance(payload, str) else payload, **options)  # type: ignore[arg-type]


def close(code: int | None = None, reason: bytes = b"") -> bytes:
    """A close frame."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)
