"""What makes a chore run now instead of at its next time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Alarms:
    """Each is set by whoever has left something to the chore that waits for it."""

    compare: asyncio.Event = field(default_factory=asyncio.Event)  # hints were missed: heads are to be compared
    apply: asyncio.Event = field(default_factory=asyncio.Event)  # a broadcast waits for its recipients
    tell_groups: asyncio.Event = field(default_factory=asyncio.Event)  # a large group has news
