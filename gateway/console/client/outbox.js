/** Actions on their way: in order, one at a time, each until it has a final answer. */

import { ApplauseError, newActionId, refusal } from "./words.js";

const MESSAGE_BYTES = 65_536;      // until a welcome says otherwise
const FRAME_BYTES = 64;            // what a packet adds to event and payload
const EXPIRY_MS = 6 * 86_400_000;
const RESERVED = new Set(["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"]);
const UNTRIED = { tries: 0, refusals: 0, internalErrors: 0 };

/**
 * A deed is {event, payload, at, userId}, with `payload.actionId`; one of this page has the functions of its promise.
 *
 * @typedef {object} Post
 * @property {() => number | null} userId    whose connection is open for actions; null where none is
 * @property {(deed: object) => Promise<object | null>} send  its final ack, or null: try again if the connection is open
 * @property {(deeds: object[], newest?: object) => void} keep
 * @property {() => Promise<void> | null} kept  when all that was handed to `keep` is safe
 * @property {(name: string, detail: any) => void} emit
 */
export class Outbox {
  messageBytes = MESSAGE_BYTES;
  #limit; #post;
  #deeds = [];
  #draining = false;

  /** @param {number} limit  @param {Post} post */
  constructor(limit, post) {
    this.#limit = limit;
    this.#post = post;
  }

  get view() { return this.#deeds.map(({ event, payload }) => ({ actionId: payload.actionId, event, payload })); }

  /** Has all of it kept, as it is now. */
  keep(newest) {
    this.#post.keep(this.#deeds.map(({ event, payload, at, userId }) => ({ event, payload, at, userId })), newest);
  }

  /** Puts an action into it; throws where it can't be taken. `ends` are the functions of its promise. */
  add(event, payload, userId, ends) {
    const sent = JSON.parse(JSON.stringify({ actionId: newActionId(), ...payload }));  // the same at every try
    const deed = { event, payload: sent, at: Date.now(), userId, ...ends, ...UNTRIED };
    if (RESERVED.has(event)) throw new ApplauseError({ code: "unknown_event" });
    if (this.#isTooLarge(deed)) throw new ApplauseError({ code: "payload_too_large" });
    if (this.#deeds.length >= this.#limit) throw new ApplauseError({ code: "outbox_full", retryable: true });
    this.#deeds.push(deed);
    this.keep(deed);
    this.#changed();
    this.drain();
  }

  /** Puts what was kept before what has been done since. */
  restore(kept) {
    const early = this.#deeds;
    this.#deeds = kept.map((deed) => ({ ...deed, ...UNTRIED })).concat(early);
    if (early.length > 0) this.keep();
    if (this.#deeds.length > 0) this.#changed();
  }

  /** Those that were made before anybody was logged in are this user's. */
  claim(userId) {
    for (const deed of this.#deeds) deed.userId ??= userId;
  }

  /** Takes everything out of it, to be answered with `ack`. */
  empty(ack) {
    const deeds = this.#deeds.splice(0);
    if (deeds.length > 0) this.#changed();
    for (const deed of deeds) this.#answer(deed, ack);
  }

  /** Gives one up, if it is still in here. */
  drop(deed, ack) {
    if (this.#deeds.includes(deed)) this.#settle(deed, ack);
  }

  /** One at a time, in order: an unlike must never overtake the like that waits for its second try. */
  async drain() {
    if (this.#draining) return;
    this.#draining = true;
    for (;;) {
      for (let saving; (saving = this.#post.kept()); ) await saving;  // nothing leaves that a reload could forget
      const user = this.#post.userId();
      const deed = user !== null && this.#deeds.find(({ userId }) => userId === user);
      if (!deed) break;
      const ack = this.#hopeless(deed) ?? (await this.#post.send(deed));
      if (ack) this.drop(deed, ack);
    }
    this.#draining = false;
  }

  #hopeless(deed) {
    if (Date.now() - deed.at > EXPIRY_MS) return refusal("expired", { outcome: "unknown" });
    if (this.#isTooLarge(deed)) return refusal("payload_too_large");
    return null;
  }

  #settle(deed, ack) {
    this.#deeds.splice(this.#deeds.indexOf(deed), 1);
    this.keep();
    this.#changed();
    this.#answer(deed, ack);
  }

  #answer({ event, payload, resolve, reject }, ack) {
    this.#post.emit("settled", { actionId: payload.actionId, event, payload, ack });
    if (ack.ok) resolve?.(ack.data);
    else reject?.(new ApplauseError(ack.error));
  }

  #changed() { this.#post.emit("outbox", this.view); }

  #isTooLarge({ event, payload }) {
    return byteLength(JSON.stringify([event, payload])) + FRAME_BYTES > this.messageBytes;
  }
}

const byteLength = (text) => encodeURIComponent(text).replace(/%../g, "x").length;
