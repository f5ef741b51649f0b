// An app on Applause's reference client, driven line by line like client.mjs. Its first argument is the client's file.
//
// in:  {do: "open", at, tokens, folder, slow, official, options}  tokens: what `token` gives, one after the other (the last
//                                                 one again and again); folder: its storage; slow: an asynchronous one
//      {do: "act" | "ask", at, id, event, payload}
//      {do: "listen", at, name, how}              how: "never" or "fail", what its listener of `name` comes to
//      {do: "tokens", at, tokens}
//      {do: "close" | "reopen" | "forget" | "state", at}
// out: {at, name, args} for the client's events, `token` (asked for one), `disconnect` (not online any more), `uncaught`;
//      {at, id, answer} for acts and asks, as {ok, data | error}
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { io } from "socket.io-client";
import { WebSocket as WebSocketOfWs } from "ws";

const { connect } = await import(process.argv[2]);

const EVENTS = ["state", "welcome", "reload", "notification", "resumed", "outbox", "settled", "closing", "refused"];
const AWAY = ["waiting", "stopped", "refused"];
const places = new Map();

const tell = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** localStorage in a folder, a file per key, which survives even a kill and serves several processes. */
class FolderStorage {
  constructor(folder) {
    this.folder = folder;
    mkdirSync(folder, { recursive: true });
  }

  getItem(key) {
    return existsSync(this.#path(key)) ? readFileSync(this.#path(key), "utf8") : null;
  }

  setItem(key, text) {
    const draft = `${this.#path(key)}.${process.pid}`;
    writeFileSync(draft, text);
    renameSync(draft, this.#path(key));
  }

  removeItem(key) {
    rmSync(this.#path(key), { force: true });
  }

  #path(key) {
    return join(this.folder, encodeURIComponent(key));
  }
}

/** The same as React Native's AsyncStorage has it: later. */
class SlowStorage extends FolderStorage {
  async getItem(key) {
    await later();
    return super.getItem(key);
  }

  async setItem(key, text) {
    await later();
    super.setItem(key, text);
  }

  async removeItem(key) {
    await later();
    super.removeItem(key);
  }
}

const later = () => new Promise((resolve) => setTimeout(resolve, 5));

const deeds = {
  open({ at, tokens, folder, slow, official, options }) {
    const place = { tokens, manners: {} };
    places.set(at, place);
    const token = async ({ fresh }) => {
      tell({ at, name: "token", args: [{ fresh }] });
      return place.tokens.length > 1 ? place.tokens.shift() : place.tokens[0];
    };
    if (official) options.socket = io(options.url, { autoConnect: false, forceNew: true, transports: ["websocket"] });
    if (folder) options.storage = new (slow ? SlowStorage : FolderStorage)(folder);
    const client = connect({ WebSocket: globalThis.WebSocket ?? WebSocketOfWs, ...options, token });
    place.client = client;
    for (const name of EVENTS) {
      client.on(name, (detail) => {
        tell({ at, name, args: [detail] });
        if (AWAY.includes(detail)) tell({ at, name: "disconnect", args: [detail] });
        if (place.manners[name] === "never") return new Promise(() => {});
        if (place.manners[name] === "fail") throw new Error(`${name} failed`);
        return undefined;
      });
    }
  },
  async act({ at, id, event, payload }) {
    tell({ at, id, answer: await answerOf(places.get(at).client.act(event, payload)) });
  },
  async ask({ at, id, event, payload }) {
    tell({ at, id, answer: await answerOf(places.get(at).client.ask(event, payload)) });
  },
  listen({ at, name, how }) {
    places.get(at).manners[name] = how;
  },
  tokens({ at, tokens }) {
    places.get(at).tokens = tokens;
  },
  close({ at }) {
    places.get(at).client.close();
  },
  reopen({ at }) {
    places.get(at).client.open();
  },
  async forget({ at }) {
    await places.get(at).client.forget();
    tell({ at, name: "forgotten", args: [] });
  },
  state({ at }) {
    const { state, lastSeq, epoch, outbox } = places.get(at).client;
    tell({ at, name: "snapshot", args: [{ state, lastSeq, epoch, outbox }] });
  },
};

const answerOf = (promise) =>
  promise.then(
    (data) => ({ ok: true, data }),
    (error) => ({ ok: false, error: { ...error, message: error.message } }),
  );

process.on("uncaughtException", (error) => tell({ at: [...places.keys()].at(-1), name: "uncaught", args: [error.message] }));

createInterface({ input: process.stdin })
  .on("line", (line) => {
    const command = JSON.parse(line);
    deeds[command.do](command);
  })
  .on("close", () => process.exit(0));
