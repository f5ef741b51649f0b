"""How far back an inbox reaches."""

from __future__ import annotations


def is_complete(last_seq: int, seq: int, oldest_seq: int) -> bool:
    """Whether a client that has everything up to `last_seq` can be brought up to date by replay: not
    where `last_seq` lies in the future, nor where retention overtook it."""
    return oldest_seq - 1 <= last_seq <= seq
