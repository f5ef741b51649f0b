"""Push: who has no connection is told by their phone's provider, of what they have not seen.

Invariants
- Nothing is pushed twice to a device: how far it has been told is committed before the provider is called. A crash
  loses what was in flight at most, and nothing else: who is due stands in the database, entered with the events.
- Nobody is told of what they have seen meanwhile: what the device has confirmed, notifications that were seen, messages
  that were read, on whichever device. Live is arrived; where the connected device confirms, what it has confirmed is.
- A device is as good as the token that it was registered with. No provider holds anybody else up.
"""
