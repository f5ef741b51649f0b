"""What the audit proves of identities."""

from __future__ import annotations

from typing import Final

ACCESS_CHECKS: Final[dict[str, str]] = {
    "an identity has no user": """
        SELECT i.user_id FROM identities i LEFT JOIN users u ON u.id = i.user_id WHERE u.id IS NULL""",
    # A sequence that was set back would give ids out that somebody has: every new identity would fail on them.
    "an identity's id is still to be given out": """
        SELECT i.user_id, s.last_value FROM identities i, identity_user_id s
        WHERE i.user_id > s.last_value OR (i.user_id = s.last_value AND NOT s.is_called)""",
}
