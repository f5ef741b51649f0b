/** What a phone shows of its chats: the list of conversations, and one of them with its composer. No text is HTML. */

import { Chats } from "./chats.js";
import { LABELS } from "./conversation.js";
import { arrange, spawn, stamp } from "./dom.js";
import { clock, dayOf } from "./format.js";

const MOST_CHARACTERS = 4_000;
const COUNTED_FROM = 3_800;
const CLICK_MS = 50;               // from a finger's leaving to the click, at most
const NEAR_PX = 60;                // from an end of what can be scrolled
const TICKS = {                    // what an own message has come to: its icon, and in words
  waiting: ["clock", "Waiting"],
  sent: ["tick", "Sent"],
  read: ["ticks", "Read"],
  failed: ["alert", "Not sent"],
};

const finePointer = matchMedia("(pointer: fine)");

export class Messages {
  on = false;
  #rows = new Map();            // conversationId or user -> its stamp
  #bubbles = new Map();         // key of a message -> its stamp, of the open conversation
  #days = new Map();            // day -> the element that says so
  #shownId = null;
  #isDue = false;
  #isPressed = false;           // somebody is just tapping on the list
  #isAtEnd = true;
  #drafts = new Map();          // conversationId -> what stands in its composer

  /**
   * @param {object} phone
   * @param {(name: string) => HTMLElement} phone.part
   * @param {{userId: number, name: string}} phone.user
   * @param {object} phone.demo  who the others are, and HTTP as this user
   * @param {(text: string) => void} phone.say
   */
  constructor({ client, part, user, demo, storage, tapped, say }) {
    Object.assign(this, { client, part, user, demo, say });
    this.chats = new Chats({
      client,
      storage,
      tapped,
      me: user.userId,
      request: (path, body) => demo.request(user.userId, path, body),
      changed: () => this.#showSoon(),
    });
    this.#furnish();
    this.#show();
  }

  /** The pane comes into sight, or goes. */
  turn(on) {
    this.on = on;
    this.#watch();
  }

  /** Whether news of this conversation are before somebody's eyes: the list or itself. */
  isShowing(conversationId) {
    return this.on && (this.chats.openId === null || this.chats.openId === conversationId);
  }

  #furnish() {
    const { part } = this;
    const composer = part("composer-text");
    part("conversations").addEventListener("pointerdown", () => (this.#isPressed = true));
    for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => this.#release());
    part("back").addEventListener("click", () => this.#close());
    part("chat").addEventListener("keydown", (event) => event.key === "Escape" && this.#close());
    part("older").addEventListener("click", () => this.#loadOlder());
    part("talk").addEventListener("scroll", () => this.#scrolled());
    part("composer").addEventListener("submit", (event) => this.#send(event));
    composer.addEventListener("input", () => this.#typed());
    composer.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) this.#send(event);
    });
    document.addEventListener("visibilitychange", () => this.#watch());
  }

  /** Whoever looks at another page sees nothing. */
  #watch() {
    this.chats.watch(this.on && !document.hidden);
  }

  // --- what a person does -----------------------------------------------------------------------------------------

  #open(conversationId) {
    this.chats.open(conversationId);
    this.#show();
    if (this.#isElsewhere()) return;
    (finePointer.matches ? this.part("composer-text") : this.part("talk")).focus({ preventScroll: true });
  }

  /** Somebody writes outside of this phone by now, and the next key is meant for there. */
  #isElsewhere() {
    const { activeElement, body } = document;
    return activeElement !== body && !this.part("screen").contains(activeElement);
  }

  #close() {
    const row = this.#rows.get(this.chats.openId);
    this.chats.open(null);
    this.#show();
    row?.part("row").focus({ preventScroll: true });
  }

  async #start(userId) {
    try {
      const conversationId = this.chats.directWith(userId)?.conversationId ?? (await this.chats.start(userId));
      if (this.chats.openId === null) this.#open(conversationId);  // else another was opened meanwhile: stay there
    } catch ({ message }) {
      this.say(message);
    }
  }

  #send(event) {
    event.preventDefault();
    const composer = this.part("composer-text");
    if (this.part("send").disabled) return;
    this.#isAtEnd = true;
    this.chats.send(this.chats.openId, composer.value.trim());
    composer.value = "";
    this.#drafts.delete(this.chats.openId);
    this.#measure();
  }

  #typed() {
    const { value } = this.part("composer-text");
    this.#drafts.set(this.chats.openId, value);
    this.chats.type(this.chats.openId, value.trim() === "");
    this.#measure();
  }

  /** What the text allows, and how much room it takes. */
  #measure() {
    const composer = this.part("composer-text");
    const length = [...composer.value.trim()].length;
    this.part("send").disabled = length === 0 || length > MOST_CHARACTERS;
    this.part("left").textContent = length < COUNTED_FROM ? "" : String(MOST_CHARACTERS - length);
    composer.style.height = "auto";
    composer.style.height = `${composer.scrollHeight}px`;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.part("talk");
    this.#isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    if (scrollTop < NEAR_PX && !this.#isAtEnd) this.#loadOlder();
  }

  #loadOlder() {
    const chat = this.chats.find(this.chats.openId);
    if (!chat?.hasOlder) return;
    this.part("log").setAttribute("aria-busy", "true");  // what was said before is not read out
    this.chats.loadOlder(chat);
  }

  // --- showing it -------------------------------------------------------------------------------------------------

  /** Several changes of one event are shown at once. */
  #showSoon() {
    if (this.#isDue) return;
    this.#isDue = true;
    queueMicrotask(() => this.#show());
  }

  #show() {
    this.#isDue = false;
    const chat = this.chats.find(this.chats.openId);
    this.part("list").hidden = chat !== null;
    this.part("chat").hidden = chat === null;
    this.part("screen").classList.toggle("chatting", this.on && chat !== null);
    this.#showUnread(this.chats.unread);
    this.#showList();
    if (chat) this.#showChat(chat);
    this.#shownId = chat?.conversationId ?? null;
  }

  #showUnread(unread) {
    this.part("unread").textContent = unread > 99 ? "99+" : String(unread);
    this.part("unread").hidden = unread === 0;
  }

  /** The tap's own click comes first, and what it opens. */
  #release() {
    if (!this.#isPressed) return;
    setTimeout(() => {
      this.#isPressed = false;
      this.#showList();
    }, CLICK_MS);
  }

  /** Nothing moves under a finger: the tap would be another row's, or get lost. */
  #showList() {
    if (this.#isPressed) return;
    const { chats } = this;
    const isStranger = ({ userId }) => userId !== this.user.userId && !chats.directWith(userId);
    const strangers = chats.isLoaded ? this.demo.phones.filter(isStranger) : [];
    const rows = chats.list().map((chat) => this.#conversation(chat));
    arrange(this.part("conversations"), [...rows, ...strangers.map((each) => this.#stranger(each))]);
  }

  #row(key, open) {
    if (!this.#rows.has(key)) {
      const row = stamp("conversation");
      row.part("row").addEventListener("click", open);
      this.#rows.set(key, row);
    }
    return this.#rows.get(key);
  }

  #conversation(chat) {
    const { conversationId, lastMessage, lastMessageAt } = chat;
    const row = this.#row(conversationId, () => this.#open(conversationId));
    const unread = this.chats.unreadIn(chat);
    const waiting = this.chats.waiting(conversationId).at(-1);
    const typing = this.#typing(chat);
    row.element.classList.toggle("typing", typing !== "");
    row.element.classList.toggle("waits", typing === "" && waiting !== undefined);
    this.#face(row.part("row-face"), chat);
    row.part("row-name").textContent = this.#nameOf(chat);
    row.part("preview").textContent = typing || waiting?.content || lastMessage || "Nothing said yet";
    row.part("when").textContent = lastMessageAt ? whenInList(new Date(lastMessageAt)) : "";
    row.part("row-unread").hidden = unread === 0;
    row.part("row-unread").textContent = unread > 99 ? "99+" : String(unread);
    row.part("row-spoken").textContent = unread > 0 ? `, ${unread} unread` : "";
    return row.element;
  }

  /** Somebody to begin with. */
  #stranger({ userId, name, role }) {
    const row = this.#row(`user ${userId}`, () => this.#start(userId));
    row.part("row-face").dataset.role = role;
    row.part("row-face").textContent = name[0];
    row.part("row-name").textContent = name;
    row.part("preview").textContent = "Say hello";
    return row.element;
  }

  #showChat(chat) {
    const { part } = this;
    const isNew = this.#shownId !== chat.conversationId;
    if (isNew) this.#turnTo(chat);
    const typing = this.#typing(chat);
    const members = chat.others.map((id) => this.demo.nameOf(id)).join(", ");
    part("chat-name").textContent = this.#nameOf(chat);
    part("chat-status").textContent = chat.isDirect ? "" : `You, ${members}`;
    part("typing").hidden = typing === "";
    part("typing-who").textContent = typing;
    part("older").hidden = !chat.hasOlder;
    const talk = part("talk");
    const fromEnd = talk.scrollHeight - talk.scrollTop;
    const first = part("bubbles").querySelector(".bubble");
    arrange(part("bubbles"), this.#items(chat));
    const grewAbove = part("bubbles").querySelector(".bubble") !== first;
    if (this.#isAtEnd || isNew) talk.scrollTop = talk.scrollHeight;
    else if (grewAbove) talk.scrollTop = talk.scrollHeight - fromEnd;
    if (chat.isWhole) requestAnimationFrame(() => part("log").removeAttribute("aria-busy"));
  }

  /** Another conversation is on the screen now. */
  #turnTo(chat) {
    this.#bubbles.clear();
    this.#isAtEnd = true;
    this.part("log").setAttribute("aria-busy", "true");
    this.part("log").setAttribute("aria-label", `Messages with ${this.#nameOf(chat)}`);
    this.part("bubbles").replaceChildren();
    this.#face(this.part("chat-face"), chat);
    this.part("composer-text").value = this.#drafts.get(chat.conversationId) ?? "";
    this.part("composer-text").setAttribute("aria-label", `Message to ${this.#nameOf(chat)}`);
    this.#measure();
  }

  /** The messages with the days between them. */
  #items(chat) {
    const items = [];
    let day = null;
    let sender = null;
    for (const message of this.chats.messages(chat)) {
      const time = message.timestamp ? new Date(message.timestamp) : new Date();
      const isNewDay = time.toDateString() !== day;
      if (isNewDay) items.push(this.#day(time));
      items.push(this.#bubble(chat, message, isNewDay || message.senderId !== sender));
      day = time.toDateString();
      sender = message.senderId;
    }
    return items;
  }

  #day(time) {
    const day = time.toDateString();
    if (!this.#days.has(day)) this.#days.set(day, spawn("li", "day"));
    const element = this.#days.get(day);
    if (element.textContent !== dayOf(time)) element.textContent = dayOf(time);
    return element;
  }

  /** One element for a message's whole life, from the tap on. */
  #bubble(chat, message, isFirst) {
    const key = message.actionId ?? message.messageId;
    if (!this.#bubbles.has(key)) this.#bubbles.set(key, this.#newBubble(chat, message));
    const bubble = this.#bubbles.get(key);
    const { state, timestamp, reason } = message;
    const names = isFirst && !state && !chat.isDirect;
    bubble.element.classList.toggle("first", isFirst);
    bubble.part("sender").textContent = names ? this.demo.nameOf(message.senderId) : "";
    bubble.part("sent-at").textContent = timestamp ? clock.format(new Date(timestamp)) : "";
    bubble.part("again").hidden = state !== "failed";
    if (reason) bubble.part("again").title = reason;
    bubble.part("tick").toggleAttribute("hidden", !state);
    if (!state || bubble.element.dataset.state === state) return bubble.element;
    const [icon, spoken] = TICKS[state];
    bubble.element.dataset.state = state;
    bubble.element.querySelector("use").setAttribute("href", `#icon-${icon}`);
    bubble.part("spoken-state").textContent = spoken;
    return bubble.element;
  }

  #newBubble({ conversationId }, { content, messageType, state, actionId }) {
    const bubble = stamp("bubble");
    bubble.element.classList.toggle("own", state !== null);
    bubble.part("content").textContent = [LABELS[messageType], content].filter(Boolean).join(" · ");
    bubble.part("again").addEventListener("click", () => this.chats.sendAgain(conversationId, actionId));
    return bubble;
  }

  // --- words ------------------------------------------------------------------------------------------------------

  #nameOf({ title, others }) {
    return title ?? (others.map((id) => this.demo.nameOf(id)).join(", ") || "Nobody else");
  }

  #face(face, chat) {
    face.dataset.role = chat.isDirect ? this.demo.roleOf(chat.others[0]) : "group";
    face.textContent = this.#nameOf(chat)[0];
  }

  #typing({ conversationId, isDirect }) {
    const names = this.chats.typists(conversationId).map((id) => this.demo.nameOf(id));
    if (names.length === 0) return "";
    if (names.length > 2) return "Several are typing";
    return `${names.join(" and ")} ${names.length === 1 ? "is" : "are"} typing`;
  }
}

const whenInList = (time) => (dayOf(time) === "Today" ? clock.format(time) : dayOf(time));
