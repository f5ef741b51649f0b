"""Names of live topics, and when two bodies of one event are the same."""

from __future__ import annotations

import re
from typing import Final

_LIVE_TOPIC: Final = re.compile(r"live:[A-Za-z0-9._:-]{1,64}")


def is_live_topic(topic: str) -> bool:
    """True for `live:{name}`, the name being 1 to 64 of `A-Z a-z 0-9 . _ : -`: open to every user."""
    return _LIVE_TOPIC.fullmatch(topic) is not None
