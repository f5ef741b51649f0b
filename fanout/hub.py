"""Hub: the connections of this process, by user and by live topic. Knows nothing of order or delivery."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator

from fanout.cursor import Cursor

_NOBODY: dict[Cursor, None] = {}


class Hub:
    """All changes are O(1). Nearly every user has one connection, so one is kept bare and only more get a dict
    (used as an ordered set)."""

    def __init__(self) -> None:
        # Public to `Delivery` alone, whose hot path can't afford a call around the look-up.
        self.users: dict[int, Cursor | dict[Cursor, None]] = {}
        self._topics: dict[str, dict[Cursor, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Number of connections."""
        return self._count

    def __iter__(self) -> Iterator[Cursor]:
        """All connections. The hub must not change meanwhile, so no await in the loop."""
        for found in self.users.values():
            if isinstance(found, Cursor):
                yield found
            else:
                yield from found

    def cursors_of(self, user_id: int) -> tuple[Cursor, ...]:
        """A user's connections here, oldest first: a copy, which may be walked while connections come and go."""
        found = self.users.get(user_id)
        if found is None:
            return ()
        return (found,) if isinstance(found, Cursor) else tuple(found)

    def add(self, cursor: Cursor) -> None:
        self._count += 1
        found = self.users.setdefault(cursor.user_id, cursor)
        if found is cursor:
            return
        if isinstance(found, Cursor):
            self.users[cursor.user_id] = {found: None, cursor: None}
        else:
            found[cursor] = None

    def remove(self, cursor: Cursor) -> None:
        """Takes a connection out, of its topics too. Does nothing where it is not in."""
        found = self.users.get(cursor.user_id)
        if found is cursor:
            del self.users[cursor.user_id]
        elif isinstance(found, dict) and cursor in found:
            del found[cursor]
            if len(found) == 1:
                self.users[cursor.user_id] = next(iter(found))
        else:
            return
        self._count -= 1
        for topic in tuple(cursor.topics or ()):
            self.part(cursor, topic)

    def join(self, cursor: Cursor, topic: str) -> None:
        topic = sys.intern(topic)  # a thousand members share one string instead of keeping a thousand
        self._topics.setdefault(topic, {})[cursor] = None
        if cursor.topics is None:
            cursor.topics = set()
        cursor.topics.add(topic)

    def part(self, cursor: Cursor, topic: str) -> None:
        if cursor.topics is None or topic not in cursor.topics:
            return
        cursor.topics.remove(topic)
        members = self._topics[topic]
        del members[cursor]
        if not members:
            del self._topics[topic]

    def members(self, topic: str) -> Collection[Cursor]:
        """The subscribers here. The live set, not a copy."""
        return self._topics.get(topic, _NOBODY)

    def topics(self) -> Collection[str]:
        """The topics that anybody here listens to."""
        return self._topics.keys()

    def named_devices(self) -> list[tuple[int, str, int]]:
        """(user, device, generation) of all connections that named a device: what `Presence.newer` takes."""
        return [(c.user_id, c.device_id, c.generation) for c in self if c.device_id and c.generation and not c.gone]
