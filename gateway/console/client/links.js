/**
 * The two ways onto the wire. A link is one connection: it says what it hears to the `ears` it was given (event, refused,
 * dismissed, lost, frame), until it is closed.
 */

const SILENCE_MS = 10_000;         // until the server has said how often it pings

/** Engine.IO 4 and Socket.IO 5 over a WebSocket, as far as events and acks of the default namespace need them. */
export class OwnLink {
  heardAt = 0;
  #socket; #ears; #auth;
  #acks = new Map();
  #nextId = 0;
  #silence = null;              // timer: the server owes us a packet by then
  #patienceMs = SILENCE_MS;

  constructor(WebSocket, url, auth, ears) {
    this.#auth = auth;
    this.#ears = ears;
    this.#socket = new WebSocket(`${url.replace(/^http/, "ws").replace(/\/$/, "")}/socket.io/?EIO=4&transport=websocket`);
    this.#socket.onmessage = ({ data }) => this.#hear(String(data));
    this.#socket.onclose = () => ears.lost();
    this.#socket.onerror = () => {};  // `close` follows
  }

  emit(event, payload, onAck) {
    const id = this.#nextId++;
    this.#acks.set(id, onAck);
    this.#send(`42${id}${JSON.stringify([event, payload])}`);
  }

  close() {
    clearTimeout(this.#silence);
    this.#send("41");
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
  }

  #hear(text) {
    this.heardAt = Date.now();
    this.#ears.frame("in", text);
    try {
      this.#packet(text[0], text);
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      return this.#ears.lost();  // not the protocol: something else has answered
    }
    clearTimeout(this.#silence);
    if (this.#socket.onmessage) this.#silence = setTimeout(() => this.#ears.lost(), this.#patienceMs);
  }

  #packet(type, text) {
    switch (type) {
      case "0": return this.#open(JSON.parse(text.slice(1)));
      case "1": return this.#ears.lost();
      case "2": return this.#send("3");
      case "4": return this.#message(text[1], text.slice(2));
    }
  }

  #open({ pingInterval, pingTimeout }) {
    this.#patienceMs = pingInterval + pingTimeout;
    this.#send(`40${JSON.stringify(this.#auth)}`);
  }

  #message(type, rest) {
    switch (type) {
      case "1": return this.#ears.dismissed();
      case "2": return this.#ears.event(...JSON.parse(rest));
      case "3": return this.#answered(rest);
      case "4": return this.#ears.refused(JSON.parse(rest));
    }
  }

  #answered(rest) {
    const [, id, body] = /^(\d+)(.*)$/s.exec(rest);
    const onAck = this.#acks.get(Number(id));
    this.#acks.delete(Number(id));
    onAck?.(JSON.parse(body)[0]);
  }

  #send(text) {
    if (this.#socket.readyState !== 1) return;
    this.#ears.frame("out", text);
    this.#socket.send(text);
  }
}

/** A socket of the official client. When to connect, and with what, is the client's business in both cases. */
export class OfficialLink {
  heardAt = 0;
  #socket; #listeners;

  constructor(socket, auth, ears) {
    const heard = () => { this.heardAt = Date.now(); };
    this.#socket = socket;
    this.#listeners = [
      [socket, "disconnect", (reason) => (reason === "io server disconnect" ? ears.dismissed() : ears.lost())],
      [socket, "connect_error", (error) => (socket.active ? ears.lost() : ears.refused(error))],
      [socket.io, "packet", heard],
      [socket.io, "ping", heard],
    ];
    this.onAny = (name, body) => ears.event(name, body);
    socket.io.reconnection(false);
    socket.disconnect();  // whatever it did before, it did without our auth
    socket.sendBuffer = [];
    socket.auth = auth;
    for (const [emitter, name, listener] of this.#listeners) emitter.on(name, listener);
    socket.onAny(this.onAny);
    socket.connect();
  }

  emit(event, payload, onAck) {
    this.#socket.emit(event, payload, onAck);
  }

  close() {
    for (const [emitter, name, listener] of this.#listeners) emitter.off(name, listener);
    this.#socket.offAny(this.onAny);
    this.#socket.disconnect();
  }
}
