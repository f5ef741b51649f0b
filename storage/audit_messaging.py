"""What the audit proves of conversations, messages, read pointers and blocks."""

from __future__ import annotations

from typing import Final

MESSAGING_CHECKS: Final[dict[str, str]] = {
    "numbers of messages are not gapless up to the last": """
        SELECT conversation_id, c.last_number, m.messages, m.highest FROM (
            SELECT conversation_id, count(*) AS messages, max(number) AS highest, min(number) AS lowest
            FROM messages GROUP BY 1) m
        FULL JOIN (SELECT id AS conversation_id, last_number FROM conversations) c USING (conversation_id)
        WHERE c.last_number IS DISTINCT FROM coalesce(m.messages, 0) OR m.highest > c.last_number OR m.lowest < 1""",
    "a conversation does not show its last message": """
        SELECT c.id AS conversation_id, c.last_number, c.last_message_id, m.id AS message_id FROM conversations c
        LEFT JOIN messages m ON m.conversation_id = c.id AND m.number = c.last_number
        WHERE (c.last_message_id, c.last_message_at) IS DISTINCT FROM (m.id, m.created_at)
            OR (c.last_message_text IS NULL) <> (m.id IS NULL)
            OR (m.message_type = 0 AND NOT starts_with(m.content, c.last_message_text))""",
    # The first 48 bits, without the sign between them.
    "a message's id does not carry its number, or stands twice": """
        SELECT conversation_id, number, id FROM (
            SELECT *, count(*) OVER (PARTITION BY id) AS times FROM messages) m
        WHERE times > 1 OR number <> ('x' || substr(id::text, 1, 8) || substr(id::text, 10, 4))::bit(48)::bigint""",
    "own messages behind a read pointer are not counted right": """
        SELECT p.conversation_id, p.user_id, p.read_number, p.own_after, count(m.number) AS own FROM participants p
        LEFT JOIN messages m ON m.conversation_id = p.conversation_id AND m.sender_id = p.user_id
            AND m.number > p.read_number
        GROUP BY p.conversation_id, p.user_id, p.read_number, p.own_after HAVING p.own_after <> count(m.number)""",
    "a read pointer stands where no message is, or previews do": """
        SELECT c.id AS conversation_id, p.user_id, p.read_number, c.previewed_number, c.last_number
        FROM conversations c LEFT JOIN participants p ON p.conversation_id = c.id
        WHERE NOT coalesce(p.read_number, 0) BETWEEN 0 AND c.last_number
            OR NOT c.previewed_number BETWEEN 0 AND c.last_number""",
    "somebody takes part in nothing, or is nobody": """
        SELECT p.conversation_id, p.user_id FROM participants p
        LEFT JOIN conversations c ON c.id = p.conversation_id LEFT JOIN users u ON u.id = p.user_id
        WHERE c.id IS NULL OR u.id IS NULL""",
    "a direct conversation is not that of two": """
        SELECT c.id AS conversation_id, c.title, array_agg(p.user_id) AS participants FROM conversations c
        LEFT JOIN participants p ON p.conversation_id = c.id WHERE c.is_direct
        GROUP BY c.id, c.title HAVING count(p.user_id) <> 2 OR c.title IS NOT NULL""",
    "two have more than one direct conversation": """
        SELECT pair, count(*) AS conversations FROM (
            SELECT p.conversation_id, array_agg(p.user_id ORDER BY p.user_id) AS pair
            FROM participants p JOIN conversations c ON c.id = p.conversation_id WHERE c.is_direct GROUP BY 1) pairs
        GROUP BY pair HAVING count(*) > 1""",
    "messages wait to be told, and nobody knows": """
        SELECT c.id AS conversation_id, c.previewed_number, c.last_number FROM conversations c
        WHERE c.previewed_number < c.last_number
            AND NOT EXISTS (SELECT FROM gathered g WHERE g.conversation_id = c.id AND g.reader_id IS NULL)""",
    "somebody has blocked themselves, or nobody": """
        SELECT b.blocker_id, b.blocked_id FROM blocks b LEFT JOIN users u ON u.id = b.blocker_id
        LEFT JOIN users o ON o.id = b.blocked_id
        WHERE b.blocker_id = b.blocked_id OR u.id IS NULL OR o.id IS NULL""",
    "somebody has blocked others, and their row does not say so": """
        SELECT u.id AS user_id, u.has_blocked FROM users u
        WHERE u.has_blocked <> EXISTS (SELECT FROM blocks b WHERE b.blocker_id = u.id)""",
}
