// What both Node peers know of a like: what it asks for, what it comes to, and how it is answered and told of.
// The rules are spec 3's, the rows those of storage/schema; amounts are minor units.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

import { listen, open, packages, userOf } from "./node_common.mjs";

export const LIKE = 1;
const MOST_BYTES = 65_536;
const ID = /^[^\0]{1,64}$/u;
const ACTION_ID = /^[A-Za-z0-9._:-]{8,64}$/;

/** node-postgres, with 64-bit numbers as numbers, and times as the text that goes back as it came. */
export function postgres() {
  const pg = packages("pg");
  pg.types.setTypeParser(pg.types.builtins.INT8, Number);
  pg.types.setTypeParser(pg.types.builtins.TIMESTAMPTZ, String);
  return pg;
}

/** How sessions are opened. The planner's switches are the gateway's own, and as good for these statements. */
export const CONNECTION = {
  connectionString: process.env.DATABASE_URL,
  options: "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off",
};

/** Independent writes that share one round trip, as CTEs of one statement, prepared once a session. */
export class Together {
  #prepared = new Map(); // the statements -> {name, text}

  /** The query of [statement, values] each; their parameters are numbered through. */
  of(writes) {
    const key = writes.map(([statement]) => statement).join(";");
    if (!this.#prepared.has(key)) {
      let used = 0;
      const parts = writes.map(([statement, values], number) => {
        const text = statement.replace(/\$(\d+)/g, (_, at) => `$${Number(at) + used}`);
        used += values.length;
        return `write_${number} AS (${text})`;
      });
      const name = `write_${this.#prepared.size}`;
      this.#prepared.set(key, { name, text: `WITH ${parts.join(",\n")}\nSELECT` });
    }
    return { ...this.#prepared.get(key), values: writes.flatMap(([, values]) => values) };
  }
}

/** The amounts and thresholds that hold now: action -> {points, threshold}. */
export async function readAwards(db) {
  const { rows } = await db.query(
    "SELECT DISTINCT ON (action) action, points, threshold FROM awards ORDER BY action, version DESC",
  );
  return Object.fromEntries(rows.map(({ action, ...award }) => [action, award]));
}

/** Serve likes: `carryOut` is given {userId, videoId, actionId, fingerprint, answer} and calls `answer` once. */
export function serve(name, carryOut) {
  const secret = readFileSync(process.env.PEER_SECRET_FILE, "utf8").trim();
  const { http, io } = open((_, response) => response.writeHead(404).end());
  io.engine.opts.maxHttpBufferSize = MOST_BYTES;
  io.use((socket, next) => {
    try {
      socket.data.userId = userOf(socket.handshake.auth.token, secret);
      next();
    } catch (error) {
      next(error);
    }
  });
  io.on("connection", (socket) => {
    const { userId } = socket.data;
    socket.join(room(userId));
    socket.on("video:like", (payload, answer) => {
      const field = wrongField(payload);
      if (field) return answer(refusal("invalid_payload", field));
      carryOut({ userId, ...payload, fingerprint: fingerprintOf(payload), answer });
    });
  });
  listen(http, name);
  return (events) => tell(io, events);
}

/** What a like comes to, from what is stored: whether it counts, whom it pays how much, whether the owner is told. */
export function judge(awards, { userId }, { ownerId, following, ownerFollowers }, engagement) {
  const isOwn = userId === ownerId;
  const already = engagement.count > 0;
  let reason;
  if (isOwn) reason = "own_video";
  else if (engagement.actorPaid) reason = "already_paid";
  else if (following < awards.video_liked.threshold) reason = "not_eligible";
  const earns = !isOwn && !engagement.creatorPaid && ownerFollowers >= awards.like_received.threshold;
  return {
    already,
    change: already ? 0 : 1,
    reason,
    points: reason ? 0 : awards.video_liked.points,
    earned: earns ? awards.like_received.points : 0,
    told: !isOwn && !already && !engagement.notified,
  };
}

/** The acknowledgement. */
export function ackOf({ videoId }, { already, reason, points }, total, newBalance) {
  const award = points ? { points: points / 100, newBalance: newBalance / 100 } : null;
  return { ok: true, data: { videoId, total, already, award, ...(reason && { reason }) } };
}

/** The answer to an action whose key is taken. */
export function replay({ fingerprint }, kept) {
  if (!fingerprint.equals(kept.fingerprint)) return refusal("idempotency_conflict", "actionId");
  return { ...JSON.parse(kept.outcome.toString()), replayed: true };
}

export function refusal(code, field) {
  return { ok: false, error: { code, message: code, retryable: false, ...(field && { field }) } };
}

/** The answer where the database did not do it, or did not say. */
export function unavailable() {
  return { ok: false, error: { code: "unavailable", message: "unavailable", retryable: true, outcome: "unknown" } };
}

/** A ledger entry's metadata, as JSON. */
export function metadataOf(videoId, videoTitle, userType, count, totalLikes) {
  return JSON.stringify({ videoId, videoTitle, userType, ...(userType === "creator" && { count, totalLikes }) });
}

/** The data of a `video_like`, as JSON. */
export function likeData(actorIds, actorUsername, videoId, count) {
  return JSON.stringify({ actorId: actorIds[0], actorUsername, videoId, count, actorIds });
}

/** Push committed rows, {entries, notices}, to the connections of their users, rendered only where there are any. */
function tell(io, { entries, notices, now }) {
  const timestamp = new Date(now).toISOString();
  const { rooms } = io.sockets.adapter;
  const emit = ({ userId, seq, id }, type, eventType, data) => io.to(room(userId)).emit("notification", {
    id, seq, type, eventType, recipientIds: [userId], data, timestamp,
  });
  for (const notice of notices) {
    if (rooms.has(room(notice.userId))) {
      emit(notice, "video_like", "notification:video_like", JSON.parse(notice.data));
    }
  }
  for (const entry of entries) {
    if (rooms.has(room(entry.userId))) {
      emit(entry, "points_earned", "wallet:points:earned", earned(entry, timestamp));
    }
  }
}

function earned({ userId, action, points, before, metadata }, timestamp) {
  const about = JSON.parse(metadata);
  return {
    userId,
    currency: "LYK",
    action,
    points: points / 100,
    newBalance: (before + points) / 100,
    previousBalance: before / 100,
    reason: reasonOf(action, about.count),
    timestamp,
    metadata: about,
  };
}

function reasonOf(action, count) {
  if (action === "video_liked") return "Liked a video";
  return count === 1 ? "Your video received a like" : `Your video received ${count} likes`;
}

function room(userId) {
  return `user:${userId}`;
}

function wrongField(payload) {
  const { videoId, actionId, ...unknown } = Object(payload);
  if (typeof videoId !== "string" || !ID.test(videoId)) return "videoId";
  if (typeof actionId !== "string" || !ACTION_ID.test(actionId)) return "actionId";
  return Object.keys(unknown)[0];
}

/** The same for the same event and payload, whatever the order of its fields. */
function fingerprintOf({ videoId, actionId }) {
  const canonical = JSON.stringify({ actionId, videoId });
  return createHash("sha256").update(`video:like\0${canonical}`).digest().subarray(0, 16);
}
