/** The other one on stage: to follow, and to send a gift to. */

import { replay, stamp } from "./dom.js";
import { money } from "./format.js";

export class PersonCard {
  constructor(person, { act }) {
    const { element, part } = stamp("person");
    Object.assign(this, { person, element, part, act });
    element.dataset.person = person.userId;
    element.dataset.role = person.role;
    part("person-face").textContent = person.name[0];
    part("person-name").textContent = person.name;
    part("amount").setAttribute("aria-label", `LYK for ${person.name}`);
    part("follow").addEventListener("click", () => this.#toggleFollow());
    part("gift").addEventListener("submit", (event) => this.#give(event));
    this.#press(false);
  }

  /** What has been done to this person and has no answer yet. */
  showWaiting(actions) {
    for (const { event } of actions) if (event.startsWith("profile:")) this.#press(event === "profile:follow");
  }

  /** The answer to something done to this person. */
  answered(event, payload, { ok, data, error }) {
    const follows = event === "profile:follow";
    if (event !== "wallet:gift") this.#press(ok === follows);
    if (!ok) this.#remark(error.message || error.code);
    else if (event === "wallet:gift") this.#remark(`${money.format(payload.amount)} LYK sent`);
    else if (data.already) this.#remark("Nothing to change");
    else this.#remark(follows ? "Following" : "Not following any more");
  }

  #toggleFollow() {
    const follows = this.part("follow").getAttribute("aria-pressed") !== "true";
    this.#press(follows);
    this.act(follows ? "profile:follow" : "profile:unfollow", { userId: this.person.userId });
  }

  #press(follows) {
    const button = this.part("follow");
    button.setAttribute("aria-pressed", String(follows));
    button.textContent = follows ? "Following" : "Follow";
    button.setAttribute("aria-label", `Follow ${this.person.name}`);
  }

  #give(event) {
    event.preventDefault();
    const amount = Number(this.part("amount").value);
    if (amount > 0) this.act("wallet:gift", { toUserId: this.person.userId, amount });
  }

  #remark(text) {
    const remark = this.part("person-remark");
    remark.textContent = text;
    replay(remark, "fresh");
  }
}
