"""What an operator may say of an award."""

from __future__ import annotations

from typing import Final

# Whatever else pays does so once for ever per (actor, video): a number a day would mean nothing there.
CAPPED: Final = frozenset({"comment_posted"})


def can_have_cap(action: str) -> bool:
    """Whether the action pays more than once, so that a number a day can bound it."""
    return action in CAPPED
