"""The audit of conversations, messages, read pointers and blocks: each planted fault is found."""

from __future__ import annotations

from typing import Final

import asyncpg
import pytest

from handlers.messaging.ids import direct_id, message_id
from storage.audit import audit
from storage.audit_messaging import MESSAGING_CHECKS
from tests.storage.test_audit import fault, found_by
from tests.support.chats import Chats, read

NUMBERS: Final = "numbers of messages are not gapless up to the last"
LAST: Final = "a conversation does not show its last message"
ID: Final = "a message's id does not carry its number, or stands twice"
OWN: Final = "own messages behind a read pointer are not counted right"
POINTER: Final = "a read pointer stands where no message is, or previews do"
NOBODY: Final = "somebody takes part in nothing, or is nobody"
DIRECT: Final = "a direct conversation is not that of two"
PAIRS: Final = "two have more than one direct conversation"
WAITS: Final = "messages wait to be told, and nobody knows"
FLAG: Final = "somebody has blocked others, and their row does not say so"
BLOCKS: Final = "somebody has blocked themselves, or nobody"

PAIR: Final = direct_id(1, 2)  # four messages, the last one 2's, read up to the second by 1
EMPTY: Final = direct_id(1, 3)


async def be_busy(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    """Two direct conversations, one without a message, and a group of four with a message that waits to be told."""
    chats = Chats(conn, pool, gather_above=3)
    await chats.people(5)
    await chats.talk(1, 2)
    await chats.talk(1, 3)
    sent = [await chats.say(user, PAIR, f"text {user}") for user in (1, 2, 1, 2)]
    await chats.data(read(1, PAIR, sent[1]))
    group = await chats.talk(1, 2, 3, 4)
    await chats.say(1, group, "x" * 60)
    await chats.say(4, group, messageType="gif", mediaUrl="https://x", content=None)
    await chats.conversations.block(5, 1)


async def test_conversations_of_all_kinds_are_right(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    await be_busy(conn, pool)
    assert await audit(conn) == []


def of(conversation: str) -> str:
    return f"conversation_id = '{conversation}'"


FAULTS: Final = [
    fault("a message lost", f"DELETE FROM messages WHERE {of(PAIR)} AND number = 2", NUMBERS, OWN),
    fault("the last lost", f"DELETE FROM messages WHERE {of(PAIR)} AND number = 4", NUMBERS, LAST, OWN),
    fault("an own one lost", f"DELETE FROM messages WHERE {of(PAIR)} AND number = 3", NUMBERS, OWN),
    fault("a number skipped", f"UPDATE messages SET number = 7 WHERE {of(PAIR)} AND number = 4", NUMBERS, LAST, ID),
    fault("a conversation lost", f"DELETE FROM conversations WHERE id = '{EMPTY}'", NOBODY),
    fault("another last id", f"UPDATE conversations SET last_message_id = id WHERE id = '{PAIR}'", LAST),
    fault("another time", f"UPDATE conversations SET last_message_at = now() WHERE id = '{PAIR}'", LAST),
    fault("another preview", f"UPDATE conversations SET last_message_text = 'tex!' WHERE id = '{PAIR}'", LAST),
    fault("a preview of nothing", f"UPDATE conversations SET last_message_text = '' WHERE id = '{EMPTY}'", LAST),
    fault(
        "another number's id",
        f"UPDATE messages SET id = '{message_id(9, 'x')}' WHERE {of(PAIR)} AND number = 1", ID,
    ),
    fault(
        "an id twice",
        f"INSERT INTO messages SELECT '{EMPTY}', 1, id, 1, 0, content, NULL, created_at FROM messages"
        f" WHERE {of(PAIR)} AND number = 1; UPDATE conversations c SET last_number = 1, previewed_number = 1,"
        f" last_message_id = m.id, last_message_text = 'text', last_message_at = m.created_at FROM messages m"
        f" WHERE c.id = '{EMPTY}' AND m.{of(EMPTY)}; UPDATE participants SET own_after = 1 WHERE {of(EMPTY)}"
        " AND user_id = 1",
        ID,
    ),
    fault("own ones forgotten", f"UPDATE participants SET own_after = 0 WHERE {of(PAIR)} AND user_id = 2", OWN),
    fault("own ones twice", f"UPDATE participants SET own_after = own_after + 1 WHERE {of(EMPTY)}", OWN),
    fault("read beyond the end", f"UPDATE participants SET read_number = 1 WHERE {of(EMPTY)}", POINTER),
    fault("previewed beyond the end", f"UPDATE conversations SET previewed_number = 1 WHERE id = '{EMPTY}'", POINTER),
    fault("nobody takes part", f"UPDATE participants SET user_id = 404 WHERE {of(EMPTY)} AND user_id = 3", NOBODY),
    fault("one has left", f"DELETE FROM participants WHERE {of(EMPTY)} AND user_id = 3", DIRECT),
    fault("a third one", f"INSERT INTO participants VALUES ('{EMPTY}', 4, 0, 0, now())", DIRECT),
    fault("a title", f"UPDATE conversations SET title = 'us' WHERE id = '{EMPTY}'", DIRECT),
    fault(
        "a second one",
        f"UPDATE participants SET user_id = 2 WHERE {of(EMPTY)} AND user_id = 3", PAIRS,
    ),
    fault("forgotten previews", "DELETE FROM gathered", WAITS),
    fault("told too little", f"UPDATE conversations SET previewed_number = 3 WHERE id = '{PAIR}'", WAITS),
    fault("blocked by themselves", "UPDATE blocks SET blocked_id = 5", BLOCKS),
    fault("blocked by nobody", "UPDATE blocks SET blocker_id = 404", BLOCKS, FLAG),
    fault("a forgotten block", "UPDATE users SET has_blocked = false", FLAG),
    fault("a block that is none", "DELETE FROM blocks", FLAG),
    fault("nobody is blocked", "UPDATE blocks SET blocked_id = 404", BLOCKS),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "checks"), FAULTS)
async def test_a_planted_fault_is_found(
    conn: asyncpg.Connection, pool: asyncpg.Pool, sql: str, checks: tuple[str, ...]
) -> None:
    await be_busy(conn, pool)
    await conn.execute(sql)
    assert await found_by(conn) == set(checks)


def test_each_check_has_a_fault_of_its_own() -> None:
    assert {fault.values[1][0] for fault in FAULTS} >= MESSAGING_CHECKS.keys()  # type: ignore[attr-defined]
