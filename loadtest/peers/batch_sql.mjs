// The statements of node_batched.mjs: arrays through unnest, each row as the gateway writes it.
//
// Where they read, kind and currency are columns like the others: with constants the planner looks at all rows that
// have them.

import { LIKE } from "./likes.mjs";

const QUIET = `(coalesce(c.last_paid_at < clock_timestamp() - interval '1 second', true)
    AND NOT EXISTS (SELECT FROM accruals w WHERE w.creator_id = v.owner_id AND w.video_id = v.id AND w.kind = d.kind))`;

// Whose videos they are, whether their creators may hear of it at once, and the totals with what waits. Unlocked.
export const RESOLVE = `
SELECT v.id, v.owner_id, v.title, ${QUIET} AS quiet,
    coalesce(c.total, 0) + coalesce((SELECT sum(w.change) FROM accruals w
        WHERE w.creator_id = v.owner_id AND w.video_id = v.id AND w.kind = d.kind), 0)::bigint AS total
FROM unnest($1::text[], $2::smallint[]) AS d(video_id, kind)
JOIN videos v ON v.id = d.video_id AND v.deleted_at IS NULL
LEFT JOIN video_counters c ON c.video_id = d.video_id AND c.kind = d.kind`;

export const LOCK = `
SELECT user_id, seq FROM heads WHERE user_id = ANY($1::bigint[]) ORDER BY user_id FOR NO KEY UPDATE`;
export const LOCK_FREE = `${LOCK} SKIP LOCKED`;

export const READ = `
SELECT clock_timestamp() AS now, coalesce(r.fingerprint, m.fingerprint) AS fingerprint,
    coalesce(r.outcome, m.outcome) AS outcome, coalesce(e.count, 0) AS count, e.actor_paid, e.creator_paid,
    e.notified_at > clock_timestamp() - interval '24 hours' AS notified,
    u.username, u.following_count, a.balance, a.n, v.owner_id,
    o.followers_count, oa.balance AS owner_balance, oa.n AS owner_n, coalesce(c.total, 0) AS total, ${QUIET} AS quiet
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::smallint[], $5::text[]) WITH ORDINALITY
    AS d(user_id, action_id, video_id, kind, currency, place)
JOIN videos v ON v.id = d.video_id
JOIN users u ON u.id = d.user_id
JOIN accounts a ON a.user_id = d.user_id AND a.currency = d.currency
JOIN users o ON o.id = v.owner_id
JOIN accounts oa ON oa.user_id = v.owner_id AND oa.currency = d.currency
LEFT JOIN requests r ON r.user_id = d.user_id AND r.action_id = d.action_id AND r.created_at > now() - interval '7 days'
LEFT JOIN money_requests m ON m.user_id = d.user_id AND m.action_id = d.action_id
    AND m.created_at > now() - interval '30 days'
LEFT JOIN engagements e ON e.actor_id = d.user_id AND e.video_id = d.video_id AND e.kind = d.kind
LEFT JOIN video_counters c ON c.video_id = d.video_id AND c.kind = d.kind
ORDER BY d.place`;

export const KEYS = `
INSERT INTO requests (user_id, action_id, fingerprint, outcome, created_at)
SELECT *, $5::timestamptz FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::bytea[])`;

export const ENGAGE = `
INSERT INTO engagements AS e (actor_id, video_id, kind, count, actor_points, creator_points, actor_paid, creator_paid,
    creator_id, notified_at)
SELECT d.actor_id, d.video_id, ${LIKE}, 1, d.actor_points, d.creator_points, d.actor_paid, d.creator_paid, d.creator_id,
    CASE WHEN d.told THEN $9::timestamptz END
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bool[], $6::bool[], $7::bigint[], $8::bool[])
    AS d(actor_id, video_id, actor_points, creator_points, actor_paid, creator_paid, creator_id, told)
ON CONFLICT (actor_id, video_id, kind) DO UPDATE SET count = excluded.count,
    actor_points = e.actor_points + excluded.actor_points,
    creator_points = e.creator_points + excluded.creator_points,
    actor_paid = excluded.actor_paid, creator_paid = excluded.creator_paid,
    creator_id = CASE WHEN e.creator_points = 0 AND excluded.actor_points + excluded.creator_points > 0
        THEN excluded.creator_id ELSE e.creator_id END,
    notified_at = coalesce(excluded.notified_at, e.notified_at)`;

export const POST = `
INSERT INTO wallet_transactions (user_id, seq, n, id, action, points, balance_before, balance_after, metadata,
    currency, counter_account, created_at)
SELECT *, 'LYK', 'platform:issuance', $10::timestamptz FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::uuid[],
    $5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::json[])`;

export const BALANCES = `
UPDATE accounts a SET balance = new.balance, n = new.n
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS new(user_id, balance, n)
WHERE a.user_id = new.user_id AND a.currency = 'LYK'`;

export const TELL = `
INSERT INTO inbox (user_id, seq, id, data, type, created_at)
SELECT *, 'video_like', $5::timestamptz FROM unnest($1::bigint[], $2::bigint[], $3::uuid[], $4::json[])`;

export const ADVANCE = `
UPDATE heads h SET seq = new.seq FROM unnest($1::bigint[], $2::bigint[]) AS new(user_id, seq)
WHERE h.user_id = new.user_id`;

export const COUNT = `
INSERT INTO video_counters AS c (video_id, kind, total, last_paid_at)
SELECT d.video_id, ${LIKE}, d.change, CASE WHEN d.told THEN $4::timestamptz END
FROM unnest($1::text[], $2::bigint[], $3::bool[]) AS d(video_id, change, told)
ON CONFLICT (video_id, kind) DO UPDATE SET
    total = c.total + excluded.total, last_paid_at = coalesce(excluded.last_paid_at, c.last_paid_at)`;

// unnest would flatten the lists of actors: they travel as text.
export const ACCRUE = `
INSERT INTO accruals (creator_id, video_id, kind, points, paid, change, notify, actors, username, created_at)
SELECT d.creator_id, d.video_id, ${LIKE}, d.points, d.paid, d.change, d.notify, d.actors::bigint[], d.username,
    $9::timestamptz
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::int[], $5::int[], $6::int[], $7::text[], $8::text[])
    AS d(creator_id, video_id, points, paid, change, notify, actors, username)`;

// The settler's: creators of whom something waits, and what it comes to.
export const LIST_DUE = `
SELECT DISTINCT a.creator_id FROM accruals a
LEFT JOIN video_counters c ON c.video_id = a.video_id AND c.kind = a.kind
WHERE coalesce(c.last_paid_at < clock_timestamp() - interval '1 second', true) LIMIT 200`;

export const TAKE = `
WITH taken AS (
    DELETE FROM accruals a USING unnest($1::bigint[]) AS due(creator_id)
    WHERE a.creator_id = due.creator_id AND NOT EXISTS (
        SELECT FROM video_counters c WHERE c.video_id = a.video_id AND c.kind = a.kind
            AND c.last_paid_at >= clock_timestamp() - interval '1 second')
    RETURNING a.*
), summed AS (
    SELECT creator_id, video_id, kind, sum(points)::bigint AS points, sum(paid)::int AS paid,
        sum(change)::int AS change, sum(notify)::int AS notify,
        string_agg(array_to_string(actors, ','), ',' ORDER BY created_at DESC) FILTER (WHERE notify > 0) AS actors,
        (array_agg(username ORDER BY created_at DESC) FILTER (WHERE notify > 0))[1] AS username
    FROM taken GROUP BY creator_id, video_id, kind
)
SELECT clock_timestamp() AS now, s.*, v.title, coalesce(c.total, 0) AS total, b.balance, b.n
FROM summed s
JOIN videos v ON v.id = s.video_id
JOIN accounts b ON b.user_id = s.creator_id AND b.currency = 'LYK'
LEFT JOIN video_counters c ON c.video_id = s.video_id AND c.kind = s.kind
ORDER BY s.creator_id, s.video_id, s.kind`;
