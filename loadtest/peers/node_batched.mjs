// Likes on Node's Socket.IO and node-postgres as a good engineer would have them: micro-batches of up to 500 in one
// transaction each, one in flight; popular creators' parts are gathered and settled, at most once a second each.
//
// The gateway's own way of doing it (README, "One like"), with the same rows, statements and limits.

import * as sql from "./batch_sql.mjs";
import { Books, MOST_ACTORS_NAMED } from "./books.mjs";
import {
  CONNECTION, LIKE, Together, likeData, metadataOf, postgres, readAwards, refusal, serve, unavailable,
} from "./likes.mjs";

const MOST_IN_A_BATCH = 500;
const PROMPT_BATCH = 64; // above it quiet creators are left to the settler too
const SETTLE_EVERY_MS = 100;

const { Client } = postgres();
const [lane, clock] = [new Client(CONNECTION), new Client(CONNECTION)]; // two sessions
await Promise.all([lane.connect(), clock.connect()]);
const awards = await readAwards(lane);
const together = new Together();
const queue = [];
let running = false;

const tell = serve("Node's Socket.IO with node-postgres in batches", (deed) => {
  queue.push(deed);
  if (!running) setImmediate(run); // what else this turn of the loop brings is in the same batch
  running = true;
});
setTimeout(settle, SETTLE_EVERY_MS);

async function run() {
  while (queue.length) {
    const deeds = queue.splice(0, MOST_IN_A_BATCH);
    try {
      const { answers, events } = await carryOut(deeds);
      deeds.forEach((deed, at) => deed.answer(answers[at]));
      tell(events);
    } catch (error) {
      console.error(error);
      await lane.query("ROLLBACK");
      for (const deed of deeds) deed.answer(unavailable());
    }
  }
  running = false;
}

async function carryOut(deeds) {
  const places = [...new Set(deeds.map((deed) => deed.videoId))].map((videoId) => [videoId, LIKE]);
  const resolved = await ask(lane, "resolve", sql.RESOLVE, columns(places));
  const videos = new Map(resolved.map((video) => [video.id, video]));
  const concerned = new Set(deeds.map((deed) => deed.userId));
  if (deeds.length <= PROMPT_BATCH) for (const video of resolved) if (video.quiet) concerned.add(video.owner_id);
  await lane.query("BEGIN");
  const heads = await lock(lane, "lock", sql.LOCK, concerned);
  const known = deeds.filter((deed) => videos.has(deed.videoId));
  const keys = known.map((deed) => [deed.userId, deed.actionId, deed.videoId, LIKE, "LYK"]);
  const readings = known.length ? await ask(lane, "read", sql.READ, columns(keys)) : [];
  const books = new Books(awards, heads, videos);
  let next = 0;
  const answers = deeds.map((deed) => (
    videos.has(deed.videoId) ? books.answer(deed, readings[next++]) : refusal("not_found", "videoId")
  ));
  await write(lane, books.writes());
  await lane.query("COMMIT");
  return { answers, events: books };
}

async function settle() {
  try {
    const due = await ask(clock, "due", sql.LIST_DUE, []);
    if (due.length) tell(await settled(due.map((row) => row.creator_id)));
  } catch (error) {
    console.error(error);
    await clock.query("ROLLBACK");
  }
  setTimeout(settle, SETTLE_EVERY_MS);
}

/** What waited for these creators, as one entry and one notice each. */
async function settled(creators) {
  await clock.query("BEGIN");
  const heads = await lock(clock, "lock_free", sql.LOCK_FREE, creators);
  const taken = await ask(clock, "take", sql.TAKE, [[...heads.keys()]]);
  const books = new Books(awards, heads, new Map());
  for (const s of taken) {
    books.now = s.now;
    books.enter(s.creator_id, s.balance, s.n);
    const actors = (s.actors ?? "").split(",").slice(0, MOST_ACTORS_NAMED).map(Number);
    if (s.notify) books.notify(s.creator_id, likeData(actors, s.username, s.video_id, s.notify));
    const metadata = metadataOf(s.video_id, s.title, "creator", s.paid, s.total + s.change);
    if (s.points) books.pay(s.creator_id, "like_received", s.points, metadata);
  }
  const counted = taken.map((s) => [s.video_id, s.change, s.points > 0 || s.notify > 0]);
  await write(clock, [...books.events(), [sql.COUNT, counted, books.now]]);
  await clock.query("COMMIT");
  return books;
}

async function lock(db, name, text, userIds) {
  const rows = await ask(db, name, text, [[...userIds]]);
  return new Map(rows.map((row) => [row.user_id, row.seq]));
}

async function ask(db, name, text, values) {
  return (await db.query({ name, text, values })).rows;
}

/** All writes that have rows: [statement, rows, what is the same in all rows]. */
async function write(db, writes) {
  const full = writes.filter(([, rows]) => rows.length);
  const whole = full.map(([text, rows, ...same]) => [text, [...columns(rows), ...same]]);
  if (whole.length) await db.query(together.of(whole));
}

/** Rows as the arrays that `unnest` takes. */
function columns(rows) {
  return rows[0].map((_, at) => rows.map((row) => row[at]));
}
