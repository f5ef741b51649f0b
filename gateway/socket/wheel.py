"""One clock for every ping and time-out: a timing wheel on the loop's monotonic clock.

A timer per connection would cost a heap of tens of thousands of handles; here each connection stands in one slot of
the wheel, moving it is two set operations, and one timer turns the wheel for all.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

log = logging.getLogger(__name__)

# The loop stood still for so long (suspended, swapped out) that peers' answers lie unread in the sockets.
STALL_S = 1.0


class Timed(Protocol):
    """Something that waits for one deadline at a time."""

    tick: int
    """The wheel's own mark: the slot it stands in, 0 where it waits for nothing."""

    def on_due(self) -> None:
        """The deadline has come. It is not in the wheel any more."""


class Wheel:
    """Deadlines of up to hours, `tick_s` apart: never early, at most a tick (and the loop's lag) late."""

    __slots__ = ("_loop", "_slots", "_tick_s", "_timer", "_turned")

    def __init__(self, loop: asyncio.AbstractEventLoop, *, tick_s: float = 0.1) -> None:
        self._loop = loop
        self._tick_s = tick_s
        self._slots: dict[int, set[Timed]] = {}
        self._turned = 0  # the last tick whose slot was emptied
        self._timer: asyncio.TimerHandle | None = None

    def set(self, item: Timed, delay_s: float) -> None:
        """Call `item.on_due` after `delay_s` seconds instead of whenever it was due before."""
        if item.tick:
            self.cancel(item)
        now = self._loop.time()
        if self._timer is None:
            self._turned = int(now / self._tick_s)
            self._wait()
        # Rounded up, and at least one tick ahead of the slots that are emptied already.
        item.tick = max(int((now + delay_s) / self._tick_s) + 1, self._turned + 1)
        slot = self._slots.get(item.tick)
        if slot is None:
            self._slots[item.tick] = {item}
        else:
            slot.add(item)

    def cancel(self, item: Timed) -> None:
        """Forget `item`'s deadline, if it has one."""
        slot = self._slots.get(item.tick)
        item.tick = 0
        if slot is None:
            return
        slot.discard(item)

    def _wait(self) -> None:
        self._timer = self._loop.call_at((self._turned + 1) * self._tick_s, self._turn, False)

    def _turn(self, forgiven: bool) -> None:
        """Empty all slots up to now. The wheel stands still while nobody waits."""
        now = self._loop.time()
        if not forgiven and now - (self._turned + 1) * self._tick_s > STALL_S:
            # A stall of ours is not the peers' fault: let the loop read what they sent, then judge.
            self._timer = self._loop.call_later(self._tick_s, self._turn, True)
            return
        upto = int(now / self._tick_s)
        while self._turned < upto:
            self._turned += 1
            for item in self._slots.pop(self._turned, ()):
                self._fire(item)
        if self._slots:
            self._wait()
        else:
            self._timer = None

    def _fire(self, item: Timed) -> None:
        if item.tick != self._turned:
            return  # an earlier item of this slot moved or cancelled it
        item.tick = 0
        try:
            item.on_due()
        except Exception:  # one item's fault must not stop the clock of all others
            log.exception("a deadline's handler failed")
