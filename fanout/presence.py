"""Presence: who is connected where, and which of a device's connections is the newest."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import count
from typing import NamedTuple, Protocol


class Presence(Protocol):
    """One per node. A connection is (user, generation); generations only grow, over all nodes, so of two connections
    of one device the one with the lower generation is the older. A `device_id` of `""` is no device.

    Calls may raise what their database raises; none leaves anything behind that isn't put right within 30 s, or, after
    a crash of the node, when its lease has run out."""

    async def start(self) -> None:
        """Makes the node known to others."""

    async def look(self) -> None:
        """Who else lives, now. A node looks once it hears others: those that joined before said so before, too, and
        those that join later are heard."""

    async def stop(self) -> None:
        """Takes the node and its connections out. Does not raise."""

    async def enter(self, connections: list[tuple[int, str]]) -> list[int]:
        """(user, device) of new connections -> their generations, in the same order, rising. Batch them."""

    async def leave(self, connections: list[tuple[int, int]]) -> None:
        """(user, generation) of connections that ended. Unknown ones are ignored. Does not raise: what can't be taken
        out now is later."""

    def other_nodes(self) -> bool:
        """Whether any other node lives: is there anybody to announce to? Costs nothing; up to a renewal old."""

    def strangers(self) -> bool:
        """Likewise, apart from workers of the same parent."""

    async def newer(self, connections: list[tuple[int, str, int]]) -> list[tuple[int, str, int]]:
        """(user, device, generation) of connections here -> (user, device, newest generation), once for each device
        that has a newer connection than one given, on whichever node: what `Delivery.replace` takes."""

    async def elsewhere(self, connections: list[tuple[int, str, int]]) -> list[int]:
        """(user, device, generation) of connections here -> how many older ones the user has on other nodes that live,
        those of the same device left out, since they end. Where it is not known, none."""

    async def connections_of(self, user_id: int) -> list[Held]:
        """All of a user's connections, on all nodes that live, oldest first."""


class Held(NamedTuple):
    """A connection, and the name of the node that holds it."""

    device_id: str
    node: str


class Peer(NamedTuple):
    """Another node as somebody who writes to it sees it. An incarnation is one stretch of a node's life: after its
    lease has run out it comes back as another."""

    incarnation: str
    partition: int


class Where(NamedTuple):
    """Which other nodes hold whom. A user in no node's hands is not in `holders`; `unsure` may hold anybody."""

    holders: Mapping[int, Collection[Peer]]
    unsure: Collection[Peer]
    peers: int  # how many other nodes there are


class Locator(Protocol):
    """What a broker asks that tells each node only what concerns it. A hint, as is all that it says."""

    @property
    def partition(self) -> int | None:
        """Which one this node reads for itself."""

    def is_own(self, incarnation: str) -> bool:
        """Whether that is this node, now or earlier in this run."""

    def look_soon(self) -> None:
        """Somebody has come or gone."""

    async def nodes_of(self, user_ids: Collection[int]) -> Where | None:
        """None where it is not known just now: tell everybody. Never raises, and never waits for long. Nodes of the
        own family are left out."""


class MemoryPresence:
    """For one process. A user's connections are one tuple: nearly everybody has one, and it is the smallest thing."""

    def __init__(self, node: str = "") -> None:
        self._node = node
        self._users: dict[int, tuple[tuple[int, str], ...]] = {}  # user -> (generation, device), rising
        self._generations = count(1)

    async def start(self) -> None: ...

    async def look(self) -> None: ...

    async def stop(self) -> None:
        self._users.clear()

    async def enter(self, connections: list[tuple[int, str]]) -> list[int]:
        generations = []
        for user_id, device_id in connections:
            generation = next(self._generations)
            self._users[user_id] = (*self._users.get(user_id, ()), (generation, device_id))
            generations.append(generation)
        return generations

    async def leave(self, connections: list[tuple[int, int]]) -> None:
        self.take_out(connections)

    def take_out(self, connections: list[tuple[int, int]]) -> None:
        """`leave`, at once."""
        for user_id, generation in connections:
            remaining = tuple(entry for entry in self._users.get(user_id, ()) if entry[0] != generation)
            if remaining:
                self._users[user_id] = remaining
            else:
                self._users.pop(user_id, None)

    def other_nodes(self) -> bool:
        return False

    def strangers(self) -> bool:
        return False

    async def newer(self, connections: list[tuple[int, str, int]]) -> list[tuple[int, str, int]]:
        found: dict[tuple[int, str], int] = {}
        for user_id, device_id, generation in connections:
            newest = max((own for own, device in self._users.get(user_id, ()) if device == device_id), default=0)
            if device_id and newest > generation:
                found[user_id, device_id] = newest
        return [(user_id, device_id, newest) for (user_id, device_id), newest in found.items()]

    async def elsewhere(self, connections: list[tuple[int, str, int]]) -> list[int]:
        return [0] * len(connections)

    async def connections_of(self, user_id: int) -> list[Held]:
        return [Held(device, self._node) for _, device in self.entries_of(user_id)]

    def entries_of(self, user_id: int) -> tuple[tuple[int, str], ...]:
        """(generation, device) of a user's connections, oldest first."""
        return self._users.get(user_id, ())


def is_in_the_way(older: tuple[int, str], connection: tuple[int, str, int]) -> bool:
    """Whether a (generation, device) of the same user counts against the limit when that one connects."""
    _, device_id, generation = connection
    return older[0] < generation and (not device_id or older[1] != device_id)
