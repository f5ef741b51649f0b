/** One conversation as its user knows it: its row of the list, its messages, how far the others have read. No I/O. */

const KEPT = 50;                   // messages that outlive the page
const PREVIEW_CHARACTERS = 50;
export const LABELS = { image: "📷 Photo", video: "🎥 Video", audio: "🎵 Audio", gif: "GIF", sticker: "Sticker" };

const characters = new Intl.Segmenter();

export class Conversation {
  older = undefined;            // cursor of the page before; null: there is none; undefined: not known
  #toldNumber = 0;              // up to which there are messages, as `chat:open` says

  /** @param {object} row  of `GET /v1/conversations`, or what `kept` gave */
  constructor(row, me) {
    const none = { messages: [], readers: {}, failed: [], lastMessageAt: null, unreadCount: 0, lastNumber: -1 };
    Object.assign(this, none, row);
    Object.defineProperty(this, "me", { value: me });
  }

  get isDirect() { return this.title === null && this.participantIds.length === 2; }
  get others() { return this.participantIds.filter((id) => id !== this.me); }
  get newest() { return this.messages.at(-1) ?? null; }
  get activeAt() { return this.lastMessageAt ?? this.madeAt ?? ""; }

  /** Messages have gapless numbers: the first one's says whether there are more before it. */
  get hasOlder() { return this.messages[0]?.number > 1; }

  /** Whether all messages are here from the first that is on. */
  get isWhole() {
    return (this.newest?.number ?? 0) >= Math.max(this.lastNumber, this.#toldNumber) && isGapless(this.messages);
  }

  /** The number up to which all others have read, as far as the messages that are here tell. */
  get readByAll() {
    const place = (id) => this.messages.find(({ messageId }) => messageId === id)?.number ?? 0;
    return this.others.length > 0 ? Math.min(...this.others.map((id) => place(this.readers[id]))) : 0;
  }

  // --- what is told -----------------------------------------------------------------------------------------------

  changed({ participantIds, title, lastNumber, ...data }) {
    Object.assign(this, { participantIds, title });
    this.#advance(lastNumber, data);
  }

  preview({ number, timestamp, unreadCount, ...data }) {
    this.unreadCount = unreadCount;
    this.#advance(number, { ...data, lastMessageAt: timestamp });
  }

  read({ readerId, messageId, unreadCount }) {
    if (readerId === this.me) this.unreadCount = unreadCount;
    else this.readers[readerId] = messageId;
  }

  opened({ lastNumber }) {
    this.#toldNumber = lastNumber;
  }

  /** A message that has its number: an event, a row of a page, or one's own with its answer. */
  receive(message) {
    this.#put([message]);
    const { number, messageId, timestamp } = message;
    this.#advance(number, { lastMessage: previewOf(message), lastMessageId: messageId, lastMessageAt: timestamp });
  }

  /** The newest page. What does not reach up to it any more is let go; it is older, and can be asked for. */
  join({ messages, nextCursor }) {
    if (messages.length === 0) return;
    const lowest = messages.at(-1).number;
    this.#put(messages);
    this.receive(messages[0]);
    const above = this.messages.filter(({ number }) => number >= lowest);
    if (!isGapless(this.messages) && isGapless(above)) this.messages = above;
    if (this.messages[0].number === lowest) this.older = nextCursor;
  }

  /** A page before what is there; whether it brought anything. */
  joinOlder({ messages, nextCursor }) {
    const first = this.messages[0].number;
    this.#put(messages);
    this.older = nextCursor;
    return this.messages[0].number < first;
  }

  // --- own messages that were refused -----------------------------------------------------------------------------

  refuse({ actionId, content }, reason) {
    if (!this.failed.some((each) => each.actionId === actionId)) this.failed.push({ actionId, content, reason });
  }

  /** The text of one, which is no longer among them. */
  takeBack(actionId) {
    const found = this.failed.find((each) => each.actionId === actionId);
    this.failed = this.failed.filter((each) => each !== found);
    return found?.content;
  }

  // --- small things -----------------------------------------------------------------------------------------------

  /** For `JSON.stringify`: what a later page makes one of again. */
  toJSON() {
    const { older, ...rest } = this;
    return { ...rest, messages: this.messages.slice(-KEPT) };
  }

  /** The row shows the last message, whoever told of it first. */
  #advance(number, { lastMessage, lastMessageId, lastMessageAt }) {
    if (number <= this.lastNumber) return;
    Object.assign(this, { lastNumber: number, lastMessage, lastMessageId, lastMessageAt });
  }

  #put(messages) {
    const byNumber = new Map(this.messages.map((message) => [message.number, message]));
    for (const message of messages) byNumber.set(message.number, { ...byNumber.get(message.number), ...message });
    this.messages = [...byNumber.values()].sort((a, b) => a.number - b.number);
  }
}

/** What a list shows of a message: its first characters, as a person counts them. */
export function previewOf({ messageType, content }) {
  if (messageType !== "text") return LABELS[messageType] ?? messageType;
  return Array.from(characters.segment(content), ({ segment }) => segment).slice(0, PREVIEW_CHARACTERS).join("");
}

/** Whether no number is missing between the first and the last of these. */
function isGapless(messages) {
  return messages.length === 0 || messages.at(-1).number - messages[0].number === messages.length - 1;
}
