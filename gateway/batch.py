"""A batch of the lane within its transaction: which domain gets which deeds, and what each learns of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from handlers.deed import Answer, BatchResult, Deed, Delivered

if TYPE_CHECKING:
    from asyncpg import Connection

    from handlers.deed import Concern, DeedHandler


class Part(NamedTuple):
    """One domain's deeds of a batch, and whom they concern."""

    handler: DeedHandler
    deeds: list[Deed]
    concern: Concern


async def resolve(conn: Connection, handlers: Mapping[str, DeedHandler], deeds: Sequence[Deed]) -> list[Part]:
    """The deeds of each domain, whose heads are not locked yet. `handlers` names each event's domain."""
    return [Part(handler, part, await handler.resolve(conn, part)) for handler, part in _by_domain(handlers, deeds)]


async def run_in_turn(conn: Connection, parts: Sequence[Part], locked: dict[int, int]) -> BatchResult:
    """Each domain reads, decides and writes in its turn; the later ones see what the earlier ones have written,
    and each user's `seq` as they left it."""
    answers: list[Answer] = []
    events: list[Delivered] = []
    afterwards: list[Callable[[], None]] = []
    for part in parts:
        result = await part.handler.run(conn, part.deeds, part.concern, locked)
        answers += result.answers
        events += result.events
        afterwards += result.afterwards
        locked.update({event.user_id: event.seq for event in result.events})
    return BatchResult(answers, events, afterwards)


def _by_domain(handlers: Mapping[str, DeedHandler], deeds: Sequence[Deed]) -> list[tuple[DeedHandler, list[Deed]]]:
    """The deeds of each domain. One whose connection has an earlier deed of another domain here stays out, for
    its turn would come too early or too late: it waits for the next batch."""
    parts: dict[DeedHandler, list[Deed]] = {}
    domain_of: dict[object, DeedHandler] = {}
    behind: set[object] = set()
    for deed in deeds:
        handler = handlers[deed.event]
        key = deed.order_key
        if key is not None and (key in behind or domain_of.setdefault(key, handler) is not handler):
            behind.add(key)
            continue
        parts.setdefault(handler, []).append(deed)
    return list(parts.items())
