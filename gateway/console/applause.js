/**
 * Applause's reference client for JavaScript: browsers, React Native, Node. No dependencies; copy it or import it from
 * any gateway at `/applause.js`.
 *
 * Nothing that a user did is lost, and nothing is paid twice: `act` keeps an action in an outbox that survives a reload,
 * and repeats it with the same `actionId` until there is an answer. Nothing that they should hear of is missed or heard
 * twice: the client resumes where the app's handlers have come to.
 *
 *     import { connect } from "https://gateway.example/applause.js";
 *
 *     const client = connect({ url: "https://gateway.example", token: async ({ fresh }) => session.token(fresh), user: 7 });
 *     client.on("reload", async ({ seq }) => { await app.loadEverythingOverHttp(); });
 *     client.on("notification", (event) => app.show(event));          // {id, seq, type, eventType, data, timestamp, ...}
 *     const { total, award } = await client.act("video:like", { videoId: "sunrise" });
 *     const { balances } = await client.ask("wallet:get");
 *
 * Events, `on(name, listener)`; listeners may be asynchronous:
 *
 *     state         "stopped" | "connecting" | "catching-up" | "online" | "waiting" (to reconnect) | "refused"
 *     welcome       the server's greeting as it came
 *     reload        {seq, epoch, first}: fetch the user's state over HTTP. Told on the very first connect (`first`) and
 *                   where the inbox can't bridge the gap (`complete: false`). Everything after `seq` comes as
 *                   notifications; those up to a response's header `X-Inbox-Seq` are in that response already.
 *     notification  one event, in the order of `seq`, once; `seq` is null in ephemeral ones
 *     resumed       {seq, replayed}: all that was missed has come, `replayed` events
 *     outbox        the actions that wait for their answer: [{actionId, event, payload}]
 *     settled       {actionId, event, payload, ack}: one has got its answer, or was given up; also those that a reload
 *                   left without a promise
 *     closing       {code, message, retryable, reconnectAfterMs?}: why the server ends this connection
 *     refused       {code, message, retryable}: the client stays away until `open()`. Codes of connect_error
 *                   (token_invalid, token_expired: a fresh token was tried; user_suspended, connection_limit, ...), of
 *                   closing (replaced, revoked, user_suspended, protocol_error, too_many_errors), or storage_failed
 *     frame         {direction: "in" | "out", text}: the wire as it is, tokens redacted; own transport only
 *
 * The outbox is sent one by one, in the order of `act`. An action leaves it with its answer: success, or a refusal that
 * is final. It is repeated after a lost connection or answer, `retryable` refusals (not before `retryAfterMs`), and
 * `outcome: "unknown"`; an action that only ever fails as `internal` is given up after a while, so that it can't hold
 * up the others. One that has waited 6 days is given up as `expired`: the server knows an `actionId` for 7.
 *
 * Kept in `storage`, under `applause:<user>:<deviceId>:`, are the outbox and how far the app has come: `lastSeq` and
 * `epoch` move on only after all listeners of an event have run (a promise of theirs included), and past a `reload` only
 * if they succeeded, so that after a crash in between it is told again. An app must expect the last event once more then.
 *
 * One client has the storage of one user and device at a time. A second one, say in another tab, takes it over with all
 * that is in the outbox, as the server lets a device's newer connection replace the older: the first is `refused` with
 * `replaced`, its promises are rejected so (`outcome: "unknown"`, since the other one goes on with them), and `open()`
 * takes it back. Tabs that are to live side by side need a `deviceId` each. Another user's log-in is another client:
 * `close()` the old one. Where `user` is not given, actions are still only sent as the user who made them.
 *
 * @module
 *
 * @typedef {object} Storage  like `localStorage`; the methods may also return promises (React Native's AsyncStorage)
 * @property {(key: string) => string | null | Promise<string | null>} getItem
 * @property {(key: string, value: string) => void | Promise<void>} setItem
 * @property {(key: string) => void | Promise<void>} removeItem
 *
 * @typedef {object} Options
 * @property {string} url       origin of the gateway, http(s) or ws(s); not needed with `socket`
 * @property {(need: {fresh: boolean}) => Promise<string>} token  asked at each connect and before the token's end;
 *     `fresh`: the last one is used up. Where it rejects, the client tries again later
 * @property {string | number} [user]  whose actions these are; give it where several people share a device
 * @property {string} [deviceId]       made once and kept in `storage` unless given
 * @property {Storage} [storage]       default: `localStorage` where there is one, else memory
 * @property {object} [socket]         a socket of the official client instead of the own transport:
 *     `io(url, {autoConnect: false, transports: ["websocket"]})`; its `auth` and its reconnecting become the client's
 * @property {typeof WebSocket} [WebSocket]  where the platform has none (Node 20: that of the package `ws`)
 * @property {number} [ackTimeoutMs]   silence after which a request counts as lost; doubles with each try. Default 8000
 * @property {number} [outboxLimit]    actions that may wait. Default 500; one more is refused as `outbox_full`
 * @property {string} [protocol]       the protocol that the app was written for. Default "1"
 */

import { OfficialLink, OwnLink } from "./client/links.js";
import { Outbox } from "./client/outbox.js";
import { Vault, localStore } from "./client/vault.js";
import { ApplauseError, backOff, newActionId, pause, refusal } from "./client/words.js";

export { ApplauseError, newActionId };

const PROTOCOL = "1";
const ACK_TIMEOUT_MS = 8_000;      // the server answers within 5 s
const LONGEST_ACK_TIMEOUT_MS = 60_000;
const GREETING_MS = 10_000;
const LONGEST_DELAY_MS = 20_000;   // until a welcome says otherwise
const SHORTEST_CEILING_MS = 400;   // where it says that there is no need to wait at all
const OUTBOX_LIMIT = 500;
const SHORT_LIFE_MS = 2_000;       // a token's life before its last minute, below which there is none to speak of
const INTERNAL_ERRORS = 6;
const TOKEN_ERRORS = new Set(["token_expired", "token_invalid", "token_missing"]);

/**
 * A client that is connecting already; listeners added at once miss nothing.
 * @param {Options} options
 */
export function connect(options) {
  const client = new Client(options);
  client.open();
  return client;
}

class Client {
  #options; #vault;
  #listeners = new Map();
  #topics = new Set();
  #state = "stopped";
  #userId = null;               // as the last welcome had it

  // of the present connection
  #attempt = null;              // identity of the running attempt: whatever an older one still reports is ignored
  #link = null;
  #token = null;
  #tokenLifeMs = 0;             // what it had left when it was handed over
  #greeting = null;             // timer: the welcome is due
  #requests = new Set();        // functions that end one with a code
  #replayed = 0;
  #closing = null;

  // across connections
  #place = null;                // {userId, epoch, seq} up to which listeners have run
  #heard = null;                // seq of the last event that was handed to them
  #stale = false;               // a reload has failed: the place stays before it
  #running = null;              // promise of listeners that still run
  #outbox;
  #loaded = false;              // what was kept has been read
  #taken = false;               // another client has the storage now
  #saving = null;               // promise of an asynchronous storage
  #reconnect = null;            // timer
  #failures = 0;
  #longestDelayMs = LONGEST_DELAY_MS;
  #askedDelayMs = null;         // what the server asked for
  #needFreshToken = false;
  #retry = () => this.retryNow();

  /** @param {Options} options */
  constructor(options) {
    const { user, deviceId, storage = localStore(), outboxLimit = OUTBOX_LIMIT } = options;
    this.#options = { WebSocket: globalThis.WebSocket, protocol: PROTOCOL, ackTimeoutMs: ACK_TIMEOUT_MS, ...options };
    if (!options.socket && !this.#options.WebSocket) throw new TypeError("there is no WebSocket here: hand one in");
    this.#vault = new Vault(storage, user, deviceId);
    this.#outbox = new Outbox(outboxLimit, {
      userId: () => (this.#state === "online" ? this.#userId : null),
      send: (deed) => this.#perform(deed),
      keep: (deeds, newest) => { if (this.#loaded) this.#keep("outbox", deeds, newest); },
      kept: () => this.#saving,
      emit: (name, detail) => this.#emit(name, detail),
    });
  }

  get state() { return this.#state; }
  get lastSeq() { return this.#place?.seq ?? null; }
  get epoch() { return this.#place?.epoch ?? null; }
  /** Actions that wait for their answer: [{actionId, event, payload}]. */
  get outbox() { return this.#outbox.view; }

  /** Calls `listener` at each event `name`; the returned function ends that. */
  on(name, listener) {
    if (!this.#listeners.has(name)) this.#listeners.set(name, new Set());
    this.#listeners.get(name).add(listener);
    return () => this.#listeners.get(name).delete(listener);
  }

  /** Connects again after `close` or `refused`, and stays connected. */
  open() {
    if (this.#state !== "stopped" && this.#state !== "refused") return;
    globalThis.addEventListener?.("online", this.#retry);
    this.#failures = 0;
    this.#setState("connecting");
    const attempt = (this.#attempt = {});
    const failed = (error) => this.#stayAway({ code: "storage_failed", message: String(error), retryable: false });
    const go = (kept) => {
      this.#restore(kept);
      if (this.#attempt === attempt) this.#connect();
    };
    try {
      const kept = this.#vault.claim();
      if (typeof kept?.then === "function") return void kept.then(go).catch(failed);
      go(kept);
    } catch (error) {
      failed(error);
    }
  }

  /** Goes offline. The outbox and the place in the inbox are kept for the next `open`. */
  close() {
    this.#leave("stopped");
  }

  /** Skips what is left of a reconnect delay; browsers' `online` event does it by itself. */
  retryNow() {
    if (this.#state !== "waiting") return;
    clearTimeout(this.#reconnect);
    this.#connect();
  }

  /** For a log-out that is to leave no trace: goes offline, gives up what waits, and empties the storage. */
  forget() {
    this.close();
    this.#place = this.#heard = this.#userId = null;
    this.#loaded = false;
    this.#outbox.empty(refusal("forgotten", { outcome: "unknown" }));
    return this.#vault.clear();
  }

  /**
   * Carries out one action for certain, online or not; resolves with the ack's `data`.
   * @param {string} event      one that takes an `actionId`, such as "video:like"
   * @param {object} [payload]  without `actionId`, unless the app has one of its own
   * @returns {Promise<any>}    rejects with an ApplauseError where the answer is a final refusal
   */
  act(event, payload = {}) {
    return new Promise((resolve, reject) => {
      if (this.#taken) throw new ApplauseError({ code: "replaced" });
      this.#outbox.add(event, payload, this.#userId, { resolve, reject });
    });
  }

  /**
   * Asks once, over the present connection, and resolves with the ack's `data`.
   * @returns {Promise<any>} rejects with an ApplauseError: a refusal, or offline, disconnected, timeout
   */
  async ask(event, payload = {}, { timeoutMs = this.#options.ackTimeoutMs } = {}) {
    const ack = await this.#request(event, payload, timeoutMs);
    if (!ack.ok) throw new ApplauseError(ack.error);
    return ack.data;
  }

  /** Follows a live topic, now and after every reconnect. */
  subscribe(topic) {
    this.#topics.add(topic);
    this.#tell("topic:subscribe", { topic });
  }

  unsubscribe(topic) {
    this.#topics.delete(topic);
    this.#tell("topic:unsubscribe", { topic });
  }

  // --- one connection ------------------------------------------------------------------------------------------

  async #connect() {
    const attempt = (this.#attempt = {});
    this.#setState("connecting");
    let token, ours;
    try {
      token = await this.#options.token({ fresh: this.#needFreshToken });
      ours = await this.#vault.isOurs();
    } catch {
      if (this.#attempt === attempt) this.#lost();
      return;
    }
    if (this.#attempt !== attempt) return;
    if (!ours) return this.#lose();  // or we would throw out the one who has it now
    this.#token = token;
    const now = (hear) => (...said) => { if (this.#attempt === attempt) hear(...said); };
    const ears = {
      event: now((name, body) => this.#event(name, body)),
      refused: now((error) => this.#refused(error)),
      dismissed: now(() => this.#dismissed()),
      lost: now(() => this.#lost()),
      frame: now((direction, text) => this.#emit("frame", { direction, text: redacted(text) })),
    };
    this.#greeting = setTimeout(() => this.#lost(), GREETING_MS);
    const { socket, WebSocket, url } = this.#options;
    this.#link = socket ? new OfficialLink(socket, this.#auth(), ears) : new OwnLink(WebSocket, url, this.#auth(), ears);
  }

  #auth() {
    const auth = { token: this.#token, protocol: this.#options.protocol, deviceId: this.#vault.deviceId };
    return this.#place ? { ...auth, lastSeq: String(this.#place.seq), epoch: this.#place.epoch } : auth;
  }

  #event(name, body) {
    switch (name) {
      case "welcome": return this.#welcomed(body);
      case "resumed": return this.#resumed(body);
      case "notification": return this.#notified(body);
      case "auth:expiring": return this.#renewToken(body);
      case "closing":
        this.#closing = body;
        this.#needFreshToken ||= TOKEN_ERRORS.has(body.code);
        this.#askedDelayMs = body.reconnectAfterMs ?? null;
        this.#emit("closing", body);
    }
  }

  #welcomed(welcome) {
    clearTimeout(this.#greeting);
    this.#needFreshToken = false;
    this.#tokenLifeMs = welcome.tokenExpiresInMs;
    this.#longestDelayMs = Math.max(SHORTEST_CEILING_MS, welcome.reconnect.maxDelayMs);
    this.#outbox.messageBytes = welcome.limits.maxMessageBytes;
    this.#userId = welcome.userId;
    this.#outbox.claim(welcome.userId);
    const first = this.#place?.userId !== welcome.userId;  // a place of another user's inbox is none
    const goesOn = !first && welcome.complete;
    if (!goesOn) this.#heard = welcome.seq;
    this.#setState("catching-up");
    this.#emit("welcome", welcome);
    const { userId, epoch, seq } = welcome;
    if (!goesOn) this.#moveOn({ userId, epoch, seq }, this.#emit("reload", { seq, epoch, first }), true);
    for (const topic of this.#topics) this.#tell("topic:subscribe", { topic });
  }

  #resumed({ seq }) {
    this.#failures = 0;  // not earlier: a server that greets and then cuts us must not be hammered
    this.#setState("online");
    this.#emit("resumed", { seq, replayed: this.#replayed });
    this.#outbox.drain();
  }

  #notified(envelope) {
    const { seq } = envelope;
    if (seq === null) return void this.#emit("notification", envelope);
    if (seq <= this.#heard) return undefined;
    if (seq > this.#heard + 1) return this.#lost();  // a hole: the inbox has it, so resume before it
    this.#heard = seq;
    if (this.#state === "catching-up") this.#replayed += 1;
    const running = this.#emit("notification", envelope);
    this.#moveOn({ seq }, running);
  }

  /** Moves the kept place once all that was told up to there has run; a failed `reload` holds it up until the next. */
  #moveOn(place, running, isReload = false) {
    const arrive = (succeeded) => {
      if (isReload) this.#stale = !succeeded;
      if (this.#stale || !this.#loaded) return;
      if (!isReload && place.seq <= this.#place.seq) return;  // another client was further when we took over from it
      this.#place = { ...this.#place, ...place };
      this.#keep("place", this.#place);
    };
    if (!this.#running && running.length === 0) return arrive(true);
    const turn = Promise.allSettled([this.#running, ...running]).then((ends) => {
      if (this.#running === turn) this.#running = null;
      arrive(ends.every(({ status }) => status === "fulfilled"));
    });
    this.#running = turn;
  }

  /** Hands over a fresh token, trying up to the old one's end. A token that begins its last minute right away would be
   * asked for again at once, so half of what it has left comes first; so does a pause where it is the old one again. */
  async #renewToken({ inMs }) {
    const attempt = this.#attempt;
    this.#needFreshToken = true;
    let delayMs = this.#tokenLifeMs - inMs < SHORT_LIFE_MS ? inMs / 2 : 0;
    for (let tries = 0; this.#attempt === attempt; tries++) {
      await pause(delayMs);
      delayMs = backOff(tries, inMs / 4);
      if (this.#attempt !== attempt) return;
      try {
        const token = await this.#options.token({ fresh: true });
        if (token === this.#token) continue;
        this.#tokenLifeMs = (await this.ask("auth:refresh", { token })).tokenExpiresInMs;
        this.#token = token;
        this.#needFreshToken = false;
        return;
      } catch {
        // In the end comes `token_expired`, and the next connect asks for a fresh one.
      }
    }
  }

  #request(event, payload, timeoutMs) {
    if (!this.#greeted) return Promise.reject(new ApplauseError({ code: "offline", retryable: true }));
    return new Promise((resolve, reject) => {
      const give = (code) => {
        clearTimeout(timer);
        this.#requests.delete(give);
        reject(new ApplauseError({ code, retryable: true, outcome: "unknown" }));
      };
      const timer = setTimeout(give, timeoutMs, "timeout");
      this.#requests.add(give);
      this.#link.emit(event, payload, (ack) => {
        resolve(ack);
        give();
      });
    });
  }

  get #greeted() { return this.#state === "online" || this.#state === "catching-up"; }

  #tell(event, payload) {
    this.ask(event, payload).catch(() => {});  // asked again on the next connection
  }

  // --- ends and new beginnings -----------------------------------------------------------------------------------

  /** The connection is gone and nobody told us to stay away. */
  #lost() {
    this.#leave("waiting");
    if (this.#state === "waiting") this.#comeBack();
  }

  /** A DISCONNECT packet: the server does not want us back, unless its `closing` said otherwise. */
  #dismissed() {
    const reason = this.#closing ?? { code: "disconnected", message: "The server ended the connection.", retryable: false };
    if (reason.retryable) return this.#lost();
    if (reason.code === "replaced") this.#outbox.keep();  // or find out that the other one has it
    this.#stayAway(reason);
  }

  #refused({ message, data }) {
    const reason = { code: message, message, retryable: false, ...data };
    const staleToken = TOKEN_ERRORS.has(reason.code) && !this.#needFreshToken;
    if (!staleToken && !reason.retryable) return this.#stayAway(reason);
    this.#needFreshToken ||= staleToken;
    this.#askedDelayMs = reason.retryAfterMs ?? null;
    this.#lost();
  }

  #stayAway(reason) {
    if (this.#state === "refused") return;
    this.#leave("refused");
    this.#emit("refused", reason);
  }

  #leave(state) {
    const link = this.#link;
    this.#attempt = this.#link = this.#closing = null;
    this.#replayed = 0;
    clearTimeout(this.#greeting);
    clearTimeout(this.#reconnect);
    if (state !== "waiting") globalThis.removeEventListener?.("online", this.#retry);
    this.#setState(state);
    for (const give of [...this.#requests]) give("disconnected");
    link?.close();
  }

  /** Reconnects when the server asked us to, else after a delay that doubles. */
  #comeBack() {
    const delayMs = this.#askedDelayMs ?? backOff(this.#failures++, this.#longestDelayMs);
    this.#askedDelayMs = null;
    this.#reconnect = setTimeout(() => this.#connect(), delayMs);
  }

  // --- actions ---------------------------------------------------------------------------------------------------

  /** Its final ack, or null: to be tried again as soon as the connection is up. */
  async #perform(deed) {
    const link = this.#link;
    const sentAt = Date.now();
    const timeoutMs = Math.min(LONGEST_ACK_TIMEOUT_MS, this.#options.ackTimeoutMs * 2 ** deed.tries);
    const ack = await this.#request(deed.event, deed.payload, timeoutMs).catch((error) => ({ ok: false, error }));
    if (ack.ok || !mayBeRepeated(ack.error, deed)) return ack;
    const { code, retryAfterMs = 0 } = ack.error;
    if (code === "disconnected" || code === "offline") return null;
    if (code === "timeout") {
      deed.tries += 1;
      if (this.#link === link && link.heardAt < sentAt) this.#lost();  // not a word since: the connection is dead
      return null;
    }
    if (code === "unauthorized") {  // the token ran out; not the action's fault
      this.#needFreshToken = true;
      if (this.#link === link) this.#lost();
    }
    if (code === "internal") deed.internalErrors += 1;
    await pause(Math.max(retryAfterMs, backOff(deed.refusals++, this.#longestDelayMs)));
    return null;
  }

  // --- what is kept ----------------------------------------------------------------------------------------------

  /** After `claim`: what was kept, the oldest first; what has been done since comes behind it. */
  #restore(kept) {
    this.#taken = false;
    if (!kept) return;
    this.#place = kept.place;
    this.#heard = kept.place?.seq ?? null;
    this.#loaded = true;
    this.#outbox.restore(kept.outbox ?? []);
  }

  #keep(name, value, newest) {
    const failed = (error) => {
      if (error.code === "replaced") this.#lose();
      else if (newest) this.#outbox.drop(newest, refusal("storage_failed", { message: String(error) }));
    };
    try {
      const done = this.#vault.save(name, value);
      if (!done) return;
      const saving = done.catch(failed).then(() => { if (this.#saving === saving) this.#saving = null; });
      this.#saving = saving;
    } catch (error) {
      failed(error);
    }
  }

  /** Another client has taken the storage over, and goes on with what was in the outbox. */
  #lose() {
    if (this.#taken) return;
    this.#taken = true;
    this.#loaded = false;
    this.#stayAway(refusal("replaced").error);
    this.#outbox.empty(refusal("replaced", { outcome: "unknown" }));
  }

  // --- small things ----------------------------------------------------------------------------------------------

  #setState(state) {
    if (state === this.#state) return;
    this.#state = state;
    this.#emit("state", state);
  }

  /** Promises of the listeners that are not done yet. What one throws is uncaught, and keeps the others from nothing. */
  #emit(name, detail) {
    const running = [];
    for (const listener of [...(this.#listeners.get(name) ?? [])]) {
      let result;
      try {
        result = listener(detail);
      } catch (error) {
        result = Promise.reject(error);
      }
      if (typeof result?.then !== "function") continue;
      running.push(result);
      result.then(undefined, (error) => setTimeout(() => { throw error; }));
    }
    return running;
  }
}

/** Worth another try? A server that fails at this very action may not hold up the rest for ever. */
function mayBeRepeated({ code, retryable, outcome }, { internalErrors }) {
  if (outcome === "unknown" || code === "unauthorized") return true;
  return retryable && !(code === "internal" && internalErrors >= INTERNAL_ERRORS);
}

const redacted = (text) => text.replace(/("token":")[^"]*/g, "$1•••");
