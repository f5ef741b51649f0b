/**
 * One phone of the demo page. Everything that it shows comes from what the server said, acks and notifications:
 * the page keeps no truth of its own.
 */

import { ApplauseClient, newActionId } from "./applause.js";
import { replay, spawn, stamp } from "./dom.js";

const WATCH_MS = 1_600;
const TOAST_MS = 4_200;
const EVENTS_KEPT = 60;
const TOASTS_AT_ONCE = 1;

const money = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const count = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const signed = (points) => `${points < 0 ? "−" : "+"}${money.format(Math.abs(points))}`;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const STATES = {
  stopped: "Offline",
  connecting: "Connecting",
  "catching-up": "Catching up",
  online: "Online",
  waiting: "Reconnecting",
  refused: "Refused",
};
const ROLES = { viewer: "Viewer, earns by liking and sharing", creator: "Creator, earns when others do" };
const REASONS = {
  own_video: "Your own video: counted, not paid",
  already_paid: "Counted. Paid once before, so not again",
  daily_cap: "Counted. Today’s cap is reached",
  not_eligible: "Counted. Not eligible for points",
};
const SCENES = ["dawn", "hearth", "night", "sea"];

// --- what a notification says ----------------------------------------------------------------------------------

/** @returns {{icon: string, text: string, detail?: string, points?: number}} */
function told({ type, eventType, data }, titleOf) {
  const actors = `${data.actorUsername ?? "Somebody"}${data.count > 1 ? ` and ${data.count - 1} more` : ""}`;
  switch (type) {
    case "video_like":
      return { icon: "heart", text: `${actors} liked your video`, detail: titleOf(data.videoId) };
    case "video_share":
      return { icon: "share", text: `${actors} shared your video`, detail: titleOf(data.videoId) };
    case "points_earned":
      return { icon: "coin", text: data.reason, detail: data.metadata?.videoTitle, points: data.points };
    case "points_deducted":
      return { icon: "coin", text: data.reason, detail: data.metadata?.itemName, points: -data.points };
    case "wallet_update":
      return { icon: "coin", text: data.reason, points: data.newBalance - data.previousBalance };
    case "profile_followed":
      return { icon: "star", text: `${actors} follows you` };
    default:
      return { icon: "bell", text: (type ?? eventType).replaceAll("_", " ") };
  }
}

// --- parts of a phone ------------------------------------------------------------------------------------------

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

/** One video of the feed: its picture, its buttons, its totals. */
class VideoCard {
  #playing = false;

  constructor(video, { owner, scene, act }) {
    const { element, part } = stamp("video");
    Object.assign(this, { video, element, part, act });
    element.dataset.video = video.videoId;
    element.querySelector(".art").classList.add(scene);
    part("title").textContent = video.title;
    part("owner").textContent = owner;
    part("view").setAttribute("aria-label", `Play ${video.title}`);
    part("like").addEventListener("click", () => this.#toggleLike());
    part("view").addEventListener("click", () => this.#play());
    part("share").addEventListener("click", () => this.#do("video:share", "shares", { channel: "demo" }));
    this.showTotals(video);
  }

  showTotals(totals) {
    for (const kind of ["likes", "views", "shares"]) {
      if (totals[kind] !== undefined) this.part(kind).textContent = count.format(totals[kind]);
    }
    this.part("like").setAttribute("aria-label", `Like ${this.video.title}, ${this.part("likes").textContent} likes`);
    this.part("share").setAttribute("aria-label", `Share ${this.video.title}, ${this.part("shares").textContent} shares`);
  }

  async #toggleLike() {
    const heart = this.part("like");
    const liked = heart.getAttribute("aria-pressed") !== "true";
    heart.setAttribute("aria-pressed", String(liked));
    if (liked) this.#burst(heart);
    const ack = await this.#do(liked ? "video:like" : "video:unlike", "likes");
    if (!ack.ok) heart.setAttribute("aria-pressed", String(!liked));
  }

  #burst(heart) {
    replay(heart, "pop");
    if (calm.matches) return;
    for (let spark = 0; spark < 8; spark++) {
      const element = spawn("i", "spark");
      element.style.setProperty("--turn", `${spark * 45 + 12}deg`);
      element.addEventListener("animationend", () => element.remove());
      heart.append(element);
    }
  }

  #play() {
    if (this.#playing) return;
    this.#playing = true;
    replay(this.element, "playing");
    setTimeout(() => {
      this.#playing = false;
      this.element.classList.remove("playing");
      this.#do("video:view", "views", { watchedMs: WATCH_MS });
    }, WATCH_MS);
  }

  async #do(event, kind, extra = {}) {
    const ack = await this.act(event, { videoId: this.video.videoId, ...extra });
    if (ack.ok) this.showTotals({ [kind]: ack.data.total });
    this.#remark(remarkOn(ack));
    return ack;
  }

  #remark(text) {
    const remark = this.part("remark");
    remark.textContent = text;
    replay(remark, "fresh");
  }
}

function remarkOn({ ok, data, error }) {
  if (!ok) return error.message || error.code;
  if (data.award) return `+${money.format(data.award.points)} LYK`;
  return REASONS[data.reason] ?? "Counted";
}

// --- one phone -------------------------------------------------------------------------------------------------

export class Phone {
  #unread = 0;
  #lastWalletSeq = 0;
  #cards = new Map();

  constructor(user, { demo, tour, wire, figures }) {
    const { element, part } = stamp("phone");
    Object.assign(this, { user, demo, tour, figures, element, part });
    this.balance = new Balance(part("balance"), part("spoken-balance"), part("gains"));
    this.client = new ApplauseClient({
      url: location.origin,
      getToken: (need) => demo.token(user.userId, need),
      deviceId: `console-${newActionId()}`,
    });
    this.#furnish();
    this.#fillFeed();
    this.#listen(wire.column(user.name));
    this.open(user.role === "creator" ? "activity" : "feed");
  }

  /** Shows one of the two panes. */
  open(pane) {
    this.pane = pane;
    for (const each of this.element.querySelectorAll("[data-pane]")) each.hidden = each.dataset.pane !== pane;
    for (const tab of this.element.querySelectorAll("[data-tab]")) {
      tab.setAttribute("aria-current", String(tab.dataset.tab === pane));
    }
    if (pane === "activity") this.#countUnread(0);
  }

  #furnish() {
    const { user, element, part } = this;
    element.dataset.phone = user.role;
    element.setAttribute("aria-label", `${user.name}’s phone`);
    part("name").textContent = user.name;
    part("role").textContent = ROLES[user.role] ?? user.role;
    part("face").textContent = user.name[0];
    part("switch").setAttribute("aria-label", `${user.name}’s network`);
    part("switch").addEventListener("click", () => this.#switch());
    for (const tab of element.querySelectorAll("[data-tab]")) {
      tab.addEventListener("click", () => this.open(tab.dataset.tab));
    }
    const tick = () => { part("clock").textContent = clock.format(); };
    tick();
    setInterval(tick, 10_000);
  }

  #fillFeed() {
    const feed = this.element.querySelector('[data-pane="feed"]');
    this.demo.videos.forEach((video, index) => {
      const owner = video.ownerId === this.user.userId ? "by you" : `by ${this.demo.nameOf(video.ownerId)}`;
      const scene = SCENES[index % SCENES.length];
      const card = new VideoCard(video, { owner, scene, act: (...deed) => this.#act(...deed) });
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
    client.on("outbox", (waiting) => this.#showOutbox(waiting));
    client.on("closing", ({ message, code }) => this.#say(message || code));
    client.on("refused", ({ message, code }) => this.#say(message || code));
    client.on("frame", (frame) => column.add(frame));
  }

  async #act(event, payload) {
    const start = performance.now();
    const online = this.client.state === "online";
    const ack = await this.client.perform(event, payload);
    this.figures.answered(online ? performance.now() - start : null);
    this.tour.saw({ what: "answer", by: this.user.role, event, ack });
    return ack;
  }

  #switch() {
    const online = this.part("switch").getAttribute("aria-checked") !== "true";
    this.part("switch").setAttribute("aria-checked", String(online));
    if (online) this.client.start();
    else this.client.stop();
    this.tour.saw({ what: online ? "back" : "away", by: this.user.role });
  }

  #showState(state) {
    this.element.dataset.state = state;
    this.part("state").textContent = STATES[state];
    if (state === "stopped") this.#say("Offline. Taps wait in the outbox.", { stay: true });
  }

  #showOutbox(waiting) {
    if (this.client.state !== "online" && waiting > 0) {
      this.#say(`Offline. ${waiting} ${waiting === 1 ? "tap waits" : "taps wait"} in the outbox.`, { stay: true });
    }
  }

  /** On the first connect, and where the inbox could not bridge the gap, the state is fetched; else it is replayed. */
  #greet({ seq, complete }) {
    if (this.balance.known && complete) return this.#refreshTotals();
    this.#lastWalletSeq = 0;
    this.part("events").replaceChildren();
    this.#load(seq);
  }

  async #load(seq) {
    try {
      const wallet = await this.client.request("wallet:get", {});
      const lyk = wallet.data?.balances.find(({ currency }) => currency === "LYK");
      if (wallet.ok && this.#lastWalletSeq <= seq) this.balance.show(lyk?.balance ?? 0);  // else an event was faster
      if (seq === 0) return;
      const page = await this.client.request("inbox:fetch", { afterSeq: Math.max(0, seq - 20), limit: 20 });
      const old = page.ok ? page.data.events.filter((envelope) => envelope.seq <= seq) : [];
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
    this.#keep(envelope, live);
    if (live) this.#toast(envelope);
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
    const { icon, text, detail, points } = told(envelope, (videoId) => this.demo.titleOf(videoId));
    const { element, part } = stamp("event");
    element.dataset.icon = icon;
    element.dataset.seq = envelope.seq;
    element.querySelector("use").setAttribute("href", `#icon-${icon}`);
    part("text").textContent = text;
    part("detail").textContent = [detail, clock.format(new Date(envelope.timestamp))].filter(Boolean).join(" · ");
    if (points !== undefined) part("points").textContent = signed(points);
    return element;
  }

  #toast(envelope) {
    if (this.pane === "activity") return;  // the list shows it already
    const { icon, text, points } = told(envelope, (videoId) => this.demo.titleOf(videoId));
    const toast = spawn("p", "toast", text);
    toast.dataset.icon = icon;
    if (points !== undefined) toast.append(spawn("strong", "", signed(points)));
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
