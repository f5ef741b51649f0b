/** One video of the feed: its picture, its buttons, its totals, its comments. */

import { spawn, stamp, replay } from "./dom.js";
import { calm, clock, count } from "./format.js";
import { remarkOn } from "./told.js";

const WATCH_MS = 1_600;
const KINDS = {
  "video:like": "likes",
  "video:unlike": "likes",
  "video:view": "views",
  "video:share": "shares",
  "video:comment": "comments",
};

export class VideoCard {
  #playing = false;

  /** `act(event, payload)` carries something out; `readComments(videoId)` fetches them, null where that can't be now. */
  constructor(video, { owner, scene, act, readComments }) {
    const { element, part } = stamp("video");
    Object.assign(this, { video, element, part, act, readComments });
    element.dataset.video = video.videoId;
    element.querySelector(".art").classList.add(scene);
    part("title").textContent = video.title;
    part("owner").textContent = owner;
    part("view").setAttribute("aria-label", `Play ${video.title}`);
    part("like").addEventListener("click", () => this.#toggleLike());
    part("view").addEventListener("click", () => this.#play());
    part("share").addEventListener("click", () => this.#do("video:share", { channel: "demo" }));
    part("comment").addEventListener("click", () => this.#toggleComments());
    part("comment-form").addEventListener("submit", (event) => this.#comment(event));
    this.showTotals(video);
  }

  showTotals(totals) {
    for (const kind of ["likes", "views", "shares", "comments"]) {
      if (totals[kind] !== undefined) this.part(kind).textContent = count.format(totals[kind]);
    }
    const { title } = this.video;
    const read = (kind) => this.part(kind).textContent;
    this.part("like").setAttribute("aria-label", `Like ${title}, ${read("likes")} likes`);
    this.part("share").setAttribute("aria-label", `Share ${title}, ${read("shares")} shares`);
    this.part("comment").setAttribute("aria-label", `Comments on ${title}, ${read("comments")}`);
  }

  /** What has been done to this video and has no answer yet. */
  showWaiting(actions) {
    for (const { event } of actions) {
      if (event.endsWith("like")) this.#press(event === "video:like");
    }
    const comments = actions.filter(({ event }) => event === "video:comment");
    const rows = comments.map(({ payload }) => this.#row("You", payload.text, "waiting"));
    this.part("waiting-comments").replaceChildren(...rows);
  }

  /** The answer to something done to this video. */
  answered(event, ack) {
    if (ack.ok) this.showTotals({ [KINDS[event]]: ack.data.total });
    else if (event.endsWith("like")) this.#press(event !== "video:like");
    if (event === "video:comment" && ack.ok) this.refreshComments();
    this.#remark(remarkOn(ack));
  }

  async refreshComments() {
    if (this.part("comments-pane").hidden) return;
    const comments = await this.readComments(this.video.videoId);
    if (!comments) return;
    this.part("comment-list").replaceChildren(
      ...comments.map(({ username, text, timestamp }) => this.#row(username, text, clock.format(new Date(timestamp)))),
    );
  }

  #row(who, text, when) {
    const row = spawn("li", when === "waiting" ? "comment pending" : "comment");
    row.append(spawn("strong", "", who), spawn("span", "", text), spawn("small", "", when));
    return row;
  }

  #press(liked) {
    this.part("like").setAttribute("aria-pressed", String(liked));
  }

  #toggleLike() {
    const heart = this.part("like");
    const liked = heart.getAttribute("aria-pressed") !== "true";
    this.#press(liked);
    if (liked) this.#burst(heart);
    this.#do(liked ? "video:like" : "video:unlike");
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
      this.#do("video:view", { watchedMs: WATCH_MS });
    }, WATCH_MS);
  }

  #toggleComments() {
    const pane = this.part("comments-pane");
    pane.hidden = !pane.hidden;
    this.part("comment").setAttribute("aria-expanded", String(!pane.hidden));
    this.refreshComments();
  }

  #comment(event) {
    event.preventDefault();
    const text = this.part("comment-text").value.trim();
    if (!text) return;
    this.part("comment-text").value = "";
    this.#do("video:comment", { text });
  }

  #do(event, extra = {}) {
    this.act(event, { videoId: this.video.videoId, ...extra });
  }

  #remark(text) {
    const remark = this.part("remark");
    remark.textContent = text;
    replay(remark, "fresh");
  }
}
