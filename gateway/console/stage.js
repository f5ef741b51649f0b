/**
 * The demo page: two phones side by side, each with a connection of its own, and the wire below them.
 */

import { byId, spawn, stamp } from "./dom.js";
import { Phone } from "./phone.js";

const FRAMES_KEPT = 30;
const UNPROMPTED = new Set(["video_like", "video_share", "video_comment", "profile_followed", "points_earned"]);

const count = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** The steps to try, which tick themselves off when the page has seen them happen. */
class Tour {
  #done = new Set(JSON.parse(sessionStorage.getItem("demo:done")));
  #away = false;
  #written = false;

  constructor(list, { viewer, creator }) {
    this.steps = [
      ["like", `Like a video on ${viewer}’s phone`, "The heart, the points and the answer: one transaction, one ack."],
      ["hear", `${creator} hears of it`, "The event was stored before the ack left. The push is only a hint."],
      ["offline", `Switch ${creator} off, then like or share more`, "The inbox goes on alone."],
      ["back", `Switch ${creator} back on`, "All that was missed arrives, in order, once."],
      ["once", "Unlike and like again", "It counts again. It never pays twice."],
      ["outbox", `Switch ${viewer} off, tap, reload, switch back on`, "Taps wait in an outbox. Each is paid once."],
      ["message", `Write to ${creator} in Messages`, "One tick: stored. Two: read."],
    ];
    this.items = new Map(this.steps.map(([key, title, why]) => [key, this.#item(list, title, why)]));
    for (const key of this.#done) this.items.get(key)?.classList.add("done");
    this.#point();
  }

  saw({ what, by, event, ack, waited, type, live }) {
    const creator = by === "creator";
    if (what === "away" && creator) this.#away = true;
    if (what === "back" && creator) this.#away = false;
    if (what === "answer" && !creator && ack.ok) {
      if (waited) this.#tick("outbox");
      if (event === "video:like") this.#tick("like");
      if (event === "message:send") this.#written = true;
      if (event === "video:like" && ack.data.reason === "already_paid") this.#tick("once");
      if (this.#away && event !== "video:unlike") this.#tick("offline");
    }
    if (what === "notification" && creator && live && UNPROMPTED.has(type)) this.#tick("hear");
    if (what === "caught-up" && creator) this.#tick("back");
    if (what === "notification" && !creator && type === "message_read" && this.#written) this.#tick("message");
  }

  #item(list, title, why) {
    const item = document.createElement("li");
    item.append(spawn("strong", "", title), spawn("span", "", why));
    list.append(item);
    return item;
  }

  #tick(key) {
    if (this.#done.has(key)) return;
    this.#done.add(key);
    sessionStorage.setItem("demo:done", JSON.stringify([...this.#done]));
    this.items.get(key).classList.add("done");
    this.#point();
  }

  #point() {
    const next = this.steps.find(([key]) => !this.#done.has(key))?.[0];
    for (const [key, item] of this.items) {
      if (key === next) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
    }
  }
}

/** The three numbers below the steps. */
class Figures {
  #answered = 0;
  #delivered = 0;

  /** @param {number | null} ms  round trip in this browser; null where the action waited in the outbox */
  answered(ms) {
    byId("answered").textContent = count.format(++this.#answered);
    if (ms !== null) byId("latency").textContent = ms < 10 ? ms.toFixed(1) : ms.toFixed(0);
  }

  delivered() {
    byId("delivered").textContent = count.format(++this.#delivered);
  }
}

/** What travels, a column per phone, the newest line on top. */
class Wire {
  constructor(place) {
    this.place = place;
  }

  column(name) {
    const { element } = stamp("wire-column");
    element.querySelector("h3").textContent = name;
    this.place.append(element);
    const list = element.querySelector("ol");
    return { add: (frame) => this.#add(list, frame) };
  }

  #add(list, { direction, text }) {
    const line = spawn("button", "frame");
    line.type = "button";
    line.setAttribute("aria-expanded", "false");
    line.addEventListener("click", () => {
      line.setAttribute("aria-expanded", String(line.getAttribute("aria-expanded") !== "true"));
    });
    line.append(
      spawn("span", `way ${direction}`, direction === "out" ? "↑ sent" : "↓ got"),
      spawn("span", "kind", kindOf(text)),
      spawn("code", "", text),
    );
    const item = spawn("li", /^[23]$/.test(text) ? "quiet" : "");
    item.append(line);
    list.prepend(item);
    while (list.childElementCount > FRAMES_KEPT) list.lastElementChild.remove();
  }
}

function kindOf(text) {
  const fact = /^42\["notification",.*?"seq":(\d+|null),"type":"([^"]+)"/.exec(text);
  if (fact) return fact[1] === "null" ? fact[2] : `${fact[2]} #${fact[1]}`;
  const event = /^42\d*\["([^"]+)"/.exec(text);
  if (event) return event[1];
  const kinds = { 0: "open", 1: "close", 2: "ping", 3: "pong", 40: "connect", 41: "disconnect", 43: "ack", 44: "refused" };
  return kinds[text.slice(0, 2)] ?? kinds[text[0]] ?? "packet";
}

/** Who is on stage, and their tokens: the gateway serves them at `/demo.json` in demo mode only. */
class Demo {
  static async fetch() {
    const answer = await fetch("demo.json", { cache: "no-store" });
    if (!answer.ok) throw new Error(`demo.json: ${answer.status}`);
    return new Demo(await answer.json());
  }

  constructor({ phones, people, videos }) {
    Object.assign(this, { phones, people, videos });
  }

  nameOf(userId) {
    return this.#find(userId)?.name ?? `user ${userId}`;
  }

  roleOf(userId) {
    return this.#find(userId)?.role ?? "stranger";
  }

  titleOf(videoId) {
    return this.videos.find((video) => video.videoId === videoId)?.title ?? videoId;
  }

  async token(userId, { fresh }) {
    if (fresh) this.phones = (await Demo.fetch()).phones;
    return this.phones.find((phone) => phone.userId === userId).token;
  }

  /** HTTP as this user: GET, or POST where there is a `body`. A token that has run out is renewed, once. */
  async request(userId, path, body) {
    const method = body === undefined ? "GET" : "POST";
    let answer;
    for (const fresh of [false, true]) {
      const headers = { authorization: `Bearer ${await this.token(userId, { fresh })}`, "content-type": "application/json" };
      answer = await fetch(path, { method, headers, body: JSON.stringify(body) });
      if (answer.status !== 401) break;
    }
    if (!answer.ok) throw new Error((await answer.json()).detail ?? answer.statusText);
    return { data: await answer.json(), seq: Number(answer.headers.get("x-inbox-seq")) };
  }

  #find(userId) {
    return this.people.find((person) => person.userId === userId);
  }

  async currentVideos() {
    return (await Demo.fetch().catch(() => this)).videos;
  }
}

async function main() {
  let demo;
  try {
    demo = await Demo.fetch();
  } catch {
    byId("stage").hidden = true;
    byId("trouble").hidden = false;
    byId("trouble").textContent = "There are no phones here: this page comes to life with the command “applause demo”.";
    return;
  }
  const nameOf = (role) => demo.phones.find((phone) => phone.role === role)?.name ?? role;
  const tour = new Tour(byId("tour"), { viewer: nameOf("viewer"), creator: nameOf("creator") });
  const around = { demo, tour, wire: new Wire(byId("wire")), figures: new Figures() };
  const phones = demo.phones.map((user) => new Phone(user, around));
  phones.forEach((phone) => byId("stage").append(phone.element));
}

main();
