/**
 * One phone of the demo page. Everything that it shows comes from what the server said, acks and notifications:
 * the page keeps no truth of its own. What was tapped and has no answer yet is in the client's outbox, which survives a
 * reload of this tab.
 */

import { connect, newActionId } from "./applause.js";
import { spawn, stamp } from "./dom.js";
import { calm, clock, money, signed } from "./format.js";
import { Messages } from "./messages.js";
import { PersonCard } from "./person.js";
import { told, waiting } from "./told.js";
import { VideoCard } from "./video.js";

const TOAST_MS = 4_200;
const EVENTS_KEPT = 60;
const TOASTS_AT_ONCE = 1;
const WAITING_SHOWN = 3;

const STATES = {
  stopped: "Offline",
  connecting: "Connecting",
  "catching-up": "Catching up",
  online: "Online",
  waiting: "Reconnecting",
  refused: "Refused",
};
const ROLES = { viewer: "Viewer, earns by liking and sharing", creator: "Creator, earns when others do" };
const SCENES = ["dawn", "hearth", "night", "sea"];

/** A balance that counts up for the eyes, and is read out once for the ears. */
class Balance {
  #shown = null;
  #frame = 0;

  constructor(visible, spoken, gains) {
    Object.assign(this, { visible, spoken, gains });
  }

  get known() { return this.#shown !== null; }

  show(value) {
    const from = this.#shown ?? value;
    this.#shown = value;
    this.spoken.textContent = `Balance ${money.format(value)} LYK`;
    if (value > from) this.#celebrate(value - from);
    this.#count(from, value);
  }

  #count(from, to) {
    cancelAnimationFrame(this.#frame);
    const length = calm.matches || from === to ? 0 : 700;
    const start = performance.now();
    const step = (now) => {
      const done = length ? Math.min(1, Math.max(0, (now - start) / length)) : 1;
      this.visible.textContent = money.format(from + (to - from) * (1 - (1 - done) ** 3));
      if (done < 1) this.#frame = requestAnimationFrame(step);
    };
    step(start);
  }

  #celebrate(gain) {
    const chip = spawn("span", "gain", `+${money.format(gain)}`);
    chip.addEventListener("animationend", () => chip.remove());
    this.gains.replaceChildren(chip);
  }
}

export class Phone {
  #unread = 0;
  #lastWalletSeq = 0;
  #cards = new Map();
  #since = new Map();           // actionId -> when it was tapped; null where there was no connection

  constructor(user, { demo, tour, wire, figures }) {
    const { element, part } = stamp("phone");
    Object.assign(this, { user, demo, tour, figures, element, part });
    this.balance = new Balance(part("balance"), part("spoken-balance"), part("gains"));
    this.client = connect({
      url: location.origin,
      token: (need) => demo.token(user.userId, need),
      user: user.userId,
      storage: sessionStorage,
    });
    this.messages = new Messages({
      client: this.client,
      part,
      user,
      demo,
      storage: sessionStorage,
      tapped: (actionId) => this.#tap(actionId),
      say: (text) => this.#say(text),
    });
    this.#furnish();
    this.#fillFeed();
    this.#listen(wire.column(user.name));
    this.#showOutbox(this.client.outbox);
    this.#switch(sessionStorage.getItem(this.#offlineKey) === null);
    this.open(user.role === "creator" ? "activity" : "feed");
  }

  /** Shows one of the panes. */
  open(pane) {
    this.pane = pane;
    for (const each of this.element.querySelectorAll("[data-pane]")) each.hidden = each.dataset.pane !== pane;
    for (const tab of this.element.querySelectorAll("[data-tab]")) {
      tab.setAttribute("aria-current", String(tab.dataset.tab === pane));
    }
    if (pane === "activity") this.#countUnread(0);
    this.messages.turn(pane === "messages");
  }

  #furnish() {
    const { user, element, part } = this;
    element.dataset.phone = user.role;
    element.setAttribute("aria-label", `${user.name}’s phone`);
    part("name").textContent = user.name;
    part("role").textContent = ROLES[user.role] ?? user.role;
    part("face").textContent = user.name[0];
    part("switch").setAttribute("aria-label", `${user.name}’s network`);
    part("switch").addEventListener("click", () => this.#toggleNetwork());
    for (const tab of element.querySelectorAll("[data-tab]")) {
      tab.addEventListener("click", () => this.open(tab.dataset.tab));
    }
    const tick = () => { part("clock").textContent = clock.format(); };
    tick();
    setInterval(tick, 10_000);
  }

  #fillFeed() {
    const feed = this.element.querySelector('[data-pane="feed"]');
    const act = (event, payload) => this.#act(event, payload);
    const readComments = (videoId) => this.#readComments(videoId);
    this.person = new PersonCard(this.demo.phones.find(({ userId }) => userId !== this.user.userId), { act });
    feed.append(this.person.element);
    this.demo.videos.forEach((video, index) => {
      const owner = video.ownerId === this.user.userId ? "by you" : `by ${this.demo.nameOf(video.ownerId)}`;
      const scene = SCENES[index % SCENES.length];
      const card = new VideoCard(video, { owner, scene, act, readComments });
      this.#cards.set(video.videoId, card);
      feed.append(card.element);
    });
  }

  #listen(column) {
    const { client } = this;
    client.on("state", (state) => this.#showState(state));
    client.on("welcome", (welcome) => this.#greet(welcome));
    client.on("notification", (envelope) => this.#hear(envelope));
    client.on("resumed", ({ replayed }) => this.#caughtUp(replayed));
    client.on("outbox", (actions) => this.#showOutbox(actions));
    client.on("settled", (settled) => this.#answered(settled));
    client.on("closing", ({ message, code }) => this.#say(message || code));
    client.on("refused", ({ message, code }) => this.#say(message || code));
    client.on("frame", (frame) => column.add(frame));
  }

  #act(event, payload) {
    const actionId = newActionId();
    this.#tap(actionId);
    this.client.act(event, { ...payload, actionId }).catch(({ message }) => {
      if (this.#since.delete(actionId)) this.#say(message);  // it was not even taken
    });
  }

  #tap(actionId) {
    this.#since.set(actionId, this.client.state === "online" ? performance.now() : null);
  }

  /** Answers come here whether they are this page's or one's before a reload. */
  #answered({ actionId, event, payload, ack }) {
    const since = this.#since.get(actionId) ?? null;
    this.#since.delete(actionId);
    this.figures.answered(since && performance.now() - since);
    const card = this.#cards.get(payload.videoId);
    if (card) card.answered(event, ack);
    else if (event !== "message:send") this.person.answered(event, payload, ack);
    this.tour.saw({ what: "answer", by: this.user.role, event, ack, waited: since === null });
  }

  get #offlineKey() { return `demo:${this.user.userId}:offline`; }

  #toggleNetwork() {
    const online = this.part("switch").getAttribute("aria-checked") !== "true";
    if (online) sessionStorage.removeItem(this.#offlineKey);
    else sessionStorage.setItem(this.#offlineKey, "yes");
    this.#switch(online);
    this.tour.saw({ what: online ? "back" : "away", by: this.user.role });
  }

  #switch(online) {
    this.part("switch").setAttribute("aria-checked", String(online));
    if (online) this.client.open();
    else this.client.close();
    this.#showState(this.client.state);
  }

  #showState(state) {
    this.element.dataset.state = state;
    this.part("state").textContent = STATES[state];
    if (state === "stopped") this.#sayWaiting(this.client.outbox);
  }

  #showOutbox(actions) {
    const about = (id) => actions.filter(({ payload }) => payload.videoId === id);
    for (const [videoId, card] of this.#cards) card.showWaiting(about(videoId));
    this.person.showWaiting(about(undefined));
    const more = actions.length - WAITING_SHOWN;
    const rows = actions.slice(0, WAITING_SHOWN).map((action) => this.#waitingRow(waiting(action, this.demo)));
    if (more > 0) rows.push(spawn("li", "more", `and ${more} more`));
    this.part("outbox").replaceChildren(...rows);
    if (this.client.state !== "online" && actions.length > 0) this.#sayWaiting(actions);
  }

  #waitingRow({ icon, text }) {
    const { element, part } = stamp("waiting");
    element.querySelector("use").setAttribute("href", `#icon-${icon}`);
    part("text").textContent = text;
    return element;
  }

  #sayWaiting(actions) {
    const count = actions.length;
    const written = actions.every(({ event }) => event === "message:send");
    const [noun, place] = written ? ["message", ""] : ["tap", " in the outbox"];  // they show their clocks anyway
    const waiting = count === 1 ? `1 ${noun} waits` : `${count} ${noun}s wait`;
    this.#say(count > 0 ? `Offline. ${waiting}${place}.` : "Offline. Taps wait in the outbox.", { stay: true });
  }

  async #readComments(videoId) {
    if (this.client.state !== "online") return null;
    const path = `v1/videos/${encodeURIComponent(videoId)}/comments?limit=20`;
    return this.demo.request(this.user.userId, path).then(({ data }) => data.comments, () => null);
  }

  /** On the first connect, and where the inbox could not bridge the gap, the state is fetched; else it is replayed. */
  #greet({ seq, complete }) {
    if (this.balance.known && complete) return this.#refreshTotals();
    this.#lastWalletSeq = 0;
    this.part("events").replaceChildren();
    this.#load(seq, (complete && this.client.lastSeq) || seq);
  }

  /** `seq` is the inbox's head, `from` where the replay begins: what was before it is fetched. */
  async #load(seq, from) {
    try {
      const { balances } = await this.client.ask("wallet:get");
      const lyk = balances.find(({ currency }) => currency === "LYK");
      if (this.#lastWalletSeq <= seq) this.balance.show(lyk?.balance ?? 0);  // else an event was faster
      if (from === 0) return;
      const page = await this.client.ask("inbox:fetch", { afterSeq: Math.max(0, from - 100), limit: 100 });
      const old = page.events.filter((envelope) => envelope.seq <= from && !isChat(envelope)).slice(-20);
      this.part("events").append(...old.map((envelope) => this.#row(envelope)).reverse());
      this.part("empty").hidden = this.part("events").childElementCount > 0;
    } catch {
      // The connection went away meanwhile; the next welcome asks again.
    }
  }

  async #refreshTotals() {
    const videos = await this.demo.currentVideos();
    for (const video of videos) this.#cards.get(video.videoId)?.showTotals(video);
  }

  #hear(envelope) {
    if (envelope.seq === null) return;
    const live = this.client.state === "online";
    if (envelope.data.newBalance !== undefined && (envelope.data.currency ?? "LYK") === "LYK") {
      this.#lastWalletSeq = envelope.seq;
      this.balance.show(envelope.data.newBalance);
    }
    if (envelope.data.metadata?.videoId) this.#showTotals(envelope.data.metadata);
    if (envelope.type === "video_comment") this.#cards.get(envelope.data.videoId)?.refreshComments();
    if (!isChat(envelope)) this.#keep(envelope, live);
    if (live && this.#isNews(envelope)) this.#toast(envelope);
    this.figures.delivered();
    this.tour.saw({ what: "notification", by: this.user.role, type: envelope.type, live });
  }

  #showTotals({ videoId, totalLikes: likes, totalViews: views, totalShares: shares }) {
    this.#cards.get(videoId)?.showTotals({ likes, views, shares });
  }

  #keep(envelope, live) {
    const row = this.#row(envelope);
    row.classList.add("new");
    row.classList.toggle("replayed", !live);
    this.part("events").prepend(row);
    while (this.part("events").childElementCount > EVENTS_KEPT) this.part("events").lastElementChild.remove();
    this.part("empty").hidden = true;
    if (this.pane !== "activity") this.#countUnread(this.#unread + 1);
  }

  #row(envelope) {
    const { icon, text, detail, points } = told(envelope, this.demo);
    const { element, part } = stamp("event");
    element.dataset.icon = icon;
    element.dataset.seq = envelope.seq;
    element.querySelector("use").setAttribute("href", `#icon-${icon}`);
    part("text").textContent = text;
    part("detail").textContent = [detail, clock.format(new Date(envelope.timestamp))].filter(Boolean).join(" · ");
    if (points !== undefined) part("points").textContent = signed(points);
    return element;
  }

  /** Not in the list that is open, nor of what was done here. */
  #isNews({ type, eventType, data }) {
    if (!isChat({ eventType })) return this.pane !== "activity";
    return type === "message_preview" && !this.messages.isShowing(data.conversationId);
  }

  #toast(envelope) {
    const { icon, text, points } = told(envelope, this.demo);
    const toast = spawn("p", "toast", text);
    toast.dataset.icon = icon;
    if (points !== undefined) toast.append(spawn("strong", points < 0 ? "spent" : "", signed(points)));
    const toasts = this.part("toasts");
    toasts.append(toast);
    while (toasts.childElementCount > TOASTS_AT_ONCE) toasts.firstElementChild.remove();
    setTimeout(() => toast.remove(), TOAST_MS);
  }

  #countUnread(unread) {
    this.#unread = unread;
    this.part("badge").textContent = unread > 99 ? "99+" : String(unread);
    this.part("badge").hidden = unread === 0;
  }

  #caughtUp(replayed) {
    if (replayed > 0) {
      this.#say(`Caught up ${replayed} ${replayed === 1 ? "event" : "events"}`);
      this.tour.saw({ what: "caught-up", by: this.user.role });
    } else {
      this.#say("");
    }
  }

  #say(text, { stay = false } = {}) {
    const banner = this.part("banner");
    clearTimeout(this.silence);
    banner.textContent = text;
    banner.classList.toggle("shown", text !== "");
    if (text && !stay) this.silence = setTimeout(() => banner.classList.remove("shown"), TOAST_MS);
  }
}

/** The messages' own pane has these. */
const isChat = ({ eventType }) => eventType.startsWith("chat:");
