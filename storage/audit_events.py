"""What the audit proves of backends' events, of what inboxes keep, and of what was seen."""

from __future__ import annotations

from typing import Final

EVENTS_CHECKS: Final[dict[str, str]] = {
    "an event that retention has given up is still kept": """
        SELECT i.user_id, i.seq, h.oldest_seq FROM inbox i JOIN heads h USING (user_id) WHERE i.seq < h.oldest_seq""",
    "an event has no body, or two": """
        SELECT i.user_id, i.seq, i.broadcast_id, b.id IS NOT NULL AS shared, i.data IS NOT NULL AS own
        FROM inbox i LEFT JOIN broadcasts b ON b.id = i.broadcast_id
        WHERE (i.broadcast_id IS NULL) <> (i.data IS NOT NULL) OR (i.broadcast_id IS NOT NULL AND b.id IS NULL)
            OR (i.event_id IS NULL) <> (i.sent_at IS NULL) OR (i.event_id IS NOT NULL AND b.id IS NOT NULL)""",
    # A copy's id begins the fingerprint of what it is a copy of. Those of trimmed inboxes are gone.
    "a copied event is of none that was taken, or more have it than was answered": """
        SELECT i.id, i.event_id, e.source, count(*) AS copies, e.accepted FROM inbox i
        LEFT JOIN ingested_events e ON e.id = i.event_id AND substr(e.fingerprint, 1, 16) = uuid_send(i.id)
        WHERE i.event_id IS NOT NULL GROUP BY i.id, i.event_id, e.source, e.accepted
        HAVING e.source IS NULL OR count(*) > e.accepted""",
    # Of those whose inbox was never trimmed, all who were gone through have it; and nobody else has.
    "a broadcast's recipients are not those who have it": """
        SELECT id, user_id, given.user_id IS NOT NULL AS given, kept.user_id IS NOT NULL AS kept
        FROM (SELECT b.id, r.user_id FROM broadcasts b, unnest(b.recipients[1:b.applied]) r(user_id)) given
        FULL JOIN (SELECT broadcast_id AS id, user_id FROM inbox WHERE broadcast_id IS NOT NULL) kept
            USING (id, user_id)
        LEFT JOIN heads h USING (user_id)
        WHERE given.user_id IS NULL OR (kept.user_id IS NULL AND h.oldest_seq = 1)""",
    # Without a source it is one of Applause's own, which nobody was answered.
    "a broadcast is not what was answered, or not done when it is": """
        SELECT b.source, b.event_id, cardinality(b.recipients) AS recipients, e.accepted, b.applied, b.done_at
        FROM broadcasts b LEFT JOIN ingested_events e ON e.source = b.source AND e.id = b.event_id
        WHERE (b.source <> '' AND (e.accepted = cardinality(b.recipients)) IS NOT TRUE)
            OR (b.done_at IS NOT NULL) <> (b.applied = cardinality(b.recipients)) OR b.applied < 0
            OR b.applied > cardinality(b.recipients)""",
    "somebody has seen more notifications than there are": """
        SELECT s.user_id, s.seq AS seen, h.seq FROM notifications_seen s LEFT JOIN heads h USING (user_id)
        WHERE (s.seq BETWEEN 0 AND h.seq) IS NOT TRUE""",
}
