"""A provider that brings pushes to a file: for tests, and to see what would be sent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import msgspec

from handlers.push.provider import Answer

MOST_BYTES: Final = 16 * 2**20  # then it begins anew


class RecordingProvider:
    """Writes one line of JSON a push, tokens and texts included: nobody but the server's own user may read it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def send(self, message: dict[str, Any]) -> Answer:
        """Into the file, before anything else happens."""
        line = msgspec.json.encode({"message": message}) + b"\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        file = os.open(self._path, flags, 0o600)
        try:
            if os.fstat(file).st_size > MOST_BYTES:
                os.ftruncate(file, 0)
            os.write(file, line)
        finally:
            os.close(file)
        return Answer("sent")

    async def close(self) -> None:
        """There is nothing to give back."""
