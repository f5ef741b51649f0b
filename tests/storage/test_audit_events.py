"""The audit of backends' events, of what inboxes keep and of what was seen: each planted fault is found."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg
import pytest

from handlers.events.applier import Applier
from handlers.events.rules import MOST_COPIED
from handlers.inbox.retention import Retention
from storage import notifications
from storage.audit import audit
from storage.audit_events import EVENTS_CHECKS
from tests.handlers.test_events import Told, event, people
from tests.storage.test_audit import SEQ, TWICE, fault, found_by
from tests.support.publishing import Desk

GIVEN_UP: Final = "an event that retention has given up is still kept"
BODY: Final = "an event has no body, or two"
RECIPIENTS: Final = "a broadcast's recipients are not those who have it"
COPIED: Final = "a copied event is of none that was taken, or more have it than was answered"
ANSWERED: Final = "a broadcast is not what was answered, or not done when it is"
SEEN: Final = "somebody has seen more notifications than there are"


async def be_busy(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    """Broadcasts 1 (for users 1 to 3, done), 2 (for 1 to 9, done in chunks), 3 (for 4 to 9, four of them so far) and 4
    (for 1), and a small event for 2 and 3; user 9 was trimmed; user 1 has seen their first."""
    await people(conn, 10)
    desk = Desk(pool, Told(), chunk_recipients=3)
    for recipients in ((1, 2, 3), range(1, 10), (4, 5, 6, 7, 8, 9, 404), (1,), (405,)):
        await desk.publish_event("feed", event(*recipients, data={"text": "x" * MOST_COPIED}))
    await desk.publish_event("feed", event(2, 3, id="small"))
    applier = Applier(chunk_recipients=4)
    for _ in range(4):
        await applier.apply(conn)
    assert await conn.fetchval("SELECT applied FROM broadcasts WHERE id = 3") == 4
    await conn.execute("DELETE FROM inbox WHERE user_id = 9; UPDATE heads SET oldest_seq = seq + 1 WHERE user_id = 9")
    await notifications.mark_seen(conn, 1, 1)


async def test_events_of_all_kinds_and_retention_are_right(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    await be_busy(conn, pool)
    assert await audit(conn) == []
    await Retention(keep_events=1, keep_days=30, every_s=0).run(conn)
    assert await conn.fetchval("SELECT max(oldest_seq) FROM heads") > 1
    assert await audit(conn) == []
    await conn.execute("UPDATE inbox SET created_at = $1", datetime.now(UTC) - timedelta(days=30, minutes=5))
    await conn.execute("UPDATE retention SET aged_to = aged_to - interval '10 minutes'")
    await Retention(keep_events=1, keep_days=30, every_s=0).run(conn)
    assert await conn.fetchval("SELECT count(*) FROM inbox") == 0
    assert await audit(conn) == []


FAULTS: Final = [
    fault("kept below the oldest", "UPDATE heads SET oldest_seq = 2 WHERE user_id = 2", GIVEN_UP),
    fault("trimmed without a word", "DELETE FROM inbox WHERE user_id = 2 AND seq = 1", SEQ, RECIPIENTS),
    fault("a body lost", "DELETE FROM broadcasts WHERE id = 4", BODY, RECIPIENTS),
    fault("a body of their own too", "UPDATE inbox SET data = '{}' WHERE user_id = 2 AND seq = 1", BODY),
    fault("neither of both", "UPDATE inbox SET broadcast_id = NULL WHERE user_id = 1 AND seq = 3", BODY, RECIPIENTS),
    fault("of another broadcast", "UPDATE inbox SET broadcast_id = 4 WHERE user_id = 2 AND seq = 1", RECIPIENTS),
    fault(
        "given to somebody else",
        "UPDATE inbox SET user_id = 10 WHERE user_id = 1 AND seq = 1; UPDATE heads SET seq = 1 WHERE user_id = 10;"
        "UPDATE inbox SET seq = seq - 1 WHERE user_id = 1; UPDATE heads SET seq = seq - 1 WHERE user_id = 1",
        RECIPIENTS,
    ),
    fault(
        "given twice",
        "INSERT INTO inbox SELECT user_id, 4, id, type, event_type, data, created_at, broadcast_id FROM inbox"
        " WHERE user_id = 1 AND seq = 1; UPDATE heads SET seq = 4 WHERE user_id = 1",
        TWICE,
    ),
    fault("passed over", "UPDATE broadcasts SET applied = 6, done_at = now() WHERE id = 3", RECIPIENTS),
    fault("forgotten how far", "UPDATE broadcasts SET applied = 3 WHERE id = 3", RECIPIENTS),
    fault("done too early", "UPDATE broadcasts SET done_at = now() WHERE id = 3", ANSWERED),
    fault("never done", "UPDATE broadcasts SET done_at = NULL WHERE id = 2", ANSWERED),
    fault("applied beyond the end", "UPDATE broadcasts SET applied = 7 WHERE id = 3", ANSWERED, RECIPIENTS),
    fault("answered otherwise", "UPDATE ingested_events SET accepted = accepted + 1 WHERE accepted = 9", ANSWERED),
    fault("taken by nobody", "DELETE FROM ingested_events WHERE accepted = 3", ANSWERED),
    fault("a copy of nothing", "DELETE FROM ingested_events WHERE id = 'small'", COPIED),
    fault("a copy too many", "UPDATE ingested_events SET accepted = 1 WHERE id = 'small'", COPIED),
    fault("a copy of another's", "UPDATE ingested_events SET fingerprint = sha256('x') WHERE id = 'small'", COPIED),
    fault("a copy without its moment", "UPDATE inbox SET sent_at = NULL WHERE event_id = 'small'", BODY),
    fault("seen beyond the head", "UPDATE notifications_seen SET seq = 100", SEEN),
    fault("seen by nobody", "UPDATE notifications_seen SET user_id = 404", SEEN),
]


@pytest.mark.parametrize(("sql", "checks"), FAULTS)
async def test_a_planted_fault_is_found(
    conn: asyncpg.Connection, pool: asyncpg.Pool, sql: str, checks: tuple[str, ...]
) -> None:
    await be_busy(conn, pool)
    await conn.execute(sql)
    assert await found_by(conn) == set(checks)


def test_each_check_has_a_fault_of_its_own() -> None:
    assert {fault.values[1][0] for fault in FAULTS} >= EVENTS_CHECKS.keys()  # type: ignore[attr-defined]
