"""HS256 for the many: tokens of one issuer differ in payload and signature, and nearly all have the same header."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from typing import Final

MOST_HEADERS: Final = 16  # of one issuer there are one or two


class Hs256:
    """Reads tokens whose header stood in a good token before, a tenth of the work of PyJWT. What it reads, PyJWT reads
    alike (`tests/gateway/test_hs256.py` compares them); of any other it says None, and PyJWT judges it."""

    def __init__(self, secrets: Iterable[bytes]) -> None:
        # Copies of these know the key already: two of the four blocks that a signature hashes.
        self._keyed = [hmac.new(secret, digestmod=hashlib.sha256) for secret in secrets]
        self._headers: set[str] = set()

    def trust_header_of(self, token: str) -> None:
        """PyJWT, and whoever else looks at headers, has found this HS256 token good."""
        if len(self._headers) < MOST_HEADERS:
            self._headers.add(token.partition(".")[0])

    def payload(self, token: str) -> bytes | None:
        """What a good token signs; None where somebody else has to say."""
        signed, _, signature = token.rpartition(".")
        header, _, payload = signed.partition(".")
        if header not in self._headers or not token.isascii():
            return None
        message, given = signed.encode(), signature.encode()
        for keyed in self._keyed:
            made = keyed.copy()
            made.update(message)
            if hmac.compare_digest(_encode(made.digest()), given):
                return _decode(payload.encode())
        return None


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decode(segment: bytes) -> bytes | None:
    """None where the same bytes have another spelling, or the segment has characters that are passed over."""
    try:
        data = base64.urlsafe_b64decode(segment + b"==")
    except binascii.Error:
        return None
    return data if _encode(data) == segment else None
