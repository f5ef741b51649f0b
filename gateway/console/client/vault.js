/** What a client keeps: its outbox and its place in the inbox. */

import { ApplauseError, newActionId } from "./words.js";

const DEVICE_KEY = "applause:deviceId";

/** What survives a reload. With a synchronous storage everything here happens before it returns. */
export class Vault {
  #storage; #user;
  #me = newActionId();
  #writing = null;              // promise of an asynchronous storage: writes keep their order

  constructor(storage, user, deviceId) {
    this.#storage = storage;
    this.#user = user;
    this.deviceId = deviceId;
  }

  /** Makes this client the one that writes here; what was kept, or null where it was that one already. */
  claim() {
    return run(this.#claim());
  }

  /** Whether it still is that one. */
  async isOurs() {
    return (await this.#storage.getItem(this.#key("owner"))) === this.#me;
  }

  /** Rejects or throws `replaced` where it isn't, and whatever the storage does. */
  save(name, value) {
    const text = JSON.stringify(value);
    return this.#inTurn(() => run(this.#save(name, text)));
  }

  clear() {
    return this.#inTurn(() => run(this.#clear()));
  }

  *#claim() {
    this.deviceId ??= yield this.#storage.getItem(DEVICE_KEY);
    if (!this.deviceId) yield this.#storage.setItem(DEVICE_KEY, (this.deviceId = newActionId()));
    if ((yield this.#storage.getItem(this.#key("owner"))) === this.#me) return null;
    yield this.#storage.setItem(this.#key("owner"), this.#me);
    const place = yield this.#storage.getItem(this.#key("place"));
    const outbox = yield this.#storage.getItem(this.#key("outbox"));
    return { place: JSON.parse(place ?? null), outbox: JSON.parse(outbox ?? null) };
  }

  *#save(name, text) {
    if ((yield this.#storage.getItem(this.#key("owner"))) !== this.#me) throw new ApplauseError({ code: "replaced" });
    yield this.#storage.setItem(this.#key(name), text);
  }

  *#clear() {
    for (const name of ["owner", "place", "outbox"]) yield this.#storage.removeItem(this.#key(name));
  }

  #key(name) {
    return `applause:${this.#user ?? ""}:${this.deviceId}:${name}`;
  }

  #inTurn(write) {
    const done = this.#writing ? this.#writing.then(write) : write();
    if (!done) return null;
    const over = () => { if (this.#writing === turn) this.#writing = null; };
    const turn = done.then(over, over);
    this.#writing = turn;
    return done;
  }
}

/** Runs a generator that yields results of a storage: without a pause where they are no promises. */
function run(steps, given) {
  const { done, value } = steps.next(given);
  if (typeof value?.then === "function") return value.then((result) => (done ? result : run(steps, result)));
  return done ? value : run(steps, value);
}

/** The platform's storage, or one that ends with this page. */
export function localStore() {
  try {
    if (globalThis.localStorage?.getItem) return globalThis.localStorage;
  } catch {
    // forbidden, as in a sandboxed frame
  }
  const map = new Map();
  return {
    getItem: (key) => map.get(key) ?? null,
    setItem: (key, text) => void map.set(key, text),
    removeItem: (key) => void map.delete(key),
  };
}
