// Node's Socket.IO 4: acks, a room, and nothing else. No tokens, no database; the twin of stock.py.

import { listen, open, readJson } from "./node_common.mjs";

const { http, io } = open(async (request, response) => {
  if (request.method !== "POST" || request.url !== "/v1/events") return response.writeHead(404).end();
  publish(await readJson(request));
  const answer = '{"accepted":0,"skipped":0}';
  response.writeHead(200, { "Content-Type": "application/json", "Content-Length": answer.length }).end(answer);
});

function publish({ id, type, topic, data }) {
  io.to(topic).emit("notification", {
    id,
    seq: null,
    type,
    eventType: `notification:${type}`,
    recipientIds: [],
    data,
    timestamp: "2026-01-01T00:00:00.000Z",
  });
}

io.on("connection", (socket) => {
  socket.on("topic:subscribe", ({ topic }, ack) => {
    socket.join(topic);
    ack({ ok: true, data: { topic } });
  });
  socket.on("topic:unsubscribe", ({ topic }, ack) => ack({ ok: true, data: { topic } }));
});

listen(http, "Node's Socket.IO");
