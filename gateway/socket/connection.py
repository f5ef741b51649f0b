"""One socket: frames and packets on one side, the app on the other, time-outs and a bounded send queue between.

Everything runs on the event loop's thread; nothing here awaits. A connection goes through these phases:

    OPENED   the handshake is done; CONNECT must come within `connect_timeout_s`
    ASKED    `on_connect` was called; the app will `accept` or `refuse`
    LIVE     events go up and down
    CLOSING  the end has begun: nothing more is taken from the peer or the app; over in `CLOSE_S`
    LOST     the transport is gone
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from gateway.socket import frames, packets
from gateway.socket.closing import ENDINGS, closing_body
from gateway.socket.hall import Hall, new_sid

if TYPE_CHECKING:
    import msgspec

log = logging.getLogger(__name__)

OPENED, ASKED, LIVE, CLOSING, LOST = range(5)

CLOSE_S: Final = 0.7  # so long may a peer take to answer our close frame; with the wheel's tick below a second

NORMAL_CLOSURE: Final = 1000
GOING_AWAY: Final = 1001
INTERNAL_ERROR: Final = 1011


def event_frame(name: str, body: bytes) -> bytes:
    """The WebSocket frame of EVENT `name` with one argument in JSON; encoded once, it serves any number of readers."""
    return frames.text_frame(packets.event_packet(name, body))


class Connection(asyncio.Protocol):
    """One client's socket, from the answer 101 to the end of the transport.

    `session` is the app's own slot. `congested` is true while the transport takes nothing more, and from the end on.
    """

    __slots__ = (
        "_bearer",
        "_hall",
        "_out",
        "_parser",
        "_paused",
        "_phase",
        "_pinged",
        "_queued",
        "_transport",
        "address",
        "congested",
        "session",
        "tick",
    )

    _transport: asyncio.Transport

    def __init__(self, hall: Hall, address: str, bearer: str | None = None) -> None:
        self._hall = hall
        self._bearer = bearer
        self._parser = frames.FrameParser(hall.limits.max_message_bytes)
        self._phase = OPENED
        self._pinged = False  # a ping is unanswered
        self._paused = False  # the transport's buffer is full
        self._out: list[bytes] | None = None  # frames that wait for the turn's end, or for the peer to read
        self._queued = 0  # their bytes
        self.tick = 0  # the wheel's
        self.session: Any = None
        self.address = address
        self.congested = False

    @property
    def phase(self) -> int:
        """OPENED to LOST."""
        return self._phase

    # -- what the app calls ------------------------------------------------------------------------------------------

    def take_bearer(self) -> str | None:
        """The token of the handshake's `Authorization` header, once; it is forgotten when `on_connect` returns."""
        bearer, self._bearer = self._bearer, None
        return bearer

    def accept(self, first_frames: bytes = b"") -> None:
        """Answer CONNECT; `first_frames` follow it in the same write. Ignored where the peer has left already."""
        if self._phase != ASKED:
            return
        self._phase = LIVE
        self._hall.counts.connects["accepted"] += 1
        self.write(frames.text_frame(packets.connect_packet(new_sid())) + first_frames)

    def refuse(self, error: bytes, reason: str = "refused") -> None:
        """Answer CONNECT with CONNECT_ERROR (`error`: a JSON object with `message`) and end. `reason` is counted."""
        if self._phase == ASKED:
            self.write(frames.text_frame(packets.connect_error_packet(error)))
            self.end(closing=None, disconnect=False, code=packets.POLICY_VIOLATION, reason=reason)

    def write(self, frame: bytes) -> None:
        """Queue a finished WebSocket frame (or several). Ignored from the end on."""
        if self._phase >= CLOSING:
            return
        if self._out is None:
            self._begin_queue(frame)
            return
        self._out.append(frame)
        self._queued += len(frame)
        if self._queued > self._hall.flush_bytes:
            self._relieve()

    def ack(self, ack_id: int, body: bytes) -> None:
        """Answer an event that asked for it with one argument in JSON."""
        self.write(frames.text_frame(packets.ack_packet(ack_id, body)))

    def end(self, *, closing: bytes | None, disconnect: bool, code: int | None, reason: str = "other") -> None:
        """End the connection: the frame of an event `closing`, a DISCONNECT packet (official clients then stay away),
        and a WebSocket close frame with `code`. The first two are for a client that was accepted. `reason` is counted,
        so there must be few."""
        if self._phase >= CLOSING:
            return
        last = frames.close_frame(code)
        if self._phase == LIVE:
            if disconnect:
                last = frames.text_frame(packets.DISCONNECT_PACKET) + last
            last = (closing or b"") + last
        self._shut(reason)
        self._out = [*(self._out or ()), last]
        if not self._paused:
            self._hall.flusher.add(self)

    def drop(self, reason: str = "unavailable") -> None:
        """End without a Socket.IO packet: official clients then reconnect by themselves."""
        self.end(closing=None, disconnect=False, code=GOING_AWAY, reason=reason)

    # -- sending -----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Hand all queued frames to the transport in one write; while that is full they stay here."""
        if self._out is None or self._paused:
            return
        out, self._out = self._out, None
        self._queued = 0
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self._paused and self._phase < CLOSING:
            self._check_backlog()

    def _begin_queue(self, frame: bytes) -> None:
        self._out = [frame]
        self._queued = len(frame)
        if self._paused:
            self._check_backlog()
        else:
            self._hall.flusher.add(self)

    def _relieve(self) -> None:
        if self._paused:
            self._check_backlog()
        else:
            self.flush()

    def _check_backlog(self) -> None:
        backlog = self._queued + self._transport.get_write_buffer_size()
        if backlog > self._hall.limits.send_queue_bytes:
            self._cut_slow_peer()

    def _cut_slow_peer(self) -> None:
        """What waits here is given up at once: the client resumes from what it has read."""
        self._out = None
        self._hall.counts.cuts += 1
        self._end_with("slow_consumer", packets.POLICY_VIOLATION)

    # -- what the event loop calls -----------------------------------------------------------------------------------

    def start(self, transport: asyncio.Transport, http_head: bytes) -> None:
        """Begin on a transport that is ours now; `http_head`, the answer 101, leaves with the Engine.IO handshake."""
        self._transport = transport
        self._hall.enter(self)
        self._hall.wheel.set(self, self._hall.limits.connect_timeout_s)
        transport.write(http_head + self._hall.open_frame())

    def data_received(self, data: bytes) -> None:
        try:
            for item in self._parser.feed(data):
                if type(item) is bytes:
                    self._take_message(item)
                else:
                    self._take_control(item)
        except Exception:  # a fault of ours or the app's: this connection ends, the others don't notice
            log.exception("a connection's handler failed")
            self.end(closing=None, disconnect=False, code=INTERNAL_ERROR, reason="internal")

    def eof_received(self) -> None:
        """The peer has shut its side. The transport sends what it holds and closes itself when this returns."""
        self._shut("transport_lost")
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._shut("transport_lost")
        self._phase = LOST
        self._out = None
        self._hall.wheel.cancel(self)
        self._hall.leave(self)

    def pause_writing(self) -> None:
        self._paused = self.congested = True
        if self._phase in (ASKED, LIVE):
            # No ping meanwhile: it could not get through.
            self._hall.wheel.set(self, self._hall.limits.send_queue_age_s)

    def resume_writing(self) -> None:
        self._paused = False
        if self._phase < CLOSING:
            self.congested = False
        if self._phase in (ASKED, LIVE):
            self._rest()
        self.flush()
        if not self.congested and self._phase in (ASKED, LIVE):
            self._hall.app.on_writable(self)

    def on_due(self) -> None:
        """The wheel: whatever this phase waits for has not come."""
        if self._phase == CLOSING and self._out is not None and not self._paused:
            self.flush()  # the loop has stood still since then, and not even the last words have left
            self._hall.wheel.set(self, CLOSE_S)
        elif self._phase == CLOSING:
            self._transport.abort()
        elif self._phase == OPENED:
            self.end(closing=None, disconnect=False, code=packets.POLICY_VIOLATION, reason="connect_timeout")
        elif self._paused:
            self._cut_slow_peer()
        elif self._pinged:
            self.drop("ping_timeout")
        else:
            self._pinged = True
            self.write(self._hall.ping)
            self._hall.wheel.set(self, self._hall.limits.ping_timeout_s)

    # -- receiving ---------------------------------------------------------------------------------------------------

    def _take_message(self, message: bytes) -> None:
        if self._phase >= CLOSING:
            return
        try:
            packet = packets.decode(message)
        except packets.ProtocolError as error:
            self._end_violation(error.code)
            return
        if isinstance(packet, packets.Event) and self._phase == LIVE:
            self._hall.app.on_event(self, packet.name, packet.args, packet.ack_id)
        else:
            self._take_packet(packet)

    def _take_packet(self, packet: packets.Packet) -> None:
        match packet:
            case packets.Pong():
                if self._pinged and not self._paused:
                    self._rest()
            case packets.Connect(namespace, auth):
                self._take_connect(namespace, auth)
            case packets.MalformedEvent(ack_id, field) if self._phase == LIVE:
                self._hall.app.on_malformed(self, ack_id, field)
            case packets.Leave():
                self.end(closing=None, disconnect=False, code=NORMAL_CLOSURE, reason="client")
            case packets.Nothing():
                pass
            case _:
                self._end_violation(packets.POLICY_VIOLATION)  # an event before CONNECT was answered

    def _take_connect(self, namespace: str, auth: msgspec.Raw | None) -> None:
        if not packets.is_default(namespace):
            self.write(frames.text_frame(packets.invalid_namespace_packet(namespace)))
        elif self._phase != OPENED:
            self._end_violation(packets.POLICY_VIOLATION)  # a second CONNECT could guess tokens
        else:
            self._phase = ASKED
            self._rest()
            self._hall.app.on_connect(self, auth)
            self._bearer = None

    def _take_control(self, item: frames.Item) -> None:
        match item:
            case frames.Ping(payload):
                self.write(frames.pong_frame(payload))
            case frames.Close(code, _):
                self._answer_close(code)
            case frames.Violation(code, _):
                self._end_violation(code)
                self._half_close()

    def _answer_close(self, code: int | None) -> None:
        """Echo the peer's close frame, unless it is the echo of ours; the server's side closes the transport."""
        self.end(closing=None, disconnect=False, code=code, reason="client")
        self._paused = False  # whatever is left goes to the transport now, which sends it before it closes
        self.flush()
        self._transport.close()

    def _end_violation(self, code: int) -> None:
        self._end_with("protocol_error", code)

    def _end_with(self, name: str, code: int) -> None:
        ending = ENDINGS[name]
        body = closing_body(name, ending.message, ending.retryable, None)
        self.end(closing=event_frame("closing", body), disconnect=ending.disconnect, code=code, reason=name)

    def _half_close(self) -> None:
        """After broken frames no close frame can be recognised, so let the peer see the end of the stream instead.
        Closing at once would reset the connection where bytes are unread, and lose what we said last."""
        self.flush()
        if not self._paused and self._transport.can_write_eof():
            self._transport.write_eof()

    # -- time and the end --------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """The peer is alive: leave it alone for a ping interval."""
        self._pinged = False
        self._hall.wheel.set(self, self._hall.limits.ping_interval_s)

    def _shut(self, reason: str) -> None:
        """The end begins: deaf and mute from now on, `on_lost` in the next turn, the transport gone in `CLOSE_S`."""
        if self._phase >= CLOSING:
            return
        (self._hall.counts.closes if self._phase == LIVE else self._hall.counts.connects)[reason] += 1
        if self._phase != OPENED:
            self._hall.loop.call_soon(self._hall.app.on_lost, self)
        self._phase = CLOSING
        self.congested = True
        self._hall.wheel.set(self, CLOSE_S)
