"""A connection as the fan-out sees it: where it writes, and the last `seq` it was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

NOT_STARTED = -1


class Sink(Protocol):
    """Where frames go. The socket's connection is one; nothing here knows that it is a socket."""

    @property
    def congested(self) -> bool:
        """True while nothing more should be written: the peer reads too slowly, or the connection is closing.
        Whoever turns it off calls `Delivery.writable` afterwards."""

    def write(self, frame: bytes, /) -> None:
        """Queues a finished frame. Never raises and never blocks; frames keep their order."""

    def cut(self, code: str, /) -> None:
        """Ends the connection with a `closing` code of the specification (section 2)."""


class Cursor:
    """One connection's place in its user's inbox.

    The invariant of the whole room: a sink is given `at + 1`, and nothing else, and `at` moves with the write, in the
    same step. So each connection sees its user's events in order, without a gap and without a repetition, whatever
    calls come in whatever order. Only `Delivery` changes a cursor. Plain slots and no task: thousands of them idle.
    """

    __slots__ = (  # noqa: RUF023 - grouped by meaning
        "user_id", "device_id", "generation", "sink", "at", "head", "ceiling", "holds", "target",
        "live", "resumed", "pumping", "gone", "on_resumed", "early", "wake", "topics",
    )  # fmt: skip

    def __init__(self, user_id: int, sink: Sink, device_id: str, generation: int) -> None:
        self.user_id = user_id
        self.device_id = device_id
        self.generation = generation  # 0 until presence has said; may be set later by the owner
        self.sink = sink
        self.at = NOT_STARTED  # the last seq written to the sink
        self.head = 0  # the highest seq heard of; may be below `at`, since live events move `at` alone
        self.ceiling = 0  # while held: the head known when it began
        self.holds = 0
        self.target = 0  # the head of the start; reaching it is what `resumed` says
        self.live = False  # at + 1 may be written at once: resumed, no pump, not gone
        self.resumed = False
        self.pumping = False
        self.gone = False  # detached or cut: nothing is written any more
        self.on_resumed: Callable[[int], None] | None = None
        self.early: dict[int, bytes] | None = None  # live events that arrived while the pump runs; bounded
        self.wake: asyncio.Future[None] | None = None  # what a pausing pump waits for
        self.topics: set[str] | None = None

    def goal(self) -> int:
        """How far the pump may go now. It never falls: a ceiling is at least the head that was known when it was
        set, so a page that was read up to an earlier goal may be written whole although a hold came meanwhile."""
        if not self.resumed:
            return min(self.target, self.ceiling) if self.holds else self.target
        return min(self.head, self.ceiling) if self.holds else self.head
