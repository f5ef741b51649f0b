"""Deeds of any domain, and batches of them as the lane runs them, on a connection of the test's own."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.routes import ENGAGEMENT, MESSAGING, PROFILE, UPLOADS
from handlers.deed import BatchResult, Deed, DeedHandler, Delivered, fingerprint
from handlers.errors import Refusal
from handlers.inbox.envelope import render
from storage import heads

if TYPE_CHECKING:
    from asyncpg import Connection

_ids = itertools.count(1)
_REQUESTS = ENGAGEMENT | UPLOADS | PROFILE | MESSAGING


def deed(user_id: int, event: str, *, action_id: str = "", **fields: Any) -> Deed:
    """A deed as a door makes it, with an action id of its own unless one is given; where there is any."""
    own = {"actionId": action_id or f"deed-{next(_ids):08}"} if "actionId" in _fields_of(event) else {}
    payload = json.dumps({**fields, **own}).encode()
    return Deed(
        user_id=user_id,
        event=event,
        request=msgspec.json.decode(payload, type=_REQUESTS[event]),
        fingerprint=fingerprint(event, payload),
        received_at=asyncio.get_running_loop().time(),
        order_key=user_id,
        answer=lambda _: None,
    )


def _fields_of(event: str) -> tuple[str, ...]:
    return _REQUESTS[event].__struct_encode_fields__


async def run_batch(
    conn: Connection,
    handler: DeedHandler,
    deeds: Sequence[Deed],
    *,
    skip_locked: bool = False,
    meanwhile: Awaitable[Any] | None = None,
) -> BatchResult:
    """One batch as the lane runs it, in one transaction; each deed has its answer, in order.

    `meanwhile` is awaited between resolving and locking, when others can still come first.
    """
    concern = await handler.resolve(conn, deeds)
    if meanwhile is not None:
        await meanwhile
    async with conn.transaction():
        locked = await heads.lock(conn, concern.user_ids, skip_locked=skip_locked)
        result = await handler.run(conn, deeds, concern, locked)
    assert [answer.deed for answer in result.answers] == list(deeds)
    return result


class Runs:
    """Runs batches of one domain, one transaction each."""

    def __init__(self, conn: Connection, handler: DeedHandler) -> None:
        self._conn = conn
        self._handler = handler
        self.events: list[Delivered] = []

    async def run(self, *deeds: Deed, skip_locked: bool = False, meanwhile: Any = None) -> list[Any]:
        """The answers in the order of the deeds: whole acks, refusals' codes, or None for the next batch."""
        result = await run_batch(self._conn, self._handler, deeds, skip_locked=skip_locked, meanwhile=meanwhile)
        self.events += result.events
        return [readable(answer.outcome) for answer in result.answers]

    async def data(self, *deeds: Deed) -> list[Any]:
        """`run`, which must succeed: the data of each ack."""
        answers = await self.run(*deeds)
        assert all(answer["ok"] for answer in answers), answers
        return [answer["data"] for answer in answers]

    def told(self, user_id: int) -> list[Any]:
        """The envelopes of one user so far."""
        return [json.loads(render(event.row)) for event in self.events if event.user_id == user_id]


def readable(outcome: bytes | Refusal | None) -> Any:
    """The ack, the refusal's code, or None for the next batch."""
    if isinstance(outcome, Refusal):
        return outcome.code
    return None if outcome is None else json.loads(outcome)
