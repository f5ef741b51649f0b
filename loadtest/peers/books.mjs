// The books of one batch: what is known under its locks, what each deed comes to, and what is to be written.

import { randomUUID } from "node:crypto";

import * as sql from "./batch_sql.mjs";
import { ackOf, judge, likeData, metadataOf, replay } from "./likes.mjs";

export const MOST_ACTORS_NAMED = 10;

/** The deeds go through it one by one, the later seeing what the earlier came to. */
export class Books {
  constructor(awards, heads, videos) {
    this.awards = awards;
    this.heads = heads; // user -> last seq
    this.videos = videos;
    this.now = null;
    this.keys = new Map();
    this.accounts = new Map(); // user -> {balance, n}, also of those that change
    this.engagements = new Map();
    this.counters = new Map(); // video -> {total, prompt, change, told}
    this.pending = new Map(); // video -> what is left for the settler
    this.entries = [];
    this.notices = [];
    this.advanced = new Set();
  }

  answer(deed, row) {
    const { userId, videoId, actionId } = deed;
    this.now ??= row.now;
    const key = `${userId}/${actionId}`;
    const kept = this.keys.get(key) ?? (row.fingerprint && row);
    if (kept) return replay(deed, kept);
    const video = this.videos.get(videoId);
    if (video.owner_id !== row.owner_id) throw new Error("the video changed hands");
    const actor = this.enter(userId, row.balance, row.n);
    this.enter(row.owner_id, row.owner_balance, row.owner_n);
    const engagement = this.engagement(deed, row);
    const counter = this.counter(video, row);
    const people = { ownerId: row.owner_id, following: row.following_count, ownerFollowers: row.followers_count };
    const verdict = judge(this.awards, deed, people, engagement);
    this.record(deed, row, verdict, engagement, counter);
    const answer = ackOf(deed, verdict, counter.total, actor.balance);
    const outcome = Buffer.from(JSON.stringify(answer));
    this.keys.set(key, { userId, actionId, fingerprint: deed.fingerprint, outcome });
    return answer;
  }

  enter(userId, balance, n) {
    if (!this.accounts.has(userId)) this.accounts.set(userId, { balance, n, changed: false });
    return this.accounts.get(userId);
  }

  engagement({ userId, videoId }, row) {
    const key = `${userId}/${videoId}`;
    if (!this.engagements.has(key)) {
      this.engagements.set(key, {
        userId, videoId, ownerId: row.owner_id, count: row.count, actorPaid: row.actor_paid ?? false,
        creatorPaid: row.creator_paid ?? false, notified: row.notified, points: 0, earned: 0, told: false,
      });
    }
    return this.engagements.get(key);
  }

  counter({ id, total, owner_id: ownerId }, row) {
    if (!this.counters.has(id)) {
      const prompt = row.quiet && this.heads.has(ownerId);
      this.counters.set(id, { id, prompt, total: prompt ? row.total : total, change: 0, told: false, counts: false });
    }
    return this.counters.get(id);
  }

  record(deed, row, { points, earned, told, change }, engagement, counter) {
    const { userId, videoId } = deed;
    const { title } = this.videos.get(videoId);
    counter.total += change;
    engagement.count = 1;
    if (points) {
      engagement.actorPaid = true;
      engagement.points += points;
      this.pay(userId, "video_liked", points, metadataOf(videoId, title, "viewer"));
    }
    if (earned) {
      engagement.creatorPaid = true;
      engagement.earned += earned;
    }
    if (told) engagement.notified = engagement.told = true;
    if (!(change || earned || told)) return;
    if (!counter.prompt) return this.leave(deed, row, { change, earned, told });
    counter.counts = true;
    counter.change += change;
    if (told) this.notify(row.owner_id, likeData([userId], row.username, videoId, 1));
    const metadata = metadataOf(videoId, title, "creator", 1, counter.total);
    if (earned) this.pay(row.owner_id, "like_received", earned, metadata);
    if (told || earned) {
      counter.told = true;
      counter.prompt = false; // what follows within the second is gathered
    }
  }

  pay(userId, action, points, metadata) {
    const account = this.accounts.get(userId);
    const before = account.balance;
    account.balance += points;
    account.n += 1;
    account.changed = true;
    const [seq, id] = [this.next(userId), randomUUID()];
    this.entries.push({ userId, seq, n: account.n, id, action, points, before, metadata });
  }

  notify(userId, data) {
    this.notices.push({ userId, seq: this.next(userId), id: randomUUID(), data });
  }

  next(userId) {
    this.advanced.add(userId);
    return this.heads.set(userId, this.heads.get(userId) + 1).get(userId);
  }

  leave({ userId, videoId }, row, { change, earned, told }) {
    const empty = {
      ownerId: row.owner_id, videoId, points: 0, paid: 0, change: 0, notify: 0, actors: [], username: null,
    };
    const pending = this.pending.get(videoId) ?? empty;
    this.pending.set(videoId, pending);
    pending.points += earned;
    pending.paid += earned > 0 ? 1 : 0;
    pending.change += change;
    if (told) {
      pending.notify += 1;
      pending.actors = [userId, ...pending.actors.slice(0, MOST_ACTORS_NAMED - 1)];
      pending.username = row.username;
    }
  }

  /** [statement, rows, what is the same in all rows] of each table. */
  writes() {
    const { now } = this;
    const counted = [...this.counters.values()].filter((counter) => counter.counts);
    const engaged = [...this.engagements.values()];
    engaged.sort((a, b) => a.userId - b.userId || (a.videoId < b.videoId ? -1 : 1));
    return [
      [sql.KEYS, [...this.keys.values()].map((k) => [k.userId, k.actionId, k.fingerprint, k.outcome]), now],
      [sql.ENGAGE, engaged.map((e) => [
        e.userId, e.videoId, e.points, e.earned, e.actorPaid, e.creatorPaid, e.ownerId, e.told,
      ]), now],
      ...this.events(),
      [sql.COUNT, counted.sort((a, b) => (a.id < b.id ? -1 : 1)).map((c) => [c.id, c.change, c.told]), now],
      [sql.ACCRUE, [...this.pending.values()].map((p) => [
        p.ownerId, p.videoId, p.points, p.paid, p.change, p.notify, `{${p.actors}}`, p.username,
      ]), now],
    ];
  }

  events() {
    const { now } = this;
    const changed = [...this.accounts].filter(([, account]) => account.changed);
    return [
      [sql.POST, this.entries.map((e) => [
        e.userId, e.seq, e.n, e.id, e.action, e.points, e.before, e.before + e.points, e.metadata,
      ]), now],
      [sql.BALANCES, changed.map(([userId, { balance, n }]) => [userId, balance, n])],
      [sql.TELL, this.notices.map((notice) => [notice.userId, notice.seq, notice.id, notice.data]), now],
      [sql.ADVANCE, [...this.advanced].map((userId) => [userId, this.heads.get(userId)])],
    ];
  }
}
