"""Events of backends: for users, in whose inboxes they are stored, or to whoever listens to a live topic now.

Invariants
- A (source, id) is taken once; the same again answers the same, another body is refused.
- Each recipient who was known when it was taken gets a durable event once, under their own `seq`, at once or by the
  applier, whichever node dies meanwhile; its body is stored once.
- An ephemeral event is sent after its key is committed: a crash in between loses it, as it would lose a listener.
- Money and chats are told of by Applause alone: no backend's event looks like one of those.
"""
