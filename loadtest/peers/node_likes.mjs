// Likes on Node's Socket.IO and node-postgres, one transaction per like: four statements and COMMIT, prepared, on a
// pool. The creator is paid at once, in the same transaction.

import { randomUUID } from "node:crypto";

import {
  CONNECTION, LIKE, Together, ackOf, judge, likeData, metadataOf, postgres, readAwards, refusal, replay, serve,
  unavailable,
} from "./likes.mjs";

const SESSIONS = 20; // measured: 10 are slower on many videos, 50 are slower on one creator's

// In ascending order, or two of them wait for each other for ever.
const LOCK = `
SELECT user_id, seq FROM heads
WHERE user_id IN ($1, (SELECT owner_id FROM videos WHERE id = $2 AND deleted_at IS NULL))
ORDER BY user_id FOR NO KEY UPDATE`;

// A statement of its own after the lock: it sees what was committed while we waited.
const READ = `
SELECT clock_timestamp() AS now, coalesce(r.fingerprint, m.fingerprint) AS fingerprint,
    coalesce(r.outcome, m.outcome) AS outcome, coalesce(e.count, 0) AS count, e.actor_paid, e.creator_paid,
    e.notified_at > clock_timestamp() - interval '24 hours' AS notified,
    u.username, u.following_count, a.balance, a.n, v.owner_id, v.title,
    o.followers_count, oa.balance AS owner_balance, oa.n AS owner_n, coalesce(c.total, 0) AS total
FROM videos v
JOIN users u ON u.id = $1
JOIN accounts a ON a.user_id = $1 AND a.currency = 'LYK'
JOIN users o ON o.id = v.owner_id
JOIN accounts oa ON oa.user_id = v.owner_id AND oa.currency = 'LYK'
LEFT JOIN requests r ON r.user_id = $1 AND r.action_id = $3 AND r.created_at > now() - interval '7 days'
LEFT JOIN money_requests m ON m.user_id = $1 AND m.action_id = $3 AND m.created_at > now() - interval '30 days'
LEFT JOIN engagements e ON e.actor_id = $1 AND e.video_id = v.id AND e.kind = ${LIKE}
LEFT JOIN video_counters c ON c.video_id = v.id AND c.kind = ${LIKE}
WHERE v.id = $2 AND v.deleted_at IS NULL`;

// Statements that share one round trip, as CTEs.
const KEY = "INSERT INTO requests (user_id, action_id, fingerprint, outcome, created_at) VALUES ($1, $2, $3, $4, $5)";
const ENGAGE = `
INSERT INTO engagements AS e (actor_id, video_id, kind, count, actor_points, creator_points, actor_paid, creator_paid,
    creator_id, notified_at)
VALUES ($1, $2, ${LIKE}, 1, $3, $4, $5, $6, $7, $8)
ON CONFLICT (actor_id, video_id, kind) DO UPDATE SET count = excluded.count,
    actor_points = e.actor_points + excluded.actor_points,
    creator_points = e.creator_points + excluded.creator_points,
    actor_paid = excluded.actor_paid, creator_paid = excluded.creator_paid,
    creator_id = CASE WHEN e.creator_points = 0 AND excluded.actor_points + excluded.creator_points > 0
        THEN excluded.creator_id ELSE e.creator_id END,
    notified_at = coalesce(excluded.notified_at, e.notified_at)`;
const POST = `
INSERT INTO wallet_transactions (user_id, seq, currency, n, id, action, points, balance_before, balance_after,
    counter_account, metadata, created_at)
VALUES ($1, $2, 'LYK', $3, $4, $5, $6, $7, $8, 'platform:issuance', $9, $10)`;
const BALANCE = "UPDATE accounts SET balance = $2, n = $3 WHERE user_id = $1 AND currency = 'LYK'";
const TELL = "INSERT INTO inbox (user_id, seq, id, type, data, created_at) VALUES ($1, $2, $3, 'video_like', $4, $5)";
const ADVANCE = "UPDATE heads SET seq = $2 WHERE user_id = $1";
const COUNT = `
INSERT INTO video_counters AS c (video_id, kind, total, last_paid_at) VALUES ($1, ${LIKE}, $2, $3)
ON CONFLICT (video_id, kind) DO UPDATE SET
    total = c.total + excluded.total, last_paid_at = coalesce(excluded.last_paid_at, c.last_paid_at)`;

const pool = new (postgres().Pool)({ ...CONNECTION, max: SESSIONS });
const awards = await readAwards(pool);
const together = new Together();
const tell = serve("Node's Socket.IO with node-postgres", like);

async function like(deed) {
  const db = await pool.connect();
  try {
    await db.query("BEGIN");
    const { answer, events } = await carryOut(db, deed);
    await db.query("COMMIT");
    db.release();
    deed.answer(answer);
    if (events) tell(events);
  } catch (error) {
    console.error(error);
    db.release(true); // the transaction ends with its session
    deed.answer(unavailable());
  }
}

async function carryOut(db, deed) {
  const { userId, videoId, actionId } = deed;
  const locked = await db.query({ name: "lock", text: LOCK, values: [userId, videoId] });
  const heads = new Map(locked.rows.map((row) => [row.user_id, row.seq]));
  const { rows } = await db.query({ name: "read", text: READ, values: [userId, videoId, actionId] });
  if (!rows.length) return { answer: refusal("not_found", "videoId") };
  const [row] = rows;
  if (row.fingerprint) return { answer: replay(deed, row) };
  if (!heads.has(row.owner_id)) throw new Error("the video changed hands"); // before its new owner was locked
  const engagement = {
    count: row.count,
    actorPaid: row.actor_paid ?? false,
    creatorPaid: row.creator_paid ?? false,
    notified: row.notified,
  };
  const known = { ownerId: row.owner_id, following: row.following_count, ownerFollowers: row.followers_count };
  const verdict = judge(awards, deed, known, engagement);
  const total = row.total + verdict.change;
  const events = eventsOf(deed, row, verdict, heads, total);
  const answer = ackOf(deed, verdict, total, row.balance + verdict.points);
  await db.query(together.of(writesOf(deed, row, verdict, engagement, events, answer)));
  return { answer, events };
}

/** The entries and notices that a verdict brings about, each with the next `seq` of its user. */
function eventsOf({ userId, videoId }, row, { points, earned, told }, heads, total) {
  const { owner_id: ownerId, title, now } = row;
  const next = (id) => heads.set(id, heads.get(id) + 1).get(id);
  const entries = [];
  const notices = [];
  if (points) {
    entries.push({
      userId, seq: next(userId), n: row.n + 1, id: randomUUID(), action: "video_liked", points, before: row.balance,
      metadata: metadataOf(videoId, title, "viewer"),
    });
  }
  if (told) {
    const data = likeData([userId], row.username, videoId, 1);
    notices.push({ userId: ownerId, seq: next(ownerId), id: randomUUID(), data });
  }
  if (earned) {
    entries.push({
      userId: ownerId, seq: next(ownerId), n: row.owner_n + 1, id: randomUUID(), action: "like_received",
      points: earned, before: row.owner_balance, metadata: metadataOf(videoId, title, "creator", 1, total),
    });
  }
  return { entries, notices, now, heads };
}

function writesOf(deed, row, verdict, engagement, { entries, notices, now, heads }, answer) {
  const { userId, videoId, actionId, fingerprint } = deed;
  const { points, earned, told, change } = verdict;
  const advanced = new Set([...entries, ...notices].map((event) => event.userId));
  return [
    [KEY, [userId, actionId, fingerprint, Buffer.from(JSON.stringify(answer)), now]],
    [ENGAGE, [
      userId, videoId, points, earned, engagement.actorPaid || points > 0, engagement.creatorPaid || earned > 0,
      row.owner_id, told ? now : null,
    ]],
    ...entries.flatMap((e) => [
      [POST, [e.userId, e.seq, e.n, e.id, e.action, e.points, e.before, e.before + e.points, e.metadata, now]],
      [BALANCE, [e.userId, e.before + e.points, e.n]],
    ]),
    ...notices.map((notice) => [TELL, [notice.userId, notice.seq, notice.id, notice.data, now]]),
    ...[...advanced].map((id) => [ADVANCE, [id, heads.get(id)]]),
    ...(change || earned || told ? [[COUNT, [videoId, change, earned || told ? now : null]]] : []),
  ];
}
