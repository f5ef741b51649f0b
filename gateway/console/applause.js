/**
 * Applause's reference client for JavaScript: one authenticated Socket.IO connection over the platform's own WebSocket.
 *
 * It does what every app has to: resumes after `lastSeq` and `epoch`, drops what it already has, renews its token,
 * comes back after a loss without stampeding, and repeats an unanswered action with the same `actionId`, so that
 * nothing is lost and nothing is paid twice.
 *
 *     const client = new ApplauseClient({ url: location.origin, getToken: async () => token });
 *     client.on("notification", (envelope) => show(envelope));
 *     client.start();
 *     const ack = await client.perform("video:like", { videoId: "sunrise" });
 *
 * Events (`on(name, listener)`):
 *     state         "stopped" | "connecting" | "catching-up" | "online" | "waiting" | "refused"
 *     welcome       the server's greeting as it came
 *     reload        the inbox cannot bridge the gap: fetch the user's state again and go on from `welcome.seq`
 *     notification  one envelope; `seq` is null for ephemeral ones
 *     resumed       {seq, replayed}: how many events arrived between welcome and now
 *     closing       {code, message, retryable, reconnectAfterMs}
 *     refused       {code, message, retryable}: the server wants no further connection from us
 *     outbox        number of actions that wait for their answer
 *     frame         {direction: "in" | "out", text}: the wire as it is, tokens redacted
 */

const PROTOCOL = "1";
const REQUEST_TIMEOUT_MS = 8_000;
const FIRST_DELAY_MS = 400;
const LONGEST_DELAY_MS = 20_000;
const WELCOME_TIMEOUT_MS = 10_000;
const OUTBOX_LIMIT = 500;
const ATTEMPTS_AT_AN_INTERNAL_ERROR = 6;
const TOKEN_ERRORS = new Set(["token_expired", "token_invalid"]);

/** A request that got no answer; `code` is "offline", "disconnected", "timeout" or "outbox_full". */
export class ApplauseError extends Error {
  constructor(code) {
    super(code);
    this.name = "ApplauseError";
    this.code = code;
  }
}

/** A fresh idempotency key: a random UUID, also where `crypto.randomUUID` is missing (plain HTTP off localhost). */
export function newActionId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

export class ApplauseClient {
  #url; #getToken; #deviceId; #WebSocket;
  #lastSeq; #epoch;
  #state = "stopped";
  #listeners = new Map();
  #topics = new Set();

  // of the present connection
  #attempt = null;              // identity of the running attempt: whatever an older one still reports is ignored
  #socket = null;
  #greeted = false;
  #replayed = 0;
  #pending = new Map();         // ack id -> {resolve, reject, timer}
  #nextAckId = 0;
  #silence = null;              // timer: the server owes us a packet by then
  #heartbeatMs = WELCOME_TIMEOUT_MS;

  // across connections
  #reconnect = null;            // timer
  #failures = 0;
  #longestDelayMs = LONGEST_DELAY_MS;
  #askedDelayMs = null;         // what the server's `closing` asked for
  #closing = null;
  #needFreshToken = false;
  #outbox = [];
  #draining = false;

  /**
   * @param {object} options
   * @param {string} options.url             origin of the gateway, http(s) or ws(s)
   * @param {(need: {fresh: boolean}) => Promise<string>} options.getToken  asked at each connect and before expiry
   * @param {string} [options.deviceId]      one connection per device: a newer one replaces the older
   * @param {number} [options.lastSeq]       go on after this event ...
   * @param {string} [options.epoch]         ... of this history
   */
  constructor({ url, getToken, deviceId, lastSeq, epoch, WebSocket = globalThis.WebSocket }) {
    this.#url = `${url.replace(/^http/, "ws").replace(/\/$/, "")}/socket.io/?EIO=4&transport=websocket`;
    this.#getToken = getToken;
    this.#deviceId = deviceId;
    this.#lastSeq = lastSeq ?? null;
    this.#epoch = epoch ?? null;
    this.#WebSocket = WebSocket;
  }

  get state() { return this.#state; }
  get lastSeq() { return this.#lastSeq; }
  get epoch() { return this.#epoch; }
  get waiting() { return this.#outbox.length; }

  /** Calls `listener` at each event `name`; the returned function ends that. */
  on(name, listener) {
    if (!this.#listeners.has(name)) this.#listeners.set(name, new Set());
    this.#listeners.get(name).add(listener);
    return () => this.#listeners.get(name).delete(listener);
  }

  /** Connects, and stays connected until `stop`. */
  start() {
    if (this.#state !== "stopped" && this.#state !== "refused") return;
    this.#failures = 0;
    this.#connect();
  }

  /** Goes offline. The outbox and the place in the inbox are kept for the next `start`. */
  stop() {
    clearTimeout(this.#reconnect);
    if (this.#greeted) this.#send("41");
    this.#leave("stopped");
  }

  /** Skips what is left of a reconnect delay, for example when the device reports a network again. */
  retryNow() {
    if (this.#state !== "waiting") return;
    clearTimeout(this.#reconnect);
    this.#connect();
  }

  /**
   * Sends one event and resolves with its ack, success or refusal. For reads, and for writes that need no repeating.
   * @throws {ApplauseError} where no answer came; the request may have been carried out all the same
   */
  request(event, payload = {}, { timeoutMs = REQUEST_TIMEOUT_MS } = {}) {
    if (!this.#greeted) return Promise.reject(new ApplauseError("offline"));
    const id = this.#nextAckId++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        reject(new ApplauseError("timeout"));
      }, timeoutMs);
      this.#pending.set(id, { resolve, reject, timer });
      this.#send(`42${id}${JSON.stringify([event, payload])}`);
    });
  }

  /**
   * Carries out one action for certain: gives it an `actionId`, keeps it over losses of the connection, repeats it
   * until there is an answer, and resolves with that ack. An ack with `outcome: "unknown"` is the last resort.
   */
  perform(event, payload = {}) {
    if (this.#outbox.length >= OUTBOX_LIMIT) return Promise.reject(new ApplauseError("outbox_full"));
    return new Promise((resolve) => {
      this.#outbox.push({ event, payload: { ...payload, actionId: newActionId() }, resolve, attempts: 0 });
      this.#emit("outbox", this.#outbox.length);
      this.#drain();
    });
  }

  /** Follows a live topic, now and after every reconnect. */
  subscribe(topic) {
    this.#topics.add(topic);
    if (this.#greeted) this.#tell("topic:subscribe", { topic });
  }

  unsubscribe(topic) {
    this.#topics.delete(topic);
    if (this.#greeted) this.#tell("topic:unsubscribe", { topic });
  }

  // --- one connection ------------------------------------------------------------------------------------------

  async #connect() {
    const attempt = (this.#attempt = {});
    this.#setState("connecting");
    let token;
    try {
      token = await this.#getToken({ fresh: this.#needFreshToken });
    } catch {
      if (this.#attempt === attempt) this.#comeBack();
      return;
    }
    if (this.#attempt !== attempt) return;
    const socket = (this.#socket = new this.#WebSocket(this.#url));
    const ours = (handler) => (event) => { if (this.#attempt === attempt) handler(event); };
    socket.onmessage = ours(({ data }) => this.#receive(data, token));
    socket.onclose = ours(() => this.#lost());
    this.#listenFor(WELCOME_TIMEOUT_MS);
  }

  #receive(text, token) {
    this.#emit("frame", { direction: "in", text: redacted(text) });
    this.#listenFor(this.#heartbeatMs);
    switch (text[0]) {
      case "0": return this.#open(JSON.parse(text.slice(1)), token);
      case "1": return this.#lost();
      case "2": return this.#send("3");
      case "4": return this.#packet(text[1], text.slice(2));
    }
  }

  #open({ pingInterval, pingTimeout }, token) {
    this.#heartbeatMs = pingInterval + pingTimeout;
    const auth = { token, protocol: PROTOCOL };
    if (this.#deviceId) auth.deviceId = this.#deviceId;
    if (this.#lastSeq !== null) Object.assign(auth, { lastSeq: String(this.#lastSeq), epoch: this.#epoch });
    this.#send(`40${JSON.stringify(auth)}`);
  }

  #packet(type, rest) {
    switch (type) {
      case "1": return this.#dismissed();
      case "2": return this.#event(...JSON.parse(rest));
      case "3": return this.#answered(rest);
      case "4": return this.#refused(JSON.parse(rest));
    }
  }

  #event(name, body) {
    switch (name) {
      case "welcome": return this.#welcomed(body);
      case "resumed": return this.#resumed(body);
      case "notification": return this.#notified(body);
      case "auth:expiring": return this.#renewToken();
      case "closing":
        this.#closing = body;
        this.#askedDelayMs = body.reconnectAfterMs ?? null;
        return this.#emit("closing", body);
    }
  }

  #welcomed(welcome) {
    this.#greeted = true;
    this.#needFreshToken = false;
    this.#longestDelayMs = welcome.reconnect?.maxDelayMs ?? LONGEST_DELAY_MS;
    if (this.#lastSeq === null || !welcome.complete) this.#lastSeq = welcome.seq;
    this.#epoch = welcome.epoch;
    this.#setState("catching-up");
    this.#emit("welcome", welcome);
    if (!welcome.complete) this.#emit("reload", welcome);
    for (const topic of this.#topics) this.#tell("topic:subscribe", { topic });
  }

  #resumed({ seq }) {
    this.#failures = 0;  // not earlier: a server that greets and then cuts us must not be hammered
    this.#setState("online");
    this.#emit("resumed", { seq, replayed: this.#replayed });
    this.#drain();
  }

  #notified(envelope) {
    if (envelope.seq !== null) {
      if (envelope.seq <= this.#lastSeq) return;
      if (envelope.seq > this.#lastSeq + 1) return this.#lost();  // a hole: the inbox has it, so resume before it
      this.#lastSeq = envelope.seq;
      if (this.#state === "catching-up") this.#replayed += 1;
    }
    this.#emit("notification", envelope);
  }

  #answered(rest) {
    const [, id, body] = /^(\d+)(.*)$/s.exec(rest);
    const request = this.#pending.get(Number(id));
    if (!request) return;  // it came after its time-out
    this.#pending.delete(Number(id));
    clearTimeout(request.timer);
    request.resolve(JSON.parse(body)[0]);
  }

  async #renewToken() {
    const attempt = this.#attempt;
    this.#needFreshToken = true;
    try {
      const token = await this.#getToken({ fresh: true });
      if (this.#attempt !== attempt) return;
      const ack = await this.request("auth:refresh", { token });
      if (ack.ok) this.#needFreshToken = false;
    } catch {
      // The server ends the connection with `token_expired`, and the next connect asks for a fresh token.
    }
  }

  // --- ends and new beginnings -----------------------------------------------------------------------------------

  /** The connection is gone and nobody told us to stay away. */
  #lost() {
    this.#leave("waiting");
    this.#comeBack();
  }

  /** A DISCONNECT packet: the server does not want us back, unless its `closing` said otherwise. */
  #dismissed() {
    if (this.#closing?.retryable) return this.#lost();
    this.#stayAway(this.#closing ?? { code: "disconnected", message: "The server ended the connection.", retryable: false });
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
    this.#leave("refused");
    this.#emit("refused", reason);
  }

  #leave(state) {
    const socket = this.#socket;
    this.#attempt = this.#socket = this.#closing = null;
    this.#greeted = false;
    this.#replayed = 0;
    clearTimeout(this.#silence);
    const unanswered = [...this.#pending.values()];
    this.#pending.clear();
    this.#setState(state);
    for (const { reject, timer } of unanswered) {
      clearTimeout(timer);
      reject(new ApplauseError("disconnected"));
    }
    socket?.close();
  }

  /** Reconnects when the server asked us to, else after a delay that doubles, half of it by lot. */
  #comeBack() {
    const ceiling = Math.min(this.#longestDelayMs, FIRST_DELAY_MS * 2 ** this.#failures++);
    const delay = this.#askedDelayMs ?? ceiling * (0.5 + Math.random() / 2);
    this.#askedDelayMs = null;
    this.#setState("waiting");
    clearTimeout(this.#reconnect);
    this.#reconnect = setTimeout(() => this.#connect(), delay);
  }

  #listenFor(ms) {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#lost(), ms);
  }

  // --- outbox ----------------------------------------------------------------------------------------------------

  /** One at a time, in order: an unlike must never overtake the like that waits for its second try. */
  async #drain() {
    if (this.#draining) return;
    this.#draining = true;
    while (this.#state === "online" && this.#outbox.length > 0) {
      const deed = this.#outbox[0];
      const ack = await this.request(deed.event, deed.payload).catch(unanswered);
      if (ack.error?.code === "disconnected") continue;
      if (mayBeRepeated(ack, deed)) {
        const delay = Math.min(this.#longestDelayMs, FIRST_DELAY_MS * 2 ** deed.attempts++);
        await pause(Math.max(ack.error.retryAfterMs ?? 0, delay));
        continue;
      }
      this.#outbox.shift();
      this.#emit("outbox", this.#outbox.length);
      deed.resolve(ack);
    }
    this.#draining = false;
  }

  // --- small things ----------------------------------------------------------------------------------------------

  #tell(event, payload) {
    this.request(event, payload).catch(() => {});  // asked again on the next connection
  }

  #send(text) {
    if (this.#socket?.readyState !== 1) return;
    this.#emit("frame", { direction: "out", text: redacted(text) });
    this.#socket.send(text);
  }

  #setState(state) {
    if (state === this.#state) return;
    this.#state = state;
    this.#emit("state", state);
  }

  #emit(name, detail) {
    for (const listener of this.#listeners.get(name) ?? []) listener(detail);
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const redacted = (text) => text.replace(/("token":")[^"]*/g, "$1•••");

/** A busy or absent server is waited for; one that fails at this very action may not hold up the rest for ever. */
function mayBeRepeated({ ok, error }, { attempts }) {
  if (ok || (error.code === "internal" && attempts >= ATTEMPTS_AT_AN_INTERNAL_ERROR)) return false;
  return error.retryable || error.outcome === "unknown";
}

const unanswered = ({ code }) => ({ ok: false, error: { code, message: code, retryable: true, outcome: "unknown" } });
