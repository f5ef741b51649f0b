// What the Node peers share: a Socket.IO 4 server tuned as its documentation advises, and who a token speaks for.
//
// https://socket.io/docs/v4/performance-tuning/ and /docs/v4/memory-usage/: WebSocket only, no compression, the native
// bufferutil where it is installed (WS_NO_BUFFER_UTIL=1 leaves it out), the first HTTP request not kept in memory.

import { createHmac, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";

/** `require` from where npm has put the packages: these programs may be installed elsewhere. */
export const packages = createRequire(process.env.PEER_PACKAGES ?? import.meta.url);

/** An HTTP server, which `answer` serves, with Socket.IO on it. */
export function open(answer) {
  const { Server } = packages("socket.io");
  const http = createServer(answer);
  const io = new Server(http, { transports: ["websocket"], perMessageDeflate: false, serveClient: false });
  io.engine.on("connection", (raw) => { raw.request = null; });
  return { http, io };
}

/** Listen on a free port of the loopback and say where, in the words that the load test waits for. */
export function listen(http, name) {
  // Node's own default of 511 would turn a storm of connects into retries of one second.
  const backlog = Number(readFileSync("/proc/sys/net/core/somaxconn", "utf8"));
  http.listen({ host: "127.0.0.1", port: 0, backlog }, () => {
    console.log(`${name} is ready at http://127.0.0.1:${http.address().port}`);
  });
}

/** The JSON of a request's body. */
export async function readJson(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return JSON.parse(Buffer.concat(chunks).toString());
}

/** The user whom an HS256 token speaks for; throws Error(code) where it speaks for nobody. */
export function userOf(token, secret) {
  if (!token) throw new Error("token_missing");
  const [head, claims, signature] = String(token).split(".");
  const expected = createHmac("sha256", secret).update(`${head}.${claims}`).digest();
  const given = Buffer.from(signature ?? "", "base64url");
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) throw new Error("token_invalid");
  if (read(head).alg !== "HS256") throw new Error("token_invalid");
  const { sub, exp } = read(claims);
  if (!(exp * 1000 > Date.now())) throw new Error("token_expired");
  return Number(sub);
}

function read(part) {
  return JSON.parse(Buffer.from(part, "base64url").toString());
}
