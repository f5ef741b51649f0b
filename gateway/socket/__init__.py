"""Door 1: Socket.IO 5 over Engine.IO 4 over WebSocket, the server's side, for any official client without polling.

frames.py and packets.py are pure (bytes in, values out), wheel.py is the one clock of all time-outs, connection.py the
thin shell around them, door.py the HTTP handshake that lets a connection in. None of them knows the product: that is
the `SocketApp` which they call. What they promise:

- whatever a peer sends, its app hears `on_lost` once and within a second of the end
- all writes of one turn of the event loop leave in one write per connection
- what waits for a slow peer is bounded in bytes and in age; then it is cut off
"""
