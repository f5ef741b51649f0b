"""The one small interface to whoever brings pushes to phones, in the shape of FCM's HTTP v1."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

Result = Literal[
    "sent",
    "gone",  # the token is nobody's any more
    "refused",  # it will never be taken
    "later",  # it was certainly not delivered, and may be another time
    "unknown",  # it may have been delivered
]


class Answer(NamedTuple):
    """What became of a push. With `later`: not before so many seconds; `is_away` where that holds for all pushes."""

    result: Result
    retry_after_s: float = 0.0
    is_away: bool = False


class Provider(Protocol):
    """Brings pushes to devices."""

    async def send(self, message: dict[str, Any]) -> Answer:
        """One message: `{token, notification?: {title, body}, data: {…: text}, android | apns | webpush: {…}}`.

        May be cancelled at any time. Does not raise: what goes wrong is `unknown` unless it is known better.
        """
        ...

    async def close(self) -> None:
        """Give connections back."""
        ...
