"""What was gathered for popular creators and for large groups reaches them, a while after it happened."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Final, Protocol

from gateway.clock.rhythm import Chore
from gateway.clock.session import Connect, OwnSession
from handlers.deed import Delivered

if TYPE_CHECKING:
    from asyncpg import Connection

SETTLE_EVERY_S: Final = 0.1
SETTLE_SHARE: Final = 0.1  # of the time, where there is much: then it is gathered longer, up to
SETTLE_AT_LEAST_EVERY_S: Final = 0.5
TELL_GROUPS_EVERY_S: Final = 0.25
TELL_GROUPS_REST_S: Final = 0.05

Deliver = Callable[[Sequence[Delivered]], None]
"""Gets each committed event."""


class AnySettler(Protocol):
    """Of creators or of groups."""

    @property
    def is_behind(self) -> bool:
        """Whether more was due than one transaction takes."""
        ...

    async def settle(self, conn: Connection) -> Sequence[Delivered]:
        """Settle what is due in one transaction; returns the committed events."""
        ...


class CreatorClock:
    """Settles accruals."""

    def __init__(self, *, connect: Connect, settler: AnySettler, deliver: Deliver) -> None:
        self._session = OwnSession(connect)
        self._settler = settler
        self._deliver = deliver

    async def settle(self) -> None:
        """Serve until cancelled: whatever waits for creators, at most once a second each."""
        chore = Chore("settle", self._settle)
        rest_s = SETTLE_EVERY_S
        with closing(self._session):
            while True:
                await asyncio.sleep(rest_s)
                begun = time.monotonic()
                await chore.attempt()
                took_s = time.monotonic() - begun
                rest_s = min(max(took_s / SETTLE_SHARE, SETTLE_EVERY_S), SETTLE_AT_LEAST_EVERY_S)

    async def _settle(self) -> None:
        await _settle_all(self._settler, self._session, self._deliver)


class GroupClock:
    """Tells large groups what was gathered for them, as soon as it may. `tell_now` is set where something was just
    gathered here."""

    def __init__(self, *, connect: Connect, settler: AnySettler, deliver: Deliver, tell_now: asyncio.Event) -> None:
        self._session = OwnSession(connect)
        self._settler = settler
        self._deliver = deliver
        self._tell_now = tell_now

    async def tell_groups(self) -> None:
        """Serve until cancelled."""
        with closing(self._session):
            await Chore("groups", self._tell).when_woken(self._tell_now, TELL_GROUPS_EVERY_S)

    async def _tell(self) -> None:
        await _settle_all(self._settler, self._session, self._deliver)
        await asyncio.sleep(TELL_GROUPS_REST_S)  # a busy group asks for it with each batch


async def _settle_all(settler: AnySettler, own: OwnSession, deliver: Deliver) -> None:
    """Transaction after transaction, until nothing more is due."""
    async with own as conn:
        deliver(await settler.settle(conn))
        while settler.is_behind:
            deliver(await settler.settle(conn))
