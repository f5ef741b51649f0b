/**
 * The chats of one user: which there are, which is open, who is typing, what is fetched and sent. No DOM in here;
 * messages.js shows it.
 *
 * How it stays true:
 *  - The list is fetched once, when the client says `reload`. From then on it follows from events and own answers:
 *    `message_preview`, `message_read` and `conversation_changed` are durable, so a phone that was away gets them all.
 *  - Messages have gapless numbers. `message_received` brings them to a chat that is open, but nobody repeats it; so
 *    whatever tells of a higher number than is there (an event, an answer, `chat:open`) has what is missing fetched.
 *  - What is sent goes through the client's outbox. It is shown as waiting for as long as it is in there.
 *  - All of it is in `storage` before the client moves on to the next event, so a reload of the page fetches nothing.
 */

import { newActionId } from "./applause.js";
import { Conversation } from "./conversation.js";

const PAGE = 30;                   // messages that are fetched at once
const EVENTS_LOOKED_AT = 500;      // of the inbox, for how far others have read
const PATIENCE_MS = 300;           // for what is probably on its way, before it is fetched
const RETRY_MS = 2_000;
const TYPING_EVERY_MS = 2_000;     // the server takes it for over 3 s after the last one
const TYPING_AT_MOST_MS = 6_000;   // should its end get lost

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Chats {
  #all = new Map();             // conversationId -> Conversation
  #typing = new Map();          // conversationId -> Map of userId -> timer
  #early = [];                  // events that came while the list was on its way
  #isLoaded = false;
  #load = null;                 // promise of the last load
  #loads = 0;
  #openId = null;
  #isWatched = false;
  #fetching = new Set();        // conversationIds of which messages are on their way
  #reading = null;              // messageId up to which we are saying that it has been read
  #typedAt = 0;
  #client; #me; #request; #storage; #key; #changed; #tapped;

  /**
   * @param {object} around
   * @param {object} around.client   of applause.js
   * @param {number} around.me
   * @param {(path: string, body?: object) => Promise<{data: any, seq: number}>} around.request  over HTTP, as this user
   * @param {Storage} around.storage
   * @param {() => void} around.changed  something is to be shown anew
   * @param {(actionId: string) => void} around.tapped
   */
  constructor({ client, me, request, storage, changed, tapped }) {
    this.#client = client;
    this.#me = me;
    this.#request = request;
    this.#storage = storage;
    this.#key = `chats:${me}`;
    this.#changed = changed;
    this.#tapped = tapped;
    this.#restore();
    client.on("reload", () => (this.#load = this.#fetchList()));
    client.on("welcome", () => this.#enter());
    client.on("resumed", () => this.#resume());
    client.on("notification", (envelope) => this.#hear(envelope));
    client.on("settled", (settled) => this.#settle(settled));
    client.on("outbox", () => this.#changed());
    client.on("state", () => this.#forgetTyping());
  }

  // --- what there is to show --------------------------------------------------------------------------------------

  get isLoaded() { return this.#isLoaded; }
  get openId() { return this.#openId; }
  get unread() { return [...this.#all.values()].reduce((sum, chat) => sum + this.unreadIn(chat), 0); }

  /** The conversations, the newest first. */
  list() { return [...this.#all.values()].sort((a, b) => b.activeAt.localeCompare(a.activeAt)); }

  find(conversationId) { return this.#all.get(conversationId) ?? null; }

  /** The direct conversation with this user, or null. */
  directWith(userId) { return this.list().find((chat) => chat.isDirect && chat.others[0] === userId) ?? null; }

  /** What is before somebody's eyes is being read. */
  unreadIn(chat) { return this.#isShown(chat) ? 0 : chat.unreadCount; }

  /** Who is typing there, as user ids. */
  typists(conversationId) { return [...(this.#typing.get(conversationId)?.keys() ?? [])]; }

  /** Own messages on their way: [{actionId, content}]. */
  waiting(conversationId) {
    const mine = ({ event, payload }) => event === "message:send" && payload.conversationId === conversationId;
    return this.#client.outbox.filter(mine).map(({ actionId, payload }) => ({ actionId, content: payload.content }));
  }

  /** All messages, the oldest first; `state` of own ones: "sent" | "read" | "failed" | "waiting". */
  messages(chat) {
    const read = chat.readByAll;
    const mine = { senderId: this.#me, messageType: "text" };
    const state = ({ senderId, number }) => (senderId !== this.#me ? null : number <= read ? "read" : "sent");
    return [
      ...chat.messages.map((message) => ({ ...message, state: state(message) })),
      ...chat.failed.map((failed) => ({ ...failed, ...mine, state: "failed" })),
      ...this.waiting(chat.conversationId).map((waiting) => ({ ...waiting, ...mine, state: "waiting" })),
    ];
  }

  // --- what a person does -----------------------------------------------------------------------------------------

  /** Opens one conversation in place of the one that was; null: none. */
  open(conversationId) {
    if (this.#openId === conversationId) return;
    if (this.#openId) this.#tell("chat:close", { conversationId: this.#openId });
    this.#openId = conversationId;
    this.#typedAt = 0;
    this.#enter();
    this.#keep();
  }

  /** Whether what is open is before somebody's eyes: only then it counts as read. */
  watch(isWatched) {
    this.#isWatched = isWatched;
    this.#keep();
  }

  /** The id of the direct conversation with this user, new or not. */
  async start(userId) {
    const { data } = await this.#ask("v1/conversations", { participantIds: [userId] });
    if (!this.#all.has(data.conversationId)) await this.#fetchRow(data.conversationId);
    return data.conversationId;
  }

  /** Into the outbox, and from there to the others, once. */
  send(conversationId, content) {
    const actionId = newActionId();
    const payload = { conversationId, messageType: "text", content, actionId };
    this.#typedAt = 0;
    this.#tapped(actionId);
    this.#client.act("message:send", payload).catch((error) => this.#refuse(payload, error));
  }

  /** What was refused has its answer: another try is another action. */
  sendAgain(conversationId, actionId) {
    const content = this.#all.get(conversationId)?.takeBack(actionId);
    if (content) this.send(conversationId, content);
  }

  /** The text of the composer has changed. */
  type(conversationId, isEmpty) {
    const now = Date.now();
    if (isEmpty && this.#typedAt > 0) {
      this.#typedAt = 0;
      this.#tell("typing:stop", { conversationId });
    } else if (!isEmpty && now - this.#typedAt >= TYPING_EVERY_MS) {
      this.#typedAt = now;
      this.#tell("typing:start", { conversationId });
    }
  }

  /** A page more of what was said before. */
  loadOlder(chat) {
    return this.#fetchMessages(chat, async () => {
      let isDone = !chat.hasOlder;
      while (!isDone) {  // where the cursor is not known, after a reload of the page, the way begins at the newest
        isDone = chat.joinOlder(await this.#fetchPage(chat, chat.older)) || !chat.older;
      }
    });
  }

  // --- the list: fetched, then told -------------------------------------------------------------------------------

  /** Tries until it has the list, or until a newer `reload` has made this one superfluous. */
  async #fetchList() {
    const load = ++this.#loads;
    this.#isLoaded = false;
    this.#early = [];
    for (;;) {
      const found = await this.#fetchAll().catch(() => null);
      if (load !== this.#loads) return this.#load;
      if (found) return this.#adopt(found);
      await pause(RETRY_MS);
      if (load !== this.#loads) return this.#load;
    }
  }

  async #fetchAll() {
    const rows = [];
    let since = null;
    let cursor = null;
    do {
      const { data, seq } = await this.#ask(`v1/conversations?limit=100${at(cursor)}`);
      rows.push(...data.conversations);
      since ??= seq;  // later pages hold some events already, which then say the same once more
      cursor = data.nextCursor;
    } while (cursor);
    const afterSeq = Math.max(0, since - EVENTS_LOOKED_AT);
    const { events } = await this.#client.ask("inbox:fetch", { afterSeq, limit: EVENTS_LOOKED_AT });
    return { rows, since, events };
  }

  #adopt({ rows, since, events }) {
    this.#all = new Map(rows.map((row) => [row.conversationId, new Conversation(row, this.#me)]));
    for (const { type, data } of events) {  // how far others have read is in no row
      if (type === "message_read" && data.readerId !== this.#me) this.#all.get(data.conversationId)?.read(data);
    }
    this.#isLoaded = true;
    for (const envelope of this.#early.splice(0)) if (envelope.seq > since) this.#hear(envelope);
    if (!this.#all.has(this.#openId)) this.#openId = null;
    this.#keep();
  }

  async #fetchRow(conversationId) {
    const { data } = await this.#ask(`v1/conversations/${conversationId}`);
    if (!this.#all.has(conversationId)) this.#all.set(conversationId, new Conversation(data, this.#me));
    this.#keep();
  }

  #hear(envelope) {
    const { seq, type, eventType, data } = envelope;
    if (!eventType.startsWith("chat:")) return;
    if (!this.#isLoaded && seq !== null) this.#early.push(envelope);
    if (!this.#isLoaded) return;
    if (type === "conversation_changed") this.#takePart(data);
    else if (this.#all.has(data.conversationId)) this.#note(type, data, this.#all.get(data.conversationId));
    else if (seq !== null) this.#fetchRow(data.conversationId).catch(() => {});  // fell between two pages of the list
    this.#keep();
  }

  #note(type, data, chat) {
    switch (type) {
      case "message_preview": return chat.preview(data);
      case "message_received": return chat.receive(data);
      case "message_read": return chat.read(data);
      case "typing_indicator": return this.#showTyping(data);
    }
  }

  /** A conversation has come about, or others take part in it now. */
  #takePart(data) {
    const { conversationId, participantIds, timestamp } = data;
    if (!participantIds.includes(this.#me)) {
      this.#all.delete(conversationId);
      if (this.#openId === conversationId) this.#openId = null;
      return;
    }
    const known = this.#all.get(conversationId);
    const chat = known ?? new Conversation({ conversationId, madeAt: timestamp }, this.#me);
    this.#all.set(conversationId, chat);
    chat.changed(data);
  }

  #showTyping({ conversationId, userId, isTyping }) {
    const typists = this.#typing.get(conversationId) ?? new Map();
    this.#typing.set(conversationId, typists);
    clearTimeout(typists.get(userId));
    typists.delete(userId);
    if (!isTyping) return;
    const end = () => {
      typists.delete(userId);
      this.#changed();
    };
    typists.set(userId, setTimeout(end, TYPING_AT_MOST_MS));
  }

  #forgetTyping() {
    if (this.#client.state === "online") return;
    for (const typists of this.#typing.values()) for (const timer of typists.values()) clearTimeout(timer);
    this.#typing.clear();
    this.#changed();
  }

  // --- messages: what is missing is fetched, what is seen is read ---------------------------------------------------

  #tend(chat) {
    if (!chat || this.#client.state !== "online") return;
    if (chat.isWhole) this.#read(chat);
    else this.#fill(chat);
  }

  #fill(chat) {
    return this.#fetchMessages(chat, async () => {
      if (chat.newest) await pause(PATIENCE_MS);
      if (!chat.isWhole) chat.join(await this.#fetchPage(chat));
    });
  }

  /** One at a time in each conversation. */
  async #fetchMessages({ conversationId }, fetching) {
    if (this.#fetching.has(conversationId)) return;
    this.#fetching.add(conversationId);
    await fetching().catch(() => pause(RETRY_MS));
    this.#fetching.delete(conversationId);
    this.#keep();
  }

  async #fetchPage({ conversationId }, cursor) {
    return (await this.#ask(`v1/conversations/${conversationId}/messages?limit=${PAGE}${at(cursor)}`)).data;
  }

  #isShown({ conversationId }) { return this.#isWatched && conversationId === this.#openId; }

  async #read(chat) {
    const messageId = chat.newest?.messageId;
    if (!this.#isShown(chat) || chat.unreadCount === 0 || this.#reading === messageId) return;
    this.#reading = messageId;
    try {
      const { unreadCount } = await this.#client.ask("message:read", { conversationId: chat.conversationId, messageId });
      chat.unreadCount = unreadCount;
    } catch {
      // said again with the next message, or on the next connection
    }
    this.#reading = null;
    if (this.#isLoaded) this.#save();
    this.#changed();
  }

  // --- own messages -----------------------------------------------------------------------------------------------

  /** Answers come here whether they are this page's or one's before a reload. */
  #settle({ event, payload, ack }) {
    if (event !== "message:send") return;
    if (!ack.ok) return void this.#refuse(payload, ack.error);
    const { conversationId, ...message } = payload;
    this.#all.get(conversationId)?.receive({ ...message, ...ack.data, senderId: this.#me });
    this.#keep();
  }

  /** Not sent, for certain. What may have been sent all the same is not offered again. */
  #refuse(payload, { message, outcome }) {
    if (outcome !== "unknown") this.#all.get(payload.conversationId)?.refuse(payload, message);
    this.#keep();
  }

  // --- the connection ---------------------------------------------------------------------------------------------

  /** Each connection must be told anew which chat is open. */
  #enter() {
    const conversationId = this.#openId;
    if (conversationId === null) return;
    const opened = (standing) => {
      this.#all.get(conversationId)?.opened(standing);
      this.#keep();
    };
    this.#client.ask("chat:open", { conversationId }).then(opened, () => {});  // offline: with the next welcome
  }

  #resume() {
    if (!this.#isLoaded && this.#loads === 0) this.#load = this.#fetchList();  // what was kept has got lost
    this.#keep();
  }

  #tell(event, payload) {
    this.#client.ask(event, payload).catch(() => {});  // of no use later
  }

  #ask(path, body) {
    const { state } = this.#client;
    if (state !== "online" && state !== "catching-up") return Promise.reject(new Error("There is no connection."));
    return this.#request(path, body);
  }

  // --- what outlives the page -------------------------------------------------------------------------------------

  #keep() {
    if (this.#isLoaded) this.#save();
    this.#tend(this.#all.get(this.#openId));
    this.#changed();
  }

  #save() {
    try {
      this.#storage.setItem(this.#key, JSON.stringify([...this.#all.values()]));
    } catch {
      this.#storage.removeItem(this.#key);  // too much for it: rather nothing than what is no longer true
    }
  }

  #restore() {
    const kept = this.#storage.getItem(this.#key);
    if (kept === null) return;
    this.#all = new Map(JSON.parse(kept).map((row) => [row.conversationId, new Conversation(row, this.#me)]));
    this.#isLoaded = true;
  }
}

const at = (cursor) => (cursor ? `&cursor=${encodeURIComponent(cursor)}` : "");
