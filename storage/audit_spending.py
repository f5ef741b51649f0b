"""What must hold of gifts, purchases, boosts, and of what backends give and take (a part of storage.audit)."""

from __future__ import annotations

from typing import Final

from storage.ledger import ISSUANCE, PAYOUTS, PURCHASES

_OWN: Final = "'gift_sent', 'purchase', 'boost_post'"
_BY_BACKENDS: Final = "'penalty', 'withdrawal', 'correction'"
_AWARDS: Final = "'campaign_reward', 'mining_reward', 'referral_reward', 'credit_purchased', 'refund'"  # others' too
_TO_THE_PLATFORM: Final = f"""(VALUES ('purchase', '{PURCHASES}'), ('boost_post', '{PURCHASES}'),
            ('penalty', '{ISSUANCE}'), ('withdrawal', '{PAYOUTS}'), ('correction', '{ISSUANCE}'))"""

# Each query lists offending rows; none is the good answer. What the platform's side of a movement would say is implied.
SPENDING_CHECKS: Final[dict[str, str]] = {
    # Two rows whose users and counter-accounts are the same two, neither its own: so each names the other.
    "a transfer between users lacks a half, or does not sum to zero": """
        SELECT coalesce(transfer_id, id) AS transfer, currency, count(*) AS halves, sum(points) AS sum
        FROM wallet_transactions WHERE counter_account LIKE 'user:%' OR action IN ('gift_sent', 'gift_received')
        GROUP BY 1, 2
        HAVING count(*) <> 2 OR sum(points) <> 0 OR bool_or(counter_account = 'user:' || user_id)
            OR array_agg('user:' || user_id ORDER BY 'user:' || user_id)
                <> array_agg(counter_account ORDER BY counter_account)
            OR bool_or(action = 'gift_sent' AND points >= 0)""",
    "a spend with the wrong side, or of what there never was": f"""
        SELECT t.user_id, t.seq, t.action, t.points, t.counter_account FROM wallet_transactions t
        JOIN {_TO_THE_PLATFORM} side(action, account) ON side.action = t.action
        WHERE t.counter_account <> side.account OR t.transfer_id IS NOT NULL OR t.points = 0
            OR (t.points > 0 AND t.action <> 'correction')
            OR (t.action = 'purchase' AND NOT EXISTS (SELECT FROM items WHERE id = t.metadata ->> 'itemId'))
            OR (t.action = 'boost_post' AND NOT EXISTS (SELECT FROM videos WHERE id = t.metadata ->> 'videoId'))""",
    # Keys are dropped some time after their 30 days, entries never.
    "a spend's kept answer is not its entry": f"""
        SELECT id, k.balance AS answered, e.user_id, e.seq, e.balance_after FROM (
            SELECT (answer #>> '{{data,transactionId}}')::uuid AS id,
                (answer #>> '{{data,newBalance}}')::numeric AS balance
            FROM (SELECT convert_from(outcome, 'UTF8')::json AS answer FROM (
                SELECT outcome FROM money_requests UNION ALL SELECT outcome FROM backend_requests) outcomes) answers
            WHERE answer #>> '{{data,transactionId}}' IS NOT NULL) k
        FULL JOIN (SELECT t.id, t.user_id, t.seq, t.action, t.balance_after, t.created_at, c.decimals
            FROM wallet_transactions t JOIN currencies c USING (currency)
            WHERE t.action IN ({_OWN}, {_BY_BACKENDS}, {_AWARDS})) e USING (id)
        WHERE e.id IS NULL OR k.balance * power(10::numeric, e.decimals) <> e.balance_after
            OR (k.id IS NULL AND e.created_at > clock_timestamp() - interval '29 days'
                AND e.action NOT IN ({_AWARDS}))""",
    "what somebody gave, spent or took and the audit log differ": f"""
        SELECT id, e.user_id, e.seq, e.action, e.points, l.who, l.target, l.after FROM (
            SELECT (after ->> 'transactionId')::uuid AS id, who, what, target, after FROM audit_log
            WHERE what IN ('wallet:deduct', 'wallet:correct', 'wallet:award',
                'wallet:gift', 'wallet:purchase', 'wallet:boost')) l
        FULL JOIN (SELECT t.id, t.user_id, t.seq, t.action, t.points, t.counter_account, c.decimals
            FROM wallet_transactions t JOIN currencies c USING (currency)
            WHERE t.action IN ({_OWN}, {_BY_BACKENDS}, {_AWARDS})) e USING (id)
        WHERE e.id IS NULL OR l.target <> 'user:' || e.user_id OR l.after ->> 'action' <> e.action
            OR (l.id IS NULL AND e.action NOT IN ({_OWN}, {_AWARDS}))
            OR (l.after ->> 'points')::numeric * power(10::numeric, e.decimals) <> e.points
            OR (l.what = 'wallet:award' AND (e.points <= 0 OR e.counter_account <>
                CASE e.action WHEN 'refund' THEN '{PURCHASES}' ELSE '{ISSUANCE}' END))""",
}
