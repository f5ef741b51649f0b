// The official socket.io-client, driven line by line: commands come in as JSON on stdin, and whatever the client
// experiences goes out as JSON on stdout, in the order in which it happens.
//
// in:  {do: "open", at, url, auth, follow, options}   at: the socket's name; follow: keep lastSeq and epoch as apps do
//      {do: "auth", at, auth}                         what the next CONNECT sends
//      {do: "emit", at, event, args, id?}             with id: asks for an acknowledgement
//      {do: "close", at}
// out: {at, name, args} for events and the client's own connect, disconnect, connect_error; {at, id, answer} for acks
import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const places = new Map();

const tell = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

// What spec 2 asks of an app: remember where its inbox stands, and in which history.
function follow(place, name, body) {
  if (name === "welcome") {
    if (body.epoch !== place.epoch || !body.complete) place.lastSeq = body.seq;
    place.lastSeq ??= body.seq;
    place.epoch = body.epoch;
  } else if (name === "notification" && body.seq !== null) {
    place.lastSeq = body.seq;
  }
}

function position({ lastSeq, epoch }) {
  return lastSeq === undefined ? {} : { lastSeq: String(lastSeq), epoch };
}

const deeds = {
  open({ at, url, auth, follow: follows, options }) {
    const place = { auth };
    const socket = io(url, {
      transports: ["websocket"],
      forceNew: true,
      reconnectionDelay: 50,
      reconnectionDelayMax: 250,
      ...options,
      auth: (send) => send({ ...place.auth, ...(follows ? position(place) : {}) }),
    });
    place.socket = socket;
    places.set(at, place);
    socket.on("connect", () => tell({ at, name: "connect", args: [] }));
    socket.on("disconnect", (reason) => tell({ at, name: "disconnect", args: [reason] }));
    socket.on("connect_error", (error) =>
      tell({ at, name: "connect_error", args: [{ message: error.message, data: error.data ?? null }] }),
    );
    socket.onAny((name, ...args) => {
      follow(place, name, args[0]);
      tell({ at, name, args });
    });
  },
  auth({ at, auth }) {
    places.get(at).auth = auth;
  },
  emit({ at, event, args, id }) {
    const { socket } = places.get(at);
    if (id === undefined) socket.emit(event, ...args);
    else socket.emit(event, ...args, (answer) => tell({ at, id, answer }));
  },
  close({ at }) {
    places.get(at).socket.close();
  },
};

createInterface({ input: process.stdin })
  .on("line", (line) => {
    const command = JSON.parse(line);
    deeds[command.do](command);
  })
  .on("close", () => process.exit(0));
