"""What goes into a batch's own commit: each partition of Kafka's moves by the records that the batch has answered, and
answers to commands are kept until they are sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from handlers.deed import Answer, Deed
from handlers.errors import Refusal, refusal_ack
from handlers.keys import first_given
from handlers.wire import encode
from storage import ingress
from storage.ingress import Outcome, Overtaken, Partition, Step

if TYPE_CHECKING:
    from asyncpg import Connection


async def take_steps(conn: Connection, answers: Sequence[Answer]) -> None:
    """Move the partitions of those deeds that have a place, and keep the answers that are to be sent.

    Each partition's deeds are there in their order, and none is answered behind one that waits. Raises
    storage.ingress.Overtaken where that does not begin where the partition stands: the batch must be rolled back then.
    """
    begun: dict[Partition, int] = {}
    ended: dict[Partition, int] = {}
    torn: set[Partition] = set()
    outcomes: list[Outcome] = []
    for deed, outcome in answers:
        if deed.place is None or outcome is None:
            continue
        topic, number, before, after, is_answered = deed.place
        partition = (topic, number)
        if ended.setdefault(partition, before) != before:
            torn.add(partition)
        begun.setdefault(partition, before)
        ended[partition] = after
        if is_answered:
            outcomes.append(_outcome(deed, outcome))
    if torn:
        raise Overtaken(torn)
    if outcomes:
        await ingress.insert_outcomes(conn, outcomes)
    if begun:
        await ingress.advance(conn, [Step(*each, before, ended[each]) for each, before in begun.items()])


def _outcome(deed: Deed, outcome: bytes | Refusal) -> Outcome:
    """{source, id, ok, data? | error?}: also of a repetition what was answered first."""
    assert deed.subject is not None
    ack = refusal_ack(outcome) if isinstance(outcome, Refusal) else first_given(outcome)
    return Outcome(
        deed.subject,
        b'{"source":%b,"id":%b,%b' % (encode(deed.subject), encode(deed.action_id), ack.removeprefix(b"{")),
    )
