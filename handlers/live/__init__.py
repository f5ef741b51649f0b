"""Live topics: events of backends that go to whoever listens now, and are kept by nobody.

Invariants
- A (source, id) is sent at most once; the same again answers the same, another body is refused.
- It is sent after its key is committed: a crash in between loses it, as it would lose a listener.
"""
