"""What backends say of tokens (spec 1 and 7)."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from handlers.wire import Request, UserId

TokenId = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[^\x00]*\Z")]


class RevokeRequest(Request, frozen=True):
    """All tokens that a user has now, or the one with this `jti`: exactly one of the two."""

    user_id: UserId | UnsetType = UNSET
    jti: TokenId | UnsetType = UNSET
